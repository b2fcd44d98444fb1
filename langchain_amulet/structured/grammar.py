"""Grammars that an answer follows, by llguidance, and ends within its budget of tokens."""

import random
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
from langchain_amulet.structured.vocabulary import ANY, KIND, Vocabulary

_LOOK_AHEAD = 2048  # tokens; a grammar without a shorter text is refused
_DEPTHS = (32, 128, 512, _LOOK_AHEAD)  # short ways are looked for first
_NUM_KEPT = 256  # grammars
_NUM_REJOINS = 6  # tokens of the known way that a drawn one may stand for
_QUICK = 128  # tokens; how far random searches go between two draws
_NUM_TRIES = 4  # random searches for the end of a text, after those by rule

_Picker: TypeAlias = Callable[[NDArray[np.int64], NDArray[np.int64]], int]
"""From the tokens that help most to end a text, and their ranks, to one of them."""


class Grammar:
    """What an answer has to be; compiled once, followed by any number of answers.

    Args:
        vocabulary: The tokens.
        text: A grammar in llguidance's dialect of Lark.

    Raises:
        SchemaError: It is no grammar, or nothing satisfies it.
    """

    def __init__(self, vocabulary: Vocabulary, text: str) -> None:
        self._vocabulary = vocabulary
        self._matcher = LLMatcher(vocabulary.tokenizer, text, log_level=0)
        if self._matcher.is_error():
            raise SchemaError(self._matcher.get_error())

    @cached_property
    def shortest(self) -> list[int]:
        """Tokens of a short text that satisfies it.

        Raises:
            SchemaError: A search of 2,048 tokens finds none.
        """
        try:
            way = _Walk(self._vocabulary, self._matcher.deep_copy()).find_shortest(_LOOK_AHEAD)
        except GrammarError:
            way = None
        if way is None:
            msg = f"No text of up to {_LOOK_AHEAD} tokens satisfies it. Does a part of it contain itself without end?"
            raise SchemaError(msg)
        return way

    def start(self, max_tokens: int, *, is_steered: bool = False) -> "GrammarGuide":
        """Lead one answer.

        Args:
            max_tokens: The most tokens that it may take.
            is_steered: Whether style acts within the structure.

        Raises:
            MaxTokensError: It cannot end within so many tokens.
        """
        if len(self.shortest) > max_tokens:
            msg = (
                f"The structure asked for takes at least {len(self.shortest)} tokens, and the answer may have "
                f"{max_tokens}. Raise max_tokens, shorten the conversation, or ask for less."
            )
            raise MaxTokensError(msg)
        walk = _Walk(self._vocabulary, self._matcher.deep_copy())
        return GrammarGuide(self._vocabulary, walk, self.shortest, is_steered=is_steered)


class GrammarCompiler:
    """Compiles grammars over one model's tokens, and keeps those used last.

    Args:
        tokenizer: A fast tokenizer.
        vocab_size: V, the length of a row of logits.
        stop_token_ids: Tokens that end an answer.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerFast, vocab_size: int, stop_token_ids: Iterable[int]) -> None:
        self._make_vocabulary = partial(Vocabulary, tokenizer, vocab_size, frozenset(stop_token_ids))
        self.compile = lru_cache(maxsize=_NUM_KEPT)(self._compile)
        """From a text to a `Grammar`."""

    @cached_property
    def vocabulary(self) -> Vocabulary:
        """The tokens; made on first use, which takes about a second for 100k of them."""
        return self._make_vocabulary()

    def _compile(self, text: str) -> Grammar:
        return Grammar(self.vocabulary, text)


class GrammarGuide:
    """Holds an answer to a grammar, and to its budget.

    At any time it knows one way to the end of the text that fits into what is left of the budget. A drawn token after
    which it finds none is replaced by the first token of that way. So strings, arrays and recursion of any schema end
    in time, and all other draws stay as they are.

    Args:
        vocabulary: The tokens.
        walk: At the start of the grammar.
        way: Tokens from there to the end.
        is_steered: Whether style acts within the structure.
    """

    def __init__(self, vocabulary: Vocabulary, walk: "_Walk", way: list[int], *, is_steered: bool) -> None:
        self.is_steered = is_steered
        self.is_complete = False
        """Whether the text is whole, and nothing may follow or there is no room for it."""
        self._vocabulary = vocabulary
        self._walk = walk
        self._way = way
        self._allowed: Tensor | None = None
        self._string_limit = self._string_length = 0

    def allowed(self, num_left: int) -> Tensor:  # noqa: ARG002 - a draw after which too little is left is replaced
        """The tokens that the grammar allows next, bool `(V,)`."""
        if self._allowed is None:  # else the draw is being tried again
            self._allowed = torch.from_numpy(self._walk.allowed())
        return self._allowed

    def opening(self) -> None:
        """No structure begins within one."""

    def accept(self, token_id: int, num_left: int) -> int:
        """Take a drawn token, or one that leads to the end in time."""
        self._allowed = None
        if token_id in self._vocabulary.stop_token_ids:
            self.is_complete = True
            return token_id
        if not self._follow(token_id, num_left - 1):
            if not self._way:  # the text is whole, and there is no room for more
                self.is_complete = True
                return self._vocabulary.end_token_id
            token_id = self._way[0]
            self._walk.push(token_id)
            self._way = self._way[1:]
        self._measure_string(num_left - 1)
        self.is_complete = self._walk.is_stopped or (num_left == 1 and self._walk.may_end)
        return token_id

    def _follow(self, token_id: int, num_left: int) -> bool:
        """Go on with the drawn token, if a way to the end fits into what is left after it."""
        state = self._walk.state
        self._walk.push(token_id)
        if self._way[:1] == [token_id]:
            self._way = self._way[1:]
            return True
        rests = (self._way[start:] for start in range(min(len(self._way), _NUM_REJOINS)))
        rejoined = (rest for rest in rests if len(rest) <= num_left and self._walk.would_end(rest))
        way = next(rejoined, None) or self._walk.find_end(num_left)
        if way is None or self._takes_too_much(way):
            self._walk.back(state)
            return False
        self._way = way
        return True

    def _takes_too_much(self, way: list[int]) -> bool:
        """Whether a string has had its share, and other values wait for theirs."""
        if not self._walk.is_in_string or self._string_length < self._string_limit:
            return False
        rest = b"".join(self._vocabulary.token_bytes[token_id] for token_id in way)
        return b":" in rest or b"," in rest

    def _measure_string(self, num_left: int) -> None:
        if not self._walk.is_in_string:
            self._string_length = 0
            return
        if self._string_length == 0:
            self._string_limit = max(1, (num_left - len(self._way)) // 2)
        self._string_length += 1


class _Walk:
    """A position in a grammar, and in the JSON text that was written so far."""

    def __init__(self, vocabulary: Vocabulary, matcher: LLMatcher) -> None:
        self._vocabulary = vocabulary
        self._matcher = matcher
        self.state = (False, False)
        """Whether it is within a string, and there after a backslash."""

    @property
    def is_in_string(self) -> bool:
        return self.state[0]

    @property
    def is_stopped(self) -> bool:
        """Whether nothing may follow."""
        return self._matcher.is_stopped()

    @property
    def may_end(self) -> bool:
        may_end: bool = self._matcher.is_accepting()
        return may_end

    def allowed(self) -> NDArray[np.bool_]:
        """The tokens that may come next, `(V,)`."""
        bits = np.frombuffer(self._matcher.compute_bitmask(), dtype=np.uint8)
        self._check()
        return np.unpackbits(bits, bitorder="little")[: self._vocabulary.size].astype(bool)

    def push(self, token_id: int) -> None:
        self._matcher.consume_token(token_id)
        self._check()
        self.state = _read(self.state, self._vocabulary.token_bytes[token_id])

    def back(self, state: tuple[bool, bool], num_tokens: int = 1) -> None:
        self._matcher.rollback(num_tokens)
        self.state = state

    def would_end(self, token_ids: list[int]) -> bool:
        """Whether these tokens would bring the text to its end."""
        num_taken = self._matcher.try_consume_tokens(token_ids)
        is_end = num_taken == len(token_ids) and self._matcher.is_accepting()
        self._matcher.rollback(num_taken)
        return is_end

    def find_end(self, max_tokens: int) -> list[int] | None:
        """Tokens from here to the end of the text; `None` if a quick search finds no way of so many tokens."""
        by_rule, at_random = _pickers(self._vocabulary)
        tries = [*((pick, max_tokens) for pick in by_rule), *((pick, min(max_tokens, _QUICK)) for pick in at_random)]
        ways = (self._search(depth, pick) for pick, depth in tries)
        return next((way for way in ways if way is not None), None)

    def find_shortest(self, max_tokens: int) -> list[int] | None:
        """The shortest of the ways that a longer search finds."""
        by_rule, at_random = _pickers(self._vocabulary)
        for depth in _DEPTHS:
            ways = (self._search(min(depth, max_tokens), pick) for pick in (*by_rule, *at_random))
            best = min((way for way in ways if way is not None), key=len, default=None)
            if best is not None or depth >= max_tokens:
                return best
        return None

    def _search(self, max_tokens: int, pick: _Picker) -> list[int] | None:
        """Go to the end of the text by whatever token promises to end it soonest, and back again."""
        state, way = self.state, list[int]()
        while not self.may_end and len(way) < max_tokens:
            way.append(self._step(pick))
        is_end = self.may_end
        self.back(state, len(way))
        return way if is_end else None

    def _step(self, pick: _Picker) -> int:
        token_ids = self.allowed().nonzero()[0]
        ranks = (self._vocabulary.inside_rank if self.is_in_string else self._vocabulary.outside_rank)[token_ids]
        kinds = ranks // KIND
        best = kinds == kinds.min()
        token_id = pick(token_ids[best], ranks[best])
        self.push(token_id)
        return token_id

    def _check(self) -> None:
        if self._matcher.is_error():
            msg = f"llguidance cannot follow this grammar any further: {self._matcher.get_error()} Simplify the schema."
            raise GrammarError(msg)


def _read(state: tuple[bool, bool], text: bytes) -> tuple[bool, bool]:
    """Read on in a JSON text: whether it is within a string, and there after a backslash."""
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
    """Ways to choose among tokens that help equally: by rule, the longest or what patterns wait for; and at random."""
    draw = random.Random(0)  # noqa: S311 - a search, the same every time

    def longest(token_ids: NDArray[np.int64], ranks: NDArray[np.int64]) -> int:
        return int(token_ids[ranks.argmin()])

    def punctuation(token_ids: NDArray[np.int64], ranks: NDArray[np.int64]) -> int:
        marks = vocabulary.punctuation[np.isin(vocabulary.punctuation, token_ids)]
        return int(marks[0]) if len(marks) and ranks[0] >= ANY * KIND else longest(token_ids, ranks)

    def anything(token_ids: NDArray[np.int64], _ranks: NDArray[np.int64]) -> int:
        return int(draw.choice(token_ids))

    return [longest, punctuation], [anything] * _NUM_TRIES
