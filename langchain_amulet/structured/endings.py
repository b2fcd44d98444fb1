"""Searches for the tokens that complete a text within a grammar, with a limit on the work."""

import contextlib
import json
import math
import random
import time
from collections.abc import Callable, Iterable
from functools import cached_property
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from langchain_amulet.exceptions import GrammarError
from langchain_amulet.structured.schema_examples import SchemaExamples
from langchain_amulet.structured.vocabulary import OTHER_KIND, RANKS_PER_KIND, Vocabulary
from langchain_amulet.structured.walk import Walk

_SCHEMA = "%json "  # precedes each JSON schema in a grammar
_MAX_LENGTH = 1 << 20  # tokens of an ending
_DEPTHS = (32, 128, 512)  # tokens; depths of thorough searches, in this order
_QUICK_DEPTH = 128  # tokens; depth of random searches between two draws
_NUM_RANDOM_SEARCHES = 4  # after the deterministic ones
_CPU_S_AT_START = 1.0  # of the calling thread, where steps are slow; published schemas take up to 0.06 s
_WORK_AT_START = 1000  # steps of all searches before the first draw
_WORK_OF_FIRST_SEARCH = 400  # of them
_WORK_PER_DRAW = 24  # steps of all searches after one draw
_WORK_OF_TRIAL = 0.25  # steps; of trying a text
_MAX_TEXTS = 512  # of each kind that are tried at a position
_MAX_RESTS = 8  # of a planned ending

_Picker: TypeAlias = Callable[[NDArray[np.int64], NDArray[np.int64]], int]
"""Picks one of several token ids of the same kind. Arguments: the ids, `(N,)`, and their ranks, `(N,)`."""


class Hints:
    """Texts that may complete a position in a grammar; guesses from its JSON schemas.

    Args:
        vocabulary: The model's tokens.
        grammar: The grammar's text.
    """

    def __init__(self, vocabulary: Vocabulary, grammar: str) -> None:
        self._vocabulary = vocabulary
        self._grammar = grammar

    @cached_property
    def is_endless(self) -> bool:
        """Whether it is certain that no text follows any of the schemas."""
        return bool(self._examples) and all(examples.is_endless for examples in self._examples)

    @cached_property
    def values(self) -> list[list[int]]:
        """Tokens of whole JSON texts, the shortest first."""
        texts = [examples.whole for examples in self._examples if examples.whole is not None]
        return _spelled(self._vocabulary, (text.encode() for text in texts))

    @cached_property
    def closings(self) -> list[list[int]]:
        """Tokens of texts that may end a string with a pattern: ends of examples, and a quote; the shortest first."""
        contents = dict.fromkeys(content for examples in self._examples for content in examples.strings)
        texts: dict[bytes, None] = {}
        for length in range(1, max(map(len, contents), default=0) + 1):
            long_enough = (content for content in contents if len(content) >= length)
            texts.update((content[-length:].encode() + b'"', None) for content in long_enough)
            if len(texts) >= _MAX_TEXTS:
                break
        return _spelled(self._vocabulary, texts)

    @cached_property
    def _examples(self) -> list[SchemaExamples]:
        return [SchemaExamples(schema) for schema in _schemas(self._grammar)]


class _OutOfWorkError(Exception):
    """A search has taken as many steps as it may."""


class _Work:
    """Counts the steps of searches."""

    def __init__(self, limit: float, cpu_s: float = math.inf) -> None:
        self.left = limit
        self._end = time.thread_time() + cpu_s

    def spend(self, steps: float) -> None:
        if self.left < steps or time.thread_time() > self._end:
            raise _OutOfWorkError
        self.left -= steps


def ending_after_draw(
    vocabulary: Vocabulary, walk: Walk, hints: Hints, max_tokens: int, planned: list[int]
) -> list[int] | None:
    """Return up to `max_tokens` token ids that complete the text, or `None` if a short search finds no ending.

    It takes at most 24 steps, whatever the grammar, because all requests wait for it.

    Args:
        vocabulary: The model's tokens.
        walk: The position, which does not change.
        hints: Texts that may complete it.
        max_tokens: The most tokens of the ending.
        planned: Tokens that completed the text before the last draw; their last part may still do so.
    """
    search = _Search(vocabulary, walk, hints, _Work(_WORK_PER_DRAW), planned)
    fixed, randomised = _pickers(vocabulary)
    depths = [*((pick, max_tokens) for pick in fixed), *((pick, min(max_tokens, _QUICK_DEPTH)) for pick in randomised)]
    return next((ending for pick, depth in depths if (ending := search.find(depth, pick)) is not None), None)


def shortest_ending(vocabulary: Vocabulary, walk: Walk, hints: Hints) -> list[int] | None:
    """Return the shortest ending that a thorough search of at most 1000 steps finds; `None` if it finds none.

    Args:
        vocabulary: The model's tokens.
        walk: The position, which does not change.
        hints: Texts that may complete it.

    Raises:
        GrammarError: No search finds one, and llguidance has given up on the grammar.
    """
    fixed, randomised = _pickers(vocabulary)
    search = _Search(vocabulary, walk, hints, _Work(_WORK_OF_FIRST_SEARCH, _CPU_S_AT_START), [])
    best = search.find(_MAX_LENGTH, fixed[0])
    search.work.left += _WORK_AT_START - _WORK_OF_FIRST_SEARCH
    for depth in _DEPTHS if best is None else (len(best),):
        for pick in (*fixed, *randomised):
            found = search.find(depth if best is None else len(best) - 1, pick)
            best = best if found is None else found
        if best is not None:
            break
    if best is None and search.failure is not None:
        raise search.failure
    return best


class _Search:
    """Greedy searches from one position, which share a limit on their work."""

    def __init__(self, vocabulary: Vocabulary, walk: Walk, hints: Hints, work: _Work, planned: list[int]) -> None:
        self.work = work
        self.failure: GrammarError | None = None  # why the last search could not go on
        self._vocabulary = vocabulary
        self._start = walk
        self._hints = hints
        self._planned = planned

    @cached_property
    def _rests(self) -> list[list[int]]:
        """Tokens of the planned ending's last parts, each after the end of a string."""
        pieces = b"".join(self._vocabulary.token_bytes[token_id] for token_id in self._planned).split(b'"')
        rests = (b'"'.join(pieces[start:]) for start in range(1, min(len(pieces), _MAX_RESTS)))
        return _spelled(self._vocabulary, rests)

    def find(self, max_tokens: int, pick: _Picker) -> list[int] | None:
        """Return an ending of up to `max_tokens` tokens: at each step known texts, else a token of the best kind."""
        walk, ending = self._start.copy(), list[int]()
        try:
            while not walk.may_end:
                if len(ending) >= max_tokens:
                    return None
                ending += self._step(walk, pick)
        except GrammarError as error:
            self.failure = error
            return None
        except _OutOfWorkError:
            return None
        return ending if len(ending) <= max_tokens else None

    def _step(self, walk: Walk, pick: _Picker) -> list[int]:
        """Advance by at least one token, and return the tokens."""
        self.work.spend(1)
        forced = walk.forced()
        if forced and walk.take(forced):
            return forced
        allowed = walk.allowed()
        token_ids = allowed.nonzero()[0]
        ranks = (self._vocabulary.inside_rank if walk.is_in_string else self._vocabulary.outside_rank)[token_ids]
        kinds = ranks // RANKS_PER_KIND
        kind = kinds.min()
        for text in self._texts(is_in_string=walk.is_in_string, can_close=kind < OTHER_KIND):
            if allowed[text[0]] and self._take(walk, text):
                return text
        best = kinds == kind
        token_id = pick(token_ids[best], ranks[best])
        walk.push(token_id)
        return [token_id]

    def _texts(self, *, is_in_string: bool, can_close: bool) -> list[list[int]]:
        """Return texts that may follow: ends of strings, or outside strings parts of the plan, or whole values."""
        if is_in_string:
            return [] if can_close else self._hints.closings
        return self._rests if self._planned else self._hints.values

    def _take(self, walk: Walk, text: list[int]) -> bool:
        self.work.spend(_WORK_OF_TRIAL)
        return walk.take(text)


def _spelled(vocabulary: Vocabulary, texts: Iterable[bytes]) -> list[list[int]]:
    """Return the tokens of the shortest texts, the shortest first."""
    ordered = sorted({*texts}, key=lambda text: (len(text), text))[:_MAX_TEXTS]
    return [token_ids for text in ordered if (token_ids := vocabulary.spelled(text))]


def _schemas(grammar: str) -> list[Any]:
    """Return the JSON schemas in a grammar's text."""
    decoder, schemas, position = json.JSONDecoder(), [], 0
    while (found := grammar.find(_SCHEMA, position)) >= 0:
        position = found + len(_SCHEMA)
        with contextlib.suppress(ValueError):  # the text stands within a literal
            schema, position = decoder.raw_decode(grammar, position)
            schemas.append(schema)
    return schemas


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
