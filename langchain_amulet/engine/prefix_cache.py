"""Saved rows of earlier requests, for later requests with the same prefix."""

from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Generic

from langchain_amulet.engine.runners.protocol import SavedRow
from langchain_amulet.engine.tokens import Tokens, common_prefix_length


@dataclass(frozen=True, slots=True)
class Prefix(Generic[SavedRow]):
    """One saved row."""

    tokens: Tokens = field(repr=False)  # token ids reveal preferences as their text does
    key: str
    """The key of the requests that may reuse it; empty for all requests."""
    saved: SavedRow
    """The row as the runner has saved it."""


class PrefixCache(Generic[SavedRow]):
    """Saved rows within a budget of tokens. The least recently used row is dropped first.

    Args:
        max_tokens: The budget, in tokens.
    """

    def __init__(self, max_tokens: int) -> None:
        self._max_tokens = max_tokens
        self._prefixes: OrderedDict[int, Prefix[SavedRow]] = OrderedDict()
        self.num_tokens = 0
        """Tokens in all saved rows."""

    def __len__(self) -> int:
        """Return the number of saved rows."""
        return len(self._prefixes)

    def find(self, tokens: Tokens, key: str) -> tuple[Prefix[SavedRow] | None, int]:
        """Return the saved row with the longest common prefix, and the length of that prefix.

        Only rows with the same key or the empty key count.
        """
        best, length = None, 0
        for number, prefix in self._prefixes.items():
            if prefix.key in ("", key) and (common := common_prefix_length(prefix.tokens, tokens)) > length:
                best, length = number, common
        if best is None:
            return None, 0
        self._prefixes.move_to_end(best)
        return self._prefixes[best], length

    def has_use_for(self, tokens: Tokens, key: str) -> bool:
        """Whether to save a row: it fits into the budget, and is not a prefix of a saved row with the same key."""
        if len(tokens) > self._max_tokens:
            return False
        for number, prefix in self._prefixes.items():
            if prefix.key == key and common_prefix_length(prefix.tokens, tokens) == len(tokens):
                self._prefixes.move_to_end(number)
                return False
        return True

    def put(self, prefix: Prefix[SavedRow]) -> None:
        """Add a row. Drop rows with the same key that are its prefixes, and the oldest rows beyond the budget."""
        for number, other in list(self._prefixes.items()):
            is_covered = common_prefix_length(other.tokens, prefix.tokens) == len(other.tokens)
            if other.key == prefix.key and is_covered:
                self._drop(number)
        self._prefixes[id(prefix)] = prefix
        self.num_tokens += len(prefix.tokens)
        while self.num_tokens > self._max_tokens:
            self._drop(next(iter(self._prefixes)))

    def clear(self, *, private_only: bool = False) -> None:
        """Drop all rows, or only those with a key."""
        for number, prefix in list(self._prefixes.items()):
            if prefix.key or not private_only:
                self._drop(number)

    def _drop(self, number: int) -> None:
        self.num_tokens -= len(self._prefixes.pop(number).tokens)
