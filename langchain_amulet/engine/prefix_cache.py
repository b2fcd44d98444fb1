"""Keys and values of earlier requests, kept for those that begin alike."""

from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

from langchain_amulet.engine.tokens import Tokens, common_prefix_length


@dataclass(frozen=True, slots=True)
class Prefix:
    """One kept row."""

    tokens: Tokens
    key: str
    saved: Any
    """What the runner has saved."""


class PrefixCache:
    """Rows kept up to a budget of bytes; the one that has not been of use for longest goes first.

    Args:
        max_tokens: The budget, in tokens.
    """

    def __init__(self, max_tokens: int) -> None:
        self._max_tokens = max_tokens
        self._prefixes: OrderedDict[int, Prefix] = OrderedDict()
        self.num_tokens = 0
        """Tokens kept."""

    def __len__(self) -> int:
        """Number of rows kept."""
        return len(self._prefixes)

    def find(self, tokens: Tokens, key: str) -> tuple[Prefix | None, int]:
        """The kept row that shares the longest beginning, and its length; rows kept under another key do not count."""
        best, length = None, 0
        for number, prefix in self._prefixes.items():
            if prefix.key in ("", key) and (common := common_prefix_length(prefix.tokens, tokens)) > length:
                best, length = number, common
        if best is None:
            return None, 0
        self._prefixes.move_to_end(best)
        return self._prefixes[best], length

    def has_use_for(self, tokens: Tokens, key: str) -> bool:
        """Whether a row is worth keeping: it is within the budget, and no kept one begins with it."""
        if len(tokens) > self._max_tokens:
            return False
        for number, prefix in self._prefixes.items():
            if prefix.key == key and common_prefix_length(prefix.tokens, tokens) == len(tokens):
                self._prefixes.move_to_end(number)
                return False
        return True

    def put(self, prefix: Prefix) -> None:
        """Keep a row, in place of those that it begins with, and of old ones if the budget is spent."""
        for number, other in list(self._prefixes.items()):
            is_covered = common_prefix_length(other.tokens, prefix.tokens) == len(other.tokens)
            if other.key == prefix.key and is_covered:
                self._drop(number)
        self._prefixes[id(prefix)] = prefix
        self.num_tokens += len(prefix.tokens)
        while self.num_tokens > self._max_tokens:
            self._drop(next(iter(self._prefixes)))

    def clear(self, *, private_only: bool = False) -> None:
        """Drop all rows, or those that not everybody may use."""
        for number, prefix in list(self._prefixes.items()):
            if prefix.key or not private_only:
                self._drop(number)

    def _drop(self, number: int) -> None:
        self.num_tokens -= len(self._prefixes.pop(number).tokens)
