"""Sources of preferences besides LangGraph's stores: mappings, functions, key-value stores, langmem's memories."""

import asyncio
import contextlib
import fnmatch
import sqlite3
import threading
from types import MappingProxyType

import pytest
from langchain_core.stores import InMemoryByteStore
from langgraph.store.memory import InMemoryStore
from langgraph.store.sqlite import SqliteStore
from langgraph.store.sqlite.aio import AsyncSqliteStore

from langchain_amulet.exceptions import (
    InvalidParameterError,
    PreferenceError,
    StoreError,
    StoreTimeoutError,
    StoreTypeError,
)
from langchain_amulet.memory.preference_memory import PreferenceMemory
from langchain_amulet.preferences import Preference
from tests.fakes.writers import database
from tests.unit_tests.memory.test_expiry import PAST

BRIEF = Preference("Be brief.", 0.5)
LANGMEM = ("memories", "{langgraph_user_id}")

# Mappings and functions


@pytest.mark.parametrize("preferences", [BRIEF, [BRIEF], (BRIEF,), [BRIEF, Preference("Be kind.", expires_at=PAST)]])
async def test_mapping_is_a_source_of_preferences(preferences):
    memory = PreferenceMemory(MappingProxyType({"alice": preferences}))
    assert memory.recall("alice") == await memory.arecall("alice") == [BRIEF]
    assert memory.recall("bob") == await memory.arecall("bob") == []


def test_mapping_is_read_again_for_every_answer():
    mapping: dict[str, str] = {}
    memory = PreferenceMemory(mapping)
    assert memory.recall("alice") == []
    mapping["alice"] = "Be brief."
    assert memory.recall("alice") == [Preference("Be brief.")]


async def test_function_is_called_with_the_unchanged_user_id():
    user_ids: list[str] = []
    memory = PreferenceMemory(user_ids.append)
    assert memory.recall("a.b\x00\n%") == await memory.arecall("x" * 1000) == []
    assert user_ids == ["a.b\x00\n%", "x" * 1000]


def test_function_is_not_called_for_a_search_of_the_store():
    user_ids: list[str] = []
    memory = PreferenceMemory(user_ids.append)
    with pytest.raises(StoreTypeError, match="is read-only"):
        memory.store.search(("preferences",), query="alice")
    assert user_ids == []


async def test_function_is_called_again_if_its_database_is_locked_for_a_moment():
    errors = [sqlite3.OperationalError("database is locked")] * 4

    def read(_user_id):
        if errors:
            raise errors.pop()
        return BRIEF

    memory = PreferenceMemory(read)
    assert memory.recall("alice") == [BRIEF]
    errors += [sqlite3.OperationalError("database is locked")] * 4
    assert await memory.arecall("alice") == [BRIEF]


async def test_sync_function_does_not_block_the_event_loop():
    threads = []
    memory = PreferenceMemory(lambda _: threads.append(threading.current_thread()))
    await memory.arecall("alice")
    assert threads != [threading.current_thread()]


class Profiles:
    async def __call__(self, user_id):
        return f"Call me {user_id}."


async def test_async_function_serves_async_callers_and_refuses_others():
    for memory in (PreferenceMemory(Profiles()), PreferenceMemory(Profiles().__call__)):
        assert await memory.arecall("alice") == [Preference("Call me alice.")]
        with pytest.raises(StoreTypeError, match="ainvoke"):
            memory.recall("alice")


def test_function_that_returns_another_type_raises():
    with pytest.raises(PreferenceError, match="Not a preference: got dict"):
        PreferenceMemory(lambda _: {"text": "Be brief."}).recall("alice")


@pytest.mark.parametrize(
    ("error", "ours"), [(KeyError, StoreError), (StopIteration, StoreError), (TimeoutError, StoreTimeoutError)]
)
async def test_error_of_a_function_is_one_of_a_store(error, ours):
    def fail(_):
        raise error

    for read_timeout in (10, None):
        with pytest.raises(ours, match=f"failed with {error.__name__}"):
            PreferenceMemory(fail, read_timeout=read_timeout).recall("alice")
    with pytest.raises(ours, match="failed with"):  # a coroutine cannot raise StopIteration
        await PreferenceMemory(fail).arecall("alice")


async def test_function_that_raises_stop_iteration_fails_at_once():
    def first_match(user_id: str) -> str:
        return next(text for name, text in [("bob", "Be brief.")] if name == user_id)

    memory = PreferenceMemory(first_match, read_timeout=60)
    with pytest.raises(StoreError, match="StopIteration"):
        memory.recall("alice")
    with pytest.raises(StoreError):
        await asyncio.wait_for(memory.arecall("alice"), timeout=30)


async def test_mapping_and_function_are_read_only():
    for source in ({"alice": BRIEF}, lambda _: BRIEF):
        memory = PreferenceMemory(source)
        for call in (
            lambda memory=memory: memory.remember("alice", "Be kind."),
            lambda memory=memory: memory.update("alice", "Be brief.", weight=1.0),
            lambda memory=memory: memory.forget("alice"),
            lambda memory=memory: memory.forget_user("alice"),
            lambda memory=memory: memory.history("alice"),
        ):
            with pytest.raises(StoreTypeError, match="is read-only.*InMemoryStore or SqliteStore"):
                call()
        with pytest.raises(StoreTypeError, match="is read-only"):
            await memory.aremember("alice", "Be kind.")


@pytest.mark.parametrize(
    "source",
    [
        7,
        "memory.db",
        [BRIEF],
        InMemoryStore,
        SqliteStore.from_conn_string(":memory:"),
        AsyncSqliteStore.from_conn_string(":memory:"),
        contextlib.nullcontext(),
    ],
    ids=lambda source: type(source).__name__,
)
def test_unsupported_sources_are_refused(source):
    with pytest.raises(StoreTypeError, match="entered with `with` first"):
        PreferenceMemory(source)


# Key-value stores


def test_key_value_store_may_contain_other_data():
    store = InMemoryByteStore()
    store.mset([("preferences", b"not ours"), ("other", b"not ours")])
    memory = PreferenceMemory(store)
    memory.remember("alice", "Be brief.")
    memory.forget_user("alice")
    assert sorted(store.yield_keys()) == ["other", "preferences"]


def test_keys_of_a_key_value_store_contain_neither_user_ids_nor_texts():
    store = InMemoryByteStore()
    PreferenceMemory(store).remember("alice", "Be brief.")
    assert not [key for key in store.yield_keys() if "alice" in key or "brief" in key]


def test_memories_over_one_key_value_store_share_it():
    store = InMemoryByteStore()
    PreferenceMemory(store).remember("alice", "Be brief.")
    assert PreferenceMemory(store).recall("alice") == [Preference("Be brief.")]


class PatternStore(InMemoryByteStore):
    """A store that takes a prefix as a pattern for whole keys, as stores over Redis do."""

    def yield_keys(self, *, prefix=None):
        return iter(fnmatch.filter(self.store, prefix or "*"))

    async def ayield_keys(self, *, prefix=None):
        for key in self.yield_keys(prefix=prefix):
            yield key


async def test_key_value_stores_that_take_prefixes_as_patterns_are_supported():
    memory = PreferenceMemory(PatternStore())
    memory.remember("alice", BRIEF)
    memory.remember("bob", "Be kind.")
    assert memory.recall("alice") == await memory.arecall("alice") == [BRIEF]
    memory.forget("alice", BRIEF.text)
    await memory.aforget_user("bob")
    assert memory.recall("alice") == memory.recall("bob") == []


# Memories of langmem's tools


@pytest.fixture
def langmem_store() -> InMemoryStore:
    store = InMemoryStore()
    memories = [
        {"content": "User prefers short answers."},
        {"content": ["Likes tea.", "Likes cats."]},
        {"content": {"name": "Alice", "languages": ["de", "en"], "age": 40, "email": None, "note": ""}},
        {"kind": "UserProfile", "content": {"tone": "formal"}},
        {"content": ""},
        {"content": {}},
        {},
    ]
    for number, value in enumerate(memories):
        store.put(("memories", "alice"), f"5f2f9a0e-0000-4000-8000-{number:012d}", value)
    store.put(("memories", "alice", "drafts"), "1", {"content": "elsewhere"})
    store.put(("memories", "bob"), "1", {"content": "bob's"})
    return store


async def test_memories_of_langmem_are_preferences(langmem_store):
    memory = PreferenceMemory(langmem_store, langmem_namespace=LANGMEM)
    memory.remember("alice", "Be kind.", 0.5)
    expected = [
        Preference("User prefers short answers."),
        Preference("Likes tea.; Likes cats."),
        Preference("age: 40; languages: de; languages: en; name: Alice"),
        Preference("tone: formal"),
        Preference("Be kind.", 0.5),
    ]
    assert memory.recall("alice") == await memory.arecall("alice") == expected


def test_characters_that_preferences_must_not_contain_are_removed(langmem_store):
    langmem_store.put(("memories", "carol"), "1", {"content": "Likes\0 tea\ud800."})
    memory = PreferenceMemory(langmem_store, langmem_namespace=LANGMEM)
    assert memory.recall("carol") == [Preference("Likes tea.")]


def test_memories_of_langmem_are_ignored_by_default(langmem_store):
    assert PreferenceMemory(langmem_store).recall("alice") == []


def test_remembered_preference_replaces_an_equal_memory_of_langmem(langmem_store):
    memory = PreferenceMemory(langmem_store, langmem_namespace=LANGMEM)
    memory.remember("bob", "bob's", -1.0)
    assert memory.recall("bob") == [Preference("bob's", -1.0)]


@pytest.mark.parametrize("kind", ["sqlite", "postgres"])
def test_ids_that_langmem_cannot_have_used_have_no_memories(kind, tmp_path, request):
    place = str(tmp_path / "memory.db") if kind == "sqlite" else request.getfixturevalue("empty_postgres").uri
    with database(kind, place) as store:
        store.put(("memories", "a"), "1", {"content": "a's"})
        store.put(("memories", "a", "b"), "1", {"content": "elsewhere"})
        memory = PreferenceMemory(store, langmem_namespace=LANGMEM)
        for user_id in ("a.b", "a.", "\x00", "\ud800", "{langgraph_user_id}", "A", "a%", "langgraph"):
            assert memory.recall(user_id) == []
        assert memory.recall("a") == [Preference("a's")]


def test_memories_of_langmem_are_ordered_by_time():
    store = InMemoryStore()
    for key in "cab":
        store.put(("memories", "alice"), key, {"content": f"Likes {key}."})
    memory = PreferenceMemory(store, langmem_namespace=LANGMEM)
    assert [preference.text for preference in memory.recall("alice")] == ["Likes c.", "Likes a.", "Likes b."]


def test_forgetting_a_user_does_not_delete_memories_of_langmem(langmem_store):
    memory = PreferenceMemory(langmem_store, langmem_namespace=LANGMEM)
    memory.forget_user("alice")
    assert len(memory.recall("alice")) == 4


@pytest.mark.parametrize("where", ["memories", ("memories",), (), ("memories", "{user}"), "{langgraph_user_id}"])
def test_namespace_without_the_user_id_is_refused(where):
    with pytest.raises(InvalidParameterError, match="must contain the user id"):
        PreferenceMemory(langmem_namespace=where)
