"""Predicts the next tokens of an answer by the longest earlier match of its last tokens, in its prompt or in itself."""

from collections import abc

import numpy as np

from langchain_amulet.engine.tokens import Tokens

MIN_MATCH = 2  # tokens; shorter matches predict too little
MAX_MATCH = 32  # tokens; longer matches predict no better
_FIRST_ROOM = 256  # tokens of an answer; the array doubles when it is full


class PromptLookup:
    """A place in the text so far at which the last tokens have occurred before. It moves on while the answer copies.

    Among the longest matches, the most recent one counts. There is no index: a search compares the whole text with its
    last tokens at once, which takes microseconds, and none is needed while the answer copies.

    Args:
        prompt: Token ids of the caller's prompt.

    References:
        Saxena, Prompt Lookup Decoding, 2023: https://github.com/apoorvumang/prompt-lookup-decoding
    """

    def __init__(self, prompt: abc.Sequence[int]) -> None:
        self._ids: Tokens = np.empty(len(prompt) + _FIRST_ROOM, dtype=np.int64)
        self._ids[: len(prompt)] = prompt
        self._size = len(prompt)
        self._position = 0  # behind the earlier match
        self.num_matched = 0
        """The length of the match, in tokens; 0 without one."""
        self._search()

    @property
    def next_id(self) -> int | None:
        """The token that followed the earlier match; `None` without a match."""
        return int(self._ids[self._position]) if self.num_matched else None

    def append(self, token_id: int) -> None:
        """Append the next token of the answer."""
        is_copied = token_id == self.next_id
        self._add(token_id)
        if is_copied:
            self._position += 1
            self.num_matched = min(self.num_matched + 1, MAX_MATCH)
        else:
            self._search()

    def predict(self, number: int) -> list[int]:
        """Return the `number` tokens that would follow if the answer went on copying; none without a match."""
        if not self.num_matched:
            return []
        copied: list[int] = self._ids[self._position : min(self._position + number, self._size)].tolist()
        period = self._size - self._position  # a match that overlaps the end repeats itself
        while len(copied) < number:
            copied.append(copied[-period])
        return copied

    def predict_after(self, token_ids: abc.Sequence[int], number: int) -> tuple[list[int], int]:
        """Return the prediction if these tokens came next, and the length of the match that it would follow."""
        before = self._size, self._position, self.num_matched
        for token_id in token_ids:
            self.append(token_id)
        predicted = self.predict(number), self.num_matched
        self._size, self._position, self.num_matched = before
        return predicted

    def _add(self, token_id: int) -> None:
        if self._size == len(self._ids):
            self._ids = np.concatenate([self._ids, np.empty_like(self._ids)])
        self._ids[self._size] = token_id
        self._size += 1

    def _search(self) -> None:
        """Find the most recent of the longest earlier matches of the last tokens."""
        ids, size = self._ids, self._size
        # Positions behind an earlier occurrence of the last token, then of the last two, and so on.
        ends = np.flatnonzero(ids[: size - 1] == ids[size - 1]) + 1 if size > 1 else np.empty(0, dtype=np.int64)
        length = 1
        while len(ends) and length < MAX_MATCH:
            longer = ends[ends > length]
            longer = longer[ids[longer - length - 1] == ids[size - length - 1]]
            if not len(longer):
                break
            ends, length = longer, length + 1
        is_long = len(ends) > 0 and length >= MIN_MATCH
        self._position, self.num_matched = (int(ends[-1]), length) if is_long else (0, 0)
