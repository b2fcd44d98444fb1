"""Stores that limit their pages or ignore offsets, and stores with damaged items."""

import traceback
from typing import Any

import pytest
from langchain_core.stores import InMemoryByteStore
from langgraph.store.base import SearchOp
from langgraph.store.memory import InMemoryStore

from langchain_amulet import Preference, PreferenceMemory
from langchain_amulet.exceptions import StoredPreferenceError, StoreTypeError
from langchain_amulet.memory import store_ops

BRIEF = Preference("Be brief.")
PRIVATE = "Zanzibar"


class Limited(InMemoryStore):
    """A store that returns at most `limit` items per search, and may ignore offsets. It counts the searches."""

    def __init__(self, limit: int, *, knows_offsets: bool = True) -> None:
        super().__init__()
        self._limit = limit
        self._knows_offsets = knows_offsets
        self.num_searches = 0

    def batch(self, ops):
        return super().batch([self._limited(op) if isinstance(op, SearchOp) else op for op in ops])

    def _limited(self, op: SearchOp) -> SearchOp:
        self.num_searches += 1
        assert self.num_searches < 1000, "the search does not end"
        return op._replace(limit=min(op.limit, self._limit), offset=op.offset if self._knows_offsets else 0)


def filled(store: InMemoryStore, num_preferences: int) -> PreferenceMemory:
    memory = PreferenceMemory(store)
    for number in range(num_preferences):
        memory.remember("alice", f"Preference {number}.")
    return memory


@pytest.mark.parametrize("num_preferences", [3, 4, 5, 8, 11])
def test_store_that_limits_the_page_size_is_read_completely(monkeypatch, num_preferences):
    monkeypatch.setattr(store_ops, "PAGE_SIZE", 4)
    assert len(filled(Limited(4), num_preferences).recall("alice")) == num_preferences


@pytest.mark.parametrize("limit", [10, 16, 50, 64])
@pytest.mark.parametrize("num_pages", [1, 2.5])
def test_store_whose_limit_is_below_the_page_size_is_read_completely(limit, num_pages):
    num_preferences = round(num_pages * limit)
    assert len(filled(Limited(limit), num_preferences).recall("alice")) == num_preferences


@pytest.mark.parametrize("num_preferences", [4, 5, 9])
def test_store_that_limits_pages_and_ignores_offsets_is_refused_after_a_few_searches(monkeypatch, num_preferences):
    monkeypatch.setattr(store_ops, "PAGE_SIZE", 4)
    memory = filled(store := Limited(4, knows_offsets=False), num_preferences)
    for call in (memory.recall, memory.history, memory.export, memory.forget_user):
        store.num_searches = 0
        with pytest.raises(StoreTypeError, match="at most 4 items at once.*use another store"):
            call("alice")
        assert store.num_searches == 3


@pytest.mark.parametrize("num_preferences", [1, 9, 10, 16, 30])
def test_store_that_ignores_offsets_but_returns_everything_is_read(num_preferences):
    memory = filled(store := Limited(1000, knows_offsets=False), num_preferences)
    store.num_searches = 0
    assert len(memory.recall("alice")) == num_preferences
    assert store.num_searches <= 2


def test_items_that_move_while_pages_are_read_are_found_once(monkeypatch):
    monkeypatch.setattr(store_ops, "PAGE_SIZE", 4)
    items = filled(InMemoryStore(), 6).store.search(("preferences", "alice"), limit=10)
    search = store_ops.find_all(("preferences", "alice"))
    next(search)
    for page in (items[:4], items[:4], items[3:5], items[4:]):
        search.send([page])
    with pytest.raises(StopIteration) as end:
        search.send([items[5:]])
    assert end.value.value == items


# Damaged items


DAMAGES = {
    "cut": lambda stored: stored[:-5],
    "empty": lambda _: b"",
    "not UTF-8": lambda stored: stored.replace(b"Zanzibar", b"Zanzibar\xff"),
    "a list": lambda _: b'["Zanzibar"]',
    "a text": lambda _: b'"Zanzibar"',
    "no value": lambda _: b'{"key": "Zanzibar"}',
    "a value that is a text": lambda stored: stored.replace(b'"value": {', b'"value": "Zanzibar", "x": {'),
    "a time that is none": lambda stored: stored.replace(b'"at": "', b'"at": "Zanzibar'),
    "nested too deep": lambda _: b"[" * 100_000,
    "of another user": lambda stored: stored.replace(b"alice", b"mallory"),
    "not bytes": lambda _: 7,
}


@pytest.fixture(params=DAMAGES)
def damaged(request) -> PreferenceMemory:
    """A memory whose only preference is damaged."""
    store = InMemoryByteStore()
    memory = PreferenceMemory(store)
    memory.remember("alice", f"Speak of {PRIVATE}.")
    [key] = store.yield_keys(prefix="preferences/")
    stored: Any = DAMAGES[request.param](store.mget([key])[0])
    store.mset([(key, stored)])
    return memory


async def test_damaged_item_of_a_key_value_store_is_named_by_its_key_without_its_text(damaged):
    [key] = damaged.store.store.yield_keys(prefix="preferences/")
    with pytest.raises(StoredPreferenceError, match=f"{key}.*Delete it") as raised:
        damaged.recall("alice")
    with pytest.raises(StoredPreferenceError, match=f"{key}.*Delete it"):
        await damaged.arecall("alice")
    error = raised.value
    assert PRIVATE not in "".join(traceback.format_exception(error))
    assert error.__cause__ is error.__context__ is None


def test_damaged_item_is_replaced_when_its_text_is_remembered_again(damaged):
    damaged.remember("alice", f"Speak of {PRIVATE}.")
    assert [preference.text for preference in damaged.recall("alice")] == [f"Speak of {PRIVATE}."]


async def test_damaged_item_is_deleted_when_its_user_is_forgotten(damaged):
    damaged.remember("bob", BRIEF)
    await damaged.aforget_user("alice")
    assert damaged.recall("alice") == []
    assert len([*damaged.store.store.yield_keys()]) == 2
    assert damaged.recall("bob") == [BRIEF]


def test_key_that_looks_like_one_of_a_damaged_item_reaches_no_other_user():
    memory = PreferenceMemory(store := InMemoryByteStore())
    memory.remember("bob", BRIEF)
    [of_bob] = store.yield_keys(prefix="preferences/")
    for key in (of_bob, f"damaged: {of_bob}"):
        memory.store.put(("preferences", "alice"), key, {"text": "Be rude.", "weight": 1.0})
        memory.store.delete(("preferences", "alice"), key)
    assert memory.recall("bob") == [BRIEF]


class Torn(InMemoryByteStore):
    """A store whose next two reads find items of which only a part is written."""

    num_torn = 0

    def mget(self, keys):
        self.num_torn -= 1
        return [value[:10] if value and self.num_torn >= 0 else value for value in super().mget(keys)]


async def test_item_that_is_being_written_is_read_again():
    memory = PreferenceMemory(store := Torn())
    memory.remember("alice", BRIEF)
    store.num_torn = 2
    assert memory.recall("alice") == [BRIEF]
    store.num_torn = 2
    assert await memory.arecall("alice") == [BRIEF]
