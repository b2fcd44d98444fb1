"""Compiles grammars with llguidance; guides keep answers within grammar and token budget."""

import re
import threading
from collections import OrderedDict
from collections.abc import Iterable
from concurrent.futures import Future
from functools import cached_property, partial

import torch
from llguidance import LLMatcher, LLParserLimits
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from langchain_amulet.exceptions import GrammarError, MaxTokensError, SchemaError
from langchain_amulet.forks import renew_after_fork
from langchain_amulet.structured.endings import Hints, ending_after_draw, shortest_ending
from langchain_amulet.structured.vocabulary import Vocabulary
from langchain_amulet.structured.walk import Walk

# Errors name the cause only, not the schema and the text so far. A row has about 4 items per optional property.
# Fuel bounds the time of compiling to about 0.2 s; published schemas take less than a third of it.
_LIMITS = LLParserLimits(
    max_items_in_row=3000,
    initial_lexer_fuel=100_000,
    max_grammar_size=100_000,
    max_lexer_states=50_000,
    verbose_errors=False,
)
TOO_EXPENSIVE = "it is too large, or its patterns are too complex, to be followed in reasonable time"
"""Begins the reasons of refusals that would not change if a part of the schema were ignored."""
_EXPENSIVE = re.compile(
    r"too big|too large|fuel exhausted|too many (expressions|states|items)|too complex", re.IGNORECASE
)
_CACHE_SIZE = 256  # compiled and refused grammars
_MAX_SUFFIXES = 6  # number of suffixes of the planned ending that are tried before a search for a new one
_MIN_SPARE = 256  # tokens that must be left for a draw to stand although no ending is known after it
_MAX_PAUSE = 64  # tokens between two searches while no ending is known

# "at 2(8): failed to compile JSON schema: REASON", followed by a listing of the grammar's lines.
_COMPILER_MESSAGE = re.compile(
    r"(?:at \d+\(\d+\): )?(?:failed to compile JSON schema: )?(?P<reason>.*?)(?:\n +\d+ \| .*)?", re.DOTALL
)


# The pattern, a line of carets below its wrong part, and what is wrong.
_REGEX_MESSAGE = re.compile(r"regex parse error:\n +(?P<pattern>.*)\n[ ^]*\nerror: (?P<error>.*)")


class Grammar:
    """A compiled grammar, shared by all answers that follow it.

    Args:
        vocabulary: The model's tokens.
        text: The grammar in llguidance's variant of the Lark syntax.

    Raises:
        SchemaError: The grammar is invalid, or one of its JSON schemas is invalid or not supported.
    """

    def __init__(self, vocabulary: Vocabulary, text: str) -> None:
        self._vocabulary = vocabulary
        self._matcher = LLMatcher(vocabulary.tokenizer, text, log_level=0, limits=_LIMITS)
        if self._matcher.is_error():
            raise SchemaError(_reason(self._matcher.get_error()))
        self._hints = Hints(vocabulary, text)
        self._lock = threading.Lock()
        self._found: list[list[int] | None] = []  # the result of the search, once it has been made
        self._failure: str | None = None  # why the search could not go on

    @property
    def shortest(self) -> list[int] | None:
        """Token ids of a short text that satisfies the grammar; `None` if a search of limited length finds none.

        The first use takes the time of the search, up to about half a second.
        """
        with self._lock:
            if not self._found:
                self._found.append(self._search())
        return self._found[0]

    def check_satisfiable(self) -> None:
        """Raise if it is certain that no text satisfies the grammar; and compute `shortest` for later calls.

        Raises:
            SchemaError: A part of each schema contains itself without end, or has no value; or it is too complex.
        """
        if self._hints.is_endless:
            msg = "no text satisfies it: a part of it would contain itself without end, or allows no value"
            raise SchemaError(msg)
        if self.shortest is None and self._failure is not None:
            raise SchemaError(self._failure)

    def _search(self) -> list[int] | None:
        """Return the shortest ending, and note if llguidance gives up on the first tokens."""
        try:
            ending = shortest_ending(self._vocabulary, self._walk(), self._hints)
            self._walk().allowed()
        except GrammarError:
            self._failure = f"{TOO_EXPENSIVE} (llguidance gives up on its first tokens)"
            return None
        return ending

    def start(self, max_tokens: int, *, is_steered: bool = False, written: bytes = b"") -> "GrammarGuide":
        """Create the guide of one answer.

        Args:
            max_tokens: The token budget of the answer.
            is_steered: Whether preferences act within the structure.
            written: The start of the text, if it is written already; control tokens must not be part of it.

        Raises:
            MaxTokensError: `shortest` has more than `max_tokens` tokens.
        """
        ending = self.shortest
        if ending is not None and len(ending) > max_tokens:
            msg = (
                f"The shortest tool call or JSON that was found takes {len(ending)} tokens; the answer may have "
                f"{max_tokens}. Raise max_tokens, shorten the conversation, or use a smaller schema."
            )
            raise MaxTokensError(msg)
        walk = self._walk()
        if written:
            walk.take(self._vocabulary.spelled(written))
            ending = self._after(written, ending, walk)
        return GrammarGuide(self._vocabulary, walk, self._hints, ending, is_steered=is_steered)

    def _after(self, written: bytes, ending: list[int] | None, walk: Walk) -> list[int] | None:
        """Return the rest of an ending after its first bytes; `None` if that does not end the text."""
        rest, num_bytes = list(ending or ()), len(written)
        while rest and num_bytes > 0:
            token = self._vocabulary.token_bytes[rest.pop(0)]
            rest = [*self._vocabulary.spelled(token[num_bytes:]), *rest]
            num_bytes -= len(token)
        return rest if walk.would_end(rest) else None

    def _walk(self) -> Walk:
        return Walk(self._vocabulary, self._matcher.deep_copy())


class GrammarCompiler:
    """Compiles grammars over one model's tokens, and remembers the last 256 of them, with those that are refused.

    Args:
        tokenizer: A fast tokenizer.
        vocab_size: V, the length of a row of logits.
        stop_token_ids: Tokens that end an answer.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerFast, vocab_size: int, stop_token_ids: Iterable[int]) -> None:
        self._make_vocabulary = partial(Vocabulary, tokenizer, vocab_size, frozenset(stop_token_ids))
        self.renew()
        renew_after_fork(self)

    def renew(self) -> None:
        """Forget all grammars: in a forked process, nobody completes those that the parent was compiling."""
        self._results: OrderedDict[str, Future[Grammar | str]] = OrderedDict()  # grammars, or reasons of refusals
        self._lock = threading.Lock()

    @cached_property
    def vocabulary(self) -> Vocabulary:
        """The model's tokens; built on first use, which takes about a second for 100,000 tokens."""
        return self._make_vocabulary()

    def compile(self, text: str) -> Grammar:
        """Compile the text of a grammar, or return what it was compiled to before; equal texts are compiled once.

        Raises:
            SchemaError: The grammar is invalid, or one of its JSON schemas is invalid or not supported.
        """
        with self._lock:
            result = self._results.get(text)
            is_new = result is None
            if result is None:
                result = self._results[text] = Future()
            self._results.move_to_end(text)
            while len(self._results) > _CACHE_SIZE:
                self._results.popitem(last=False)
        if is_new:
            self._compile(text, result)
        grammar = result.result()
        if isinstance(grammar, str):
            raise SchemaError(grammar)
        return grammar

    def _compile(self, text: str, result: "Future[Grammar | str]") -> None:
        """Set the result, for all threads that wait for it. An unexpected error is not remembered."""
        try:
            result.set_result(Grammar(self.vocabulary, text))
        except SchemaError as error:
            result.set_result(str(error))
        except BaseException as error:
            with self._lock:
                self._results.pop(text, None)
            result.set_exception(error)
            raise


class GrammarGuide:
    """Keeps one answer within a grammar and within its token budget; implements `Guide`.

    The guide has a planned ending: tokens that complete the text within the remaining budget. After each draw it
    searches for a new ending. If it finds none that fits, the first token of the planned ending replaces the drawn
    token. So strings, arrays and recursion of any schema end in time, and no other draw is changed.

    Searches are short, because all requests wait for them. If one finds no ending within a string, and more than 256
    tokens are left, the draw stands and there is no planned ending until a later search finds one. An answer without a
    planned ending follows the grammar, but may be cut off by its budget.

    Args:
        vocabulary: The model's tokens.
        walk: The position at the start of the grammar.
        hints: Texts that may complete a position.
        ending: Token ids that complete a text from that position; `None` if they are not known.
        is_steered: Whether preferences act within the structure.
    """

    def __init__(
        self, vocabulary: Vocabulary, walk: Walk, hints: Hints, ending: list[int] | None, *, is_steered: bool
    ) -> None:
        self.is_steered = is_steered
        self.is_complete = False
        """Whether the text is complete, and the grammar or the budget allows no further token."""
        self._vocabulary = vocabulary
        self._walk = walk
        self._hints = hints
        self._ending = ending
        self._allowed: Tensor | None = None  # cache of allowed()
        self._string = 0  # which JSON string it measures
        self._string_limit = self._string_length = 0  # tokens of that string
        self._pause = self._num_paused = 0  # tokens between searches without a planned ending

    def allowed(self, num_left: int) -> Tensor:  # noqa: ARG002 - accept() enforces the budget
        """Return the tokens that the grammar allows next, bool `(V,)` on the CPU."""
        if self._allowed is None:
            self._allowed = torch.from_numpy(self._walk.allowed())
        return self._allowed

    def opening(self) -> None:
        """Return `None`: no structure begins within another one."""

    def forced(self) -> list[int]:
        """Return tokens that spell the text that must follow, as far as only one text may."""
        return self._walk.forced()

    def accept(self, token_id: int, num_left: int) -> int:
        """Advance by one token and return it: the drawn one, or the planned ending's first if the text must end now."""
        self._allowed = None
        if token_id in self._vocabulary.stop_token_ids:
            self.is_complete = True
            return token_id
        if not self._follow(token_id, num_left - 1):
            if not self._ending:  # the text is complete, and no longer text fits into the budget
                self.is_complete = True
                return self._vocabulary.end_token_id
            token_id = self._ending[0]
            self._walk.push(token_id)
            self._ending = self._ending[1:]
        self._measure_string(num_left - 1)
        self.is_complete = self._walk.is_stopped or (num_left == 1 and self._walk.may_end)
        return token_id

    def _follow(self, token_id: int, num_left: int) -> bool:
        """Advance by the drawn token if an ending of up to `num_left` tokens is found after it; return whether."""
        state = self._walk.state
        self._walk.push(token_id)
        if self._ending is None:
            self._search_at_times(num_left)
            return True
        if self._ending[:1] == [token_id]:
            self._ending = self._ending[1:]
            return True
        ending = self._new_ending(num_left)
        if ending is None and self._walk.is_in_string and num_left > max(_MIN_SPARE, 2 * len(self._ending)):
            self._ending = None
            return True
        if ending is None or self._is_string_too_long(ending):
            self._walk.back(state)
            return False
        self._ending = ending
        return True

    def _new_ending(self, num_left: int) -> list[int] | None:
        """Return an ending that completes the text at this position, perhaps a part of the planned one."""
        planned = self._ending or []
        suffixes = (planned[start:] for start in range(min(len(planned), _MAX_SUFFIXES)))
        reusable = (suffix for suffix in suffixes if len(suffix) <= num_left and self._walk.would_end(suffix))
        suffix = next(reusable, None)
        return suffix or ending_after_draw(self._vocabulary, self._walk, self._hints, num_left, planned)

    def _search_at_times(self, num_left: int) -> None:
        """Search for an ending where none is known, after pauses that grow from 1 to 64 tokens."""
        if self._num_paused < self._pause:
            self._num_paused += 1
            return
        self._pause, self._num_paused = min(2 * self._pause + 1, _MAX_PAUSE), 0
        self._ending = self._new_ending(num_left)
        if self._ending is not None:
            self._pause = 0

    def _is_string_too_long(self, ending: list[int]) -> bool:
        """Return whether the current string has used its share of the budget, and other values must follow it."""
        state = self._walk.state
        if not state.is_in_string or state.num_strings != self._string or self._string_length < self._string_limit:
            return False
        rest = b"".join(self._vocabulary.token_bytes[token_id] for token_id in ending)
        return b":" in rest or b"," in rest

    def _measure_string(self, num_left: int) -> None:
        """Count the tokens of the current string. Its limit is half of the budget that the planned ending leaves."""
        state = self._walk.state
        if not state.is_in_string:
            return
        if state.num_strings != self._string:
            self._string, self._string_length = state.num_strings, 0
            self._string_limit = max(1, (num_left - len(self._ending or ())) // 2)
        self._string_length += 1


def _reason(message: str) -> str:
    """Return the reason in a message of llguidance, without position and listing of the grammar."""
    match = _COMPILER_MESSAGE.fullmatch(message)
    reason = match["reason"] if match else message
    if reason.startswith("oneOf constraints are not supported"):
        return "oneOf whose branches are not clearly disjoint"
    if regex := _REGEX_MESSAGE.search(reason):
        return f"the pattern {regex['pattern']!r} is not understood: {regex['error'].strip()}"
    if _EXPENSIVE.search(reason):
        return f"{TOO_EXPENSIVE} (llguidance: {reason.strip().partition(chr(10))[0].removesuffix('.')})"
    if reason.startswith("panic:"):  # followed by a trace
        reason = "llguidance has failed: " + reason.removeprefix("panic:").partition("\n")[0]
    return reason.strip().removesuffix(".")
