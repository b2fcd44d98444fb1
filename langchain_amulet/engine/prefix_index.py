"""Finds the saved row with the longest common prefix, in time that does not depend on the number of saved rows."""

from typing import Generic, TypeVar

import numpy as np

from langchain_amulet.engine.tokens import Tokens, common_prefix_length

_Value = TypeVar("_Value")

_NO_TOKENS = np.empty(0, dtype=np.int64)


class Node(Generic[_Value]):
    """A point at which stored sequences part, or at which one of them ends."""

    __slots__ = ("children", "parent", "tokens", "value")

    def __init__(self, tokens: Tokens, parent: "Node[_Value] | None", value: _Value | None = None) -> None:
        self.tokens = tokens
        """The tokens from the root to this point."""
        self.parent = parent
        self.value = value
        """What was stored; `None` where sequences part."""
        self.children: dict[int, Node[_Value]] = {}
        """By their first token after `tokens`, the latest last."""


class PrefixIndex(Generic[_Value]):
    """A radix tree of token sequences, none of which is a prefix of another: each is a leaf, and every leaf is one.

    Work per call: comparing the sequence once with what is stored, and a dictionary access per node on the way.
    """

    def __init__(self) -> None:
        self._root: Node[_Value] = Node(_NO_TOKENS, None)

    def find(self, tokens: Tokens) -> tuple[Node[_Value] | None, int]:
        """Return a leaf with the longest common prefix, the latest if there are several, and the prefix's length."""
        node, length = self._descend(tokens)
        if not length:
            return None, 0
        while node.children:
            node = node.children[next(reversed(node.children))]
        return node, length

    def covers(self, tokens: Tokens) -> Node[_Value] | None:
        """Return a leaf that begins with `tokens`, or `None`."""
        leaf, length = self.find(tokens)
        return leaf if length == len(tokens) else None

    def add(self, tokens: Tokens, value: _Value) -> tuple[Node[_Value], Node[_Value] | None]:
        """Store a sequence that no stored one covers.

        Returns:
            Its leaf, and the leaf of the stored sequence that is a prefix of it, which is removed; `None` if there is
            none.
        """
        node, length = self._descend(tokens)
        assert length < len(tokens), "the sequence is covered; see `covers`"
        if length < len(node.tokens):
            node = self._split(node, length)
        leaf = Node(tokens, node, value)
        if node.value is not None:
            return self._replace(node, leaf), node
        node.children[int(tokens[length])] = leaf
        return leaf, None

    def remove(self, leaf: Node[_Value]) -> None:
        """Remove a stored sequence."""
        parent = leaf.parent
        assert parent is not None, "the root is no leaf"
        del parent.children[int(leaf.tokens[len(parent.tokens)])]
        if len(parent.children) == 1 and parent.parent is not None:
            [only] = parent.children.values()
            self._replace(parent, only)

    def _descend(self, tokens: Tokens) -> tuple[Node[_Value], int]:
        """Return the node up to which, or on the way to which, `tokens` agrees with what is stored, and how far."""
        node, length = self._root, 0
        while length < len(tokens) and (child := node.children.get(int(tokens[length]))) is not None:
            node = child
            length += common_prefix_length(node.tokens[length:], tokens[length:])
            if length < len(node.tokens):
                break
        return node, length

    def _split(self, node: Node[_Value], length: int) -> Node[_Value]:
        """Put a new node on the way to `node`, at `length` tokens, and return it."""
        assert node.parent is not None, "nothing is above the root"
        middle: Node[_Value] = Node(node.tokens[:length], node.parent)
        self._replace(node, middle)
        middle.children[int(node.tokens[length])] = node
        node.parent = middle
        return middle

    @staticmethod
    def _replace(node: Node[_Value], other: Node[_Value]) -> Node[_Value]:
        """Put another node in the place of a node among the children of its parent."""
        assert node.parent is not None, "the root stays"
        node.parent.children[int(node.tokens[len(node.parent.tokens)])] = other
        other.parent = node.parent
        return other
