"""The cache of saved rows: its index equals a linear scan, and its cost does not grow with the number of rows."""

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from langchain_amulet.engine import prefix_index
from langchain_amulet.engine.labels import Labels
from langchain_amulet.engine.prefix_cache import Prefix, PrefixCache
from langchain_amulet.engine.tokens import common_prefix_length

TOKENS = st.lists(st.integers(0, 2), min_size=1, max_size=12).map(lambda ids: np.array(ids, dtype=np.int64))


class LinearCache:
    """The rows in a list, the least recently used first; every call looks at all of them."""

    def __init__(self, max_tokens: int) -> None:
        self.max_tokens = max_tokens
        self.rows: list[Prefix] = []

    def longest(self, tokens) -> int:
        return max((common_prefix_length(row.tokens, tokens) for row in self.rows), default=0)

    def put(self, prefix) -> None:
        self.rows = [row for row in self.rows if self.longest_of(row, prefix.tokens) < len(row.tokens)]
        self.rows.append(prefix)
        while sum(len(row.tokens) for row in self.rows) > self.max_tokens:
            self.rows.pop(0)

    @staticmethod
    def longest_of(row, tokens) -> int:
        return common_prefix_length(row.tokens, tokens)

    def use(self, prefix) -> None:
        self.rows.remove(prefix)
        self.rows.append(prefix)


class CacheMachine(RuleBasedStateMachine):
    """Save, find and forget in any order, in the cache and in the list."""

    @initialize(max_tokens=st.integers(5, 60))
    def build(self, max_tokens):
        self.cache, self.linear = PrefixCache[str](max_tokens), LinearCache(max_tokens)

    @rule(tokens=TOKENS, is_private=st.booleans())
    def keep(self, tokens, is_private):
        has_use = len(tokens) <= self.linear.max_tokens and self.linear.longest(tokens) < len(tokens)
        order = [*self.cache._leaves]
        assert self.cache.has_use_for(tokens) == has_use
        if has_use:
            prefix = Prefix(tokens, "", is_private=is_private)
            self.cache.put(prefix)
            self.linear.put(prefix)
        elif [*self.cache._leaves] != order:
            self.linear.use(next(reversed(self.cache._leaves)).value)

    @rule(tokens=TOKENS)
    def find(self, tokens):
        prefix, length = self.cache.find(tokens)
        assert length == self.linear.longest(tokens)
        if prefix is not None:
            assert common_prefix_length(prefix.tokens, tokens) == length
            self.linear.use(prefix)

    @rule(private_only=st.booleans())
    def clear(self, private_only):
        self.cache.clear(private_only=private_only)
        self.linear.rows = [row for row in self.linear.rows if private_only and not row.is_private]

    @invariant()
    def both_hold_the_same_rows_in_the_same_order(self):
        assert [leaf.value for leaf in self.cache._leaves] == self.linear.rows
        assert self.cache.num_tokens == sum(len(row.tokens) for row in self.linear.rows)

    @invariant()
    def every_leaf_is_a_row_and_every_other_node_parts_rows(self):
        nodes = [self.cache._index._root]
        while nodes:
            node = nodes.pop()
            assert node.parent is None or (node in self.cache._leaves) == (not node.children)
            assert node.parent is None or len(node.children) != 1
            assert all(child.parent is node for child in node.children.values())
            nodes += node.children.values()

    def teardown(self):
        self.cache.clear()
        assert not self.cache._index._root.children


TestCache = CacheMachine.TestCase
TestCache.settings = settings(deadline=None, stateful_step_count=40)


@pytest.fixture
def compared(monkeypatch):
    """Return the list of the lengths of all comparisons."""
    lengths = []

    def counted(a, b):
        lengths.append(min(len(a), len(b)))
        return common_prefix_length(a, b)

    monkeypatch.setattr(prefix_index, "common_prefix_length", counted)
    return lengths


def test_cost_does_not_grow_with_the_number_of_rows(compared):
    """Each step down the tree compares tokens that no other step compares."""
    rows = np.random.default_rng(0).integers(0, 40, (2000, 120))
    rows[:, :60] = 7  # a system prompt that all share
    cache = PrefixCache[str](10**9)
    for row in rows:
        compared.clear()
        assert cache.has_use_for(row)
        cache.put(Prefix(row, ""))
        cache.find(row)
        assert sum(compared) <= 3 * len(row)
        assert len(compared) <= 30


def test_a_label_has_one_number_as_long_as_it_is_held():
    labels = Labels()
    alice = labels.of("alice")
    assert labels.of("alice") is alice
    number = alice.number
    del alice
    assert labels.of("bob").number != number
    assert labels.of("alice").number != number
