"""Saved rows of earlier requests, for later requests with the same prefix."""

from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Generic

from langchain_amulet.engine.labels import Label
from langchain_amulet.engine.prefix_index import Node, PrefixIndex
from langchain_amulet.engine.runners.protocol import SavedRow
from langchain_amulet.engine.tokens import Tokens


@dataclass(frozen=True, slots=True, eq=False)
class Prefix(Generic[SavedRow]):
    """One saved row."""

    tokens: Tokens = field(repr=False)
    """Its tokens with their labels, which say who may reuse them."""
    saved: SavedRow = field(repr=False)
    """The row as the runner has saved it."""
    labels: tuple[Label, ...] = ()
    """The labels of its tokens: a label keeps its number while a row has it."""
    is_private: bool = False
    """Whether forgetting drops the row."""


class PrefixCache(Generic[SavedRow]):
    """Saved rows within a budget of tokens. The least recently used row is dropped first.

    Args:
        max_tokens: The budget, in tokens.
    """

    def __init__(self, max_tokens: int) -> None:
        self._max_tokens = max_tokens
        self._index: PrefixIndex[Prefix[SavedRow]] = PrefixIndex()
        self._leaves: OrderedDict[Node[Prefix[SavedRow]], None] = OrderedDict()  # least recently used first
        self.num_tokens = 0
        """Tokens in all saved rows."""

    def __len__(self) -> int:
        """Return the number of saved rows."""
        return len(self._leaves)

    def find(self, tokens: Tokens) -> tuple[Prefix[SavedRow] | None, int]:
        """Return a saved row with the longest common prefix, and the length of that prefix."""
        leaf, length = self._index.find(tokens)
        if leaf is None:
            return None, 0
        self._leaves.move_to_end(leaf)
        return leaf.value, length

    def has_use_for(self, tokens: Tokens) -> bool:
        """Whether to save a row: it fits into the budget, and is not a prefix of a saved row."""
        if len(tokens) > self._max_tokens:
            return False
        leaf = self._index.covers(tokens)
        if leaf is None:
            return True
        self._leaves.move_to_end(leaf)
        return False

    def put(self, prefix: Prefix[SavedRow]) -> None:
        """Add a row that `has_use_for` accepts. Drop the row that is its prefix, and the oldest beyond the budget."""
        leaf, covered = self._index.add(prefix.tokens, prefix)
        if covered is not None:
            del self._leaves[covered]
            self.num_tokens -= len(covered.tokens)
        self._leaves[leaf] = None
        self.num_tokens += len(prefix.tokens)
        while self.num_tokens > self._max_tokens:
            self._drop(next(iter(self._leaves)))

    def clear(self, *, private_only: bool = False) -> None:
        """Drop all rows, or only the private ones."""
        for leaf in list(self._leaves):
            if not private_only or (leaf.value is not None and leaf.value.is_private):
                self._drop(leaf)

    def _drop(self, leaf: Node[Prefix[SavedRow]]) -> None:
        del self._leaves[leaf]
        self._index.remove(leaf)
        self.num_tokens -= len(leaf.tokens)
