"""Compiles grammars with llguidance; guides keep answers within grammar and token budget."""

import random
import re
from collections.abc import Callable, Iterable
from functools import cached_property, lru_cache, partial
from typing import TypeAlias

import numpy as np
import torch
from llguidance import LLMatcher
from numpy.typing import NDArray
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from langchain_amulet.exceptions import GrammarError, MaxTokensError, SchemaError
from langchain_amulet.structured.vocabulary import OTHER_KIND, RANKS_PER_KIND, Vocabulary

_MAX_DEPTH = 2048  # tokens; a grammar raises SchemaError if no text of up to this length is found
_DEPTHS = (32, 128, 512, _MAX_DEPTH)  # search depths in tokens, in this order
_CACHE_SIZE = 256  # compiled grammars
_MAX_SUFFIXES = 6  # number of suffixes of the planned ending that are tried before a search for a new one
_QUICK_DEPTH = 128  # tokens; depth of random searches between two draws
_NUM_RANDOM_SEARCHES = 4  # after the deterministic ones

# "at 2(8): failed to compile JSON schema: REASON", followed by a listing of the grammar's lines.
_COMPILER_MESSAGE = re.compile(
    r"(?:at \d+\(\d+\): )?(?:failed to compile JSON schema: )?(?P<reason>.*?)(?:\n +\d+ \| .*)?", re.DOTALL
)

_Picker: TypeAlias = Callable[[NDArray[np.int64], NDArray[np.int64]], int]
"""Picks one of several token ids of the same kind. Arguments: the ids, `(N,)`, and their ranks, `(N,)`."""


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
        self._matcher = LLMatcher(vocabulary.tokenizer, text, log_level=0)
        if self._matcher.is_error():
            raise SchemaError(_reason(self._matcher.get_error()))

    @cached_property
    def shortest(self) -> list[int]:
        """Token ids of a short text that satisfies the grammar.

        Raises:
            SchemaError: A search of 2,048 tokens finds no such text.
        """
        try:
            ending = _Walk(self._vocabulary, self._matcher.deep_copy()).find_shortest(_MAX_DEPTH)
        except GrammarError:
            ending = None
        if ending is None:
            msg = f"no text of up to {_MAX_DEPTH} tokens satisfies it; a part of it may contain itself without end"
            raise SchemaError(msg)
        return ending

    def check_satisfiable(self) -> None:
        """Compute `shortest`, so that an unsatisfiable grammar raises now and later calls find it cached.

        Raises:
            SchemaError: A search of 2,048 tokens finds no such text.
        """
        _ = self.shortest

    def start(self, max_tokens: int, *, is_steered: bool = False) -> "GrammarGuide":
        """Create the guide of one answer.

        Args:
            max_tokens: The token budget of the answer.
            is_steered: Whether preferences act within the structure.

        Raises:
            MaxTokensError: `shortest` has more than `max_tokens` tokens.
        """
        if len(self.shortest) > max_tokens:
            msg = (
                f"The required tool call or JSON takes at least {len(self.shortest)} tokens; the answer may have "
                f"{max_tokens}. Raise max_tokens, shorten the conversation, or use a smaller schema."
            )
            raise MaxTokensError(msg)
        walk = _Walk(self._vocabulary, self._matcher.deep_copy())
        return GrammarGuide(self._vocabulary, walk, self.shortest, is_steered=is_steered)


class GrammarCompiler:
    """Compiles grammars over one model's tokens, and caches the most recently used 256.

    Args:
        tokenizer: A fast tokenizer.
        vocab_size: V, the length of a row of logits.
        stop_token_ids: Tokens that end an answer.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerFast, vocab_size: int, stop_token_ids: Iterable[int]) -> None:
        self._make_vocabulary = partial(Vocabulary, tokenizer, vocab_size, frozenset(stop_token_ids))
        self.compile = lru_cache(maxsize=_CACHE_SIZE)(self._compile)
        """Compile the text of a grammar to a `Grammar`. Raises `SchemaError` if that fails."""

    @cached_property
    def vocabulary(self) -> Vocabulary:
        """The model's tokens; built on first use, which takes about a second for 100,000 tokens."""
        return self._make_vocabulary()

    def _compile(self, text: str) -> Grammar:
        return Grammar(self.vocabulary, text)


class GrammarGuide:
    """Keeps one answer within a grammar and within its token budget; implements `Guide`.

    The guide always has a planned ending: tokens that complete the text within the remaining budget. After each draw it
    searches for a new ending. If it finds none that fits, the first token of the planned ending replaces the drawn
    token. So strings, arrays and recursion of any schema end in time, and no other draw is changed.

    Args:
        vocabulary: The model's tokens.
        walk: The position at the start of the grammar.
        ending: Token ids that complete a text from that position.
        is_steered: Whether preferences act within the structure.
    """

    def __init__(self, vocabulary: Vocabulary, walk: "_Walk", ending: list[int], *, is_steered: bool) -> None:
        self.is_steered = is_steered
        self.is_complete = False
        """Whether the text is complete, and the grammar or the budget allows no further token."""
        self._vocabulary = vocabulary
        self._walk = walk
        self._ending = ending
        self._allowed: Tensor | None = None  # cache of allowed()
        self._string_limit = self._string_length = 0  # tokens of the current JSON string

    def allowed(self, num_left: int) -> Tensor:  # noqa: ARG002 - accept() enforces the budget
        """Return the tokens that the grammar allows next, bool `(V,)` on the CPU."""
        if self._allowed is None:
            self._allowed = torch.from_numpy(self._walk.allowed())
        return self._allowed

    def opening(self) -> None:
        """Return `None`: no structure begins within another one."""

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
        if self._ending[:1] == [token_id]:
            self._ending = self._ending[1:]
            return True
        suffixes = (self._ending[start:] for start in range(min(len(self._ending), _MAX_SUFFIXES)))
        reusable = (suffix for suffix in suffixes if len(suffix) <= num_left and self._walk.would_end(suffix))
        ending = next(reusable, None) or self._walk.find_end(num_left)
        if ending is None or self._is_string_too_long(ending):
            self._walk.back(state)
            return False
        self._ending = ending
        return True

    def _is_string_too_long(self, ending: list[int]) -> bool:
        """Return whether the current string has used its share of the budget, and other values must follow it."""
        if not self._walk.is_in_string or self._string_length < self._string_limit:
            return False
        rest = b"".join(self._vocabulary.token_bytes[token_id] for token_id in ending)
        return b":" in rest or b"," in rest

    def _measure_string(self, num_left: int) -> None:
        """Count the tokens of the current string. Its limit is half of the budget that the planned ending leaves."""
        if not self._walk.is_in_string:
            self._string_length = 0
            return
        if self._string_length == 0:
            self._string_limit = max(1, (num_left - len(self._ending)) // 2)
        self._string_length += 1


class _Walk:
    """A position in a grammar, and in the JSON text written so far."""

    def __init__(self, vocabulary: Vocabulary, matcher: LLMatcher) -> None:
        self._vocabulary = vocabulary
        self._matcher = matcher
        self.state = (False, False)
        """Whether the position is within a JSON string, and whether a backslash precedes it there."""

    @property
    def is_in_string(self) -> bool:
        return self.state[0]

    @property
    def is_stopped(self) -> bool:
        """Whether the grammar allows no further token."""
        return self._matcher.is_stopped()

    @property
    def may_end(self) -> bool:
        """Whether the text is complete at this position."""
        may_end: bool = self._matcher.is_accepting()
        return may_end

    def allowed(self) -> NDArray[np.bool_]:
        """Return the tokens that may come next, bool `(V,)`."""
        bits = np.frombuffer(self._matcher.compute_bitmask(), dtype=np.uint8)
        self._check()
        return np.unpackbits(bits, bitorder="little")[: self._vocabulary.size].astype(bool)

    def push(self, token_id: int) -> None:
        """Advance by one token."""
        self._matcher.consume_token(token_id)
        self._check()
        self.state = _read(self.state, self._vocabulary.token_bytes[token_id])

    def back(self, state: tuple[bool, bool], num_tokens: int = 1) -> None:
        """Go back by `num_tokens`, to the `state` that the walk had there."""
        self._matcher.rollback(num_tokens)
        self.state = state

    def would_end(self, token_ids: list[int]) -> bool:
        """Return whether the text would be complete after these tokens. The position does not change."""
        num_taken = self._matcher.try_consume_tokens(token_ids)
        is_end = num_taken == len(token_ids) and self._matcher.is_accepting()
        self._matcher.rollback(num_taken)
        return is_end

    def find_end(self, max_tokens: int) -> list[int] | None:
        """Return up to `max_tokens` token ids that complete the text, or `None` if a quick search finds no ending."""
        fixed, randomised = _pickers(self._vocabulary)
        quick_depth = min(max_tokens, _QUICK_DEPTH)
        searches = [*((pick, max_tokens) for pick in fixed), *((pick, quick_depth) for pick in randomised)]
        endings = (self._search(depth, pick) for pick, depth in searches)
        return next((ending for ending in endings if ending is not None), None)

    def find_shortest(self, max_tokens: int) -> list[int] | None:
        """Return the shortest ending that a thorough search finds, or `None` if it finds no ending."""
        fixed, randomised = _pickers(self._vocabulary)
        for depth in _DEPTHS:
            endings = (self._search(min(depth, max_tokens), pick) for pick in (*fixed, *randomised))
            best = min((ending for ending in endings if ending is not None), key=len, default=None)
            if best is not None or depth >= max_tokens:
                return best
        return None

    def _search(self, max_tokens: int, pick: _Picker) -> list[int] | None:
        """Search greedily for an ending: at each step, pick a token of the best kind. The position does not change."""
        state, ending = self.state, list[int]()
        while not self.may_end and len(ending) < max_tokens:
            ending.append(self._step(pick))
        is_end = self.may_end
        self.back(state, len(ending))
        return ending if is_end else None

    def _step(self, pick: _Picker) -> int:
        """Advance by a token of the best kind that is allowed, and return its id."""
        token_ids = self.allowed().nonzero()[0]
        ranks = (self._vocabulary.inside_rank if self.is_in_string else self._vocabulary.outside_rank)[token_ids]
        kinds = ranks // RANKS_PER_KIND
        best = kinds == kinds.min()
        token_id = pick(token_ids[best], ranks[best])
        self.push(token_id)
        return token_id

    def _check(self) -> None:
        if self._matcher.is_error():
            msg = (
                f"llguidance cannot follow this grammar any further: {self._matcher.get_error()}. Simplify the schema."
            )
            raise GrammarError(msg)


def _reason(message: str) -> str:
    """Return the reason in a message of llguidance, without position and listing of the grammar."""
    match = _COMPILER_MESSAGE.fullmatch(message)
    reason = match["reason"] if match else message
    if reason.startswith("oneOf constraints are not supported"):
        return "oneOf whose branches are not clearly disjoint"
    return reason.strip().removesuffix(".")


def _read(state: tuple[bool, bool], text: bytes) -> tuple[bool, bool]:
    """Return the state of a `_Walk` after further text: whether it is within a JSON string, and after a backslash."""
    is_in_string, is_escaped = state
    for character in text:
        if is_escaped:
            is_escaped = False
        elif character == ord('"'):
            is_in_string = not is_in_string
        else:
            is_escaped = is_in_string and character == ord("\\")
    return is_in_string, is_escaped


def _pickers(vocabulary: Vocabulary) -> tuple[list[_Picker], list[_Picker]]:
    """Return functions that pick one of several tokens of the same kind: deterministic ones, and random ones."""
    draw = random.Random(0)  # noqa: S311 - a reproducible search

    def longest(token_ids: NDArray[np.int64], ranks: NDArray[np.int64]) -> int:
        return int(token_ids[ranks.argmin()])

    def punctuation(token_ids: NDArray[np.int64], ranks: NDArray[np.int64]) -> int:
        marks = vocabulary.punctuation[np.isin(vocabulary.punctuation, token_ids)]
        return int(marks[0]) if len(marks) and ranks[0] >= OTHER_KIND * RANKS_PER_KIND else longest(token_ids, ranks)

    def random_token(token_ids: NDArray[np.int64], _ranks: NDArray[np.int64]) -> int:
        return int(draw.choice(token_ids))

    return [longest, punctuation], [random_token] * _NUM_RANDOM_SEARCHES
