"""Per-user preference memory on LangGraph stores."""

import pytest
from langgraph.store.base import BaseStore
from langgraph.store.memory import InMemoryStore
from langgraph.store.sqlite import SqliteStore
from langgraph.store.sqlite.aio import AsyncSqliteStore

from langchain_amulet.exceptions import (
    InvalidParameterError,
    PreferenceError,
    StoredPreferenceError,
    StoreTypeError,
    UserIdError,
)
from langchain_amulet.memory import PreferenceMemory
from langchain_amulet.preferences import Preference

USER_IDS = [
    "alice@example.com",
    "1",
    "ünïcödé 漢字 👩‍🚀",
    "a.b.c",
    "100%",
    "%2E",
    "line\nbreak",
    "nul\x00",
    "x" * 10_000,
    " ",
    "\ud800",
    "langgraph",
]


@pytest.fixture(params=["in memory", "sqlite"])
def store(request, tmp_path) -> BaseStore:
    if request.param == "in memory":
        yield InMemoryStore()
        return
    with SqliteStore.from_conn_string(str(tmp_path / "memory.db")) as store:
        store.setup()
        yield store


@pytest.fixture
def memory(store) -> PreferenceMemory:
    return PreferenceMemory(store)


def test_recalls_what_was_remembered_in_order(memory):
    for text, weight in [("Be brief.", 1.0), ("No emojis.", -0.5), ("Be kind.", 0.25)]:
        assert memory.remember("alice", text, weight) == Preference(text, weight)
    assert memory.recall("alice") == [
        Preference("Be brief.", 1.0),
        Preference("No emojis.", -0.5),
        Preference("Be kind.", 0.25),
    ]


def test_unknown_user_has_no_preferences(memory):
    assert memory.recall("nobody") == []


def test_same_text_again_replaces_the_weight(memory):
    memory.remember("alice", "Be brief.")
    memory.remember("alice", "Be brief.", 0.5)
    assert memory.recall("alice") == [Preference("Be brief.", 0.5)]


def test_forgets_one_or_all_of_one_user_only(memory):
    for user_id in ("alice", "bob"):
        memory.remember(user_id, "Be brief.")
        memory.remember(user_id, "Be kind.")
    memory.forget("alice", "Be brief.")
    memory.forget("alice", "never remembered")
    assert memory.recall("alice") == [Preference("Be kind.")]
    memory.forget("alice")
    assert memory.recall("alice") == []
    assert len(memory.recall("bob")) == 2


@pytest.mark.parametrize("user_id", USER_IDS)
def test_any_string_is_a_user_id(memory, user_id):
    memory.remember(user_id, "Be brief.")
    assert memory.recall(user_id) == [Preference("Be brief.")]
    assert all(memory.recall(other) == [] for other in USER_IDS if other != user_id)
    memory.forget(user_id)
    assert memory.recall(user_id) == []


@pytest.mark.parametrize(
    ("asked", "other"),
    [("1", "12"), ("bob", "Bob"), ("bob", "bob@x.org"), ("x" * 300, "x" * 301), ("sha256=", "sha256")],
)
def test_no_user_sees_another_whose_id_begins_alike(memory, asked, other):
    memory.remember(other, "Be brief.")
    assert memory.recall(asked) == []


class LeakyStore(InMemoryStore):
    """Its search matches prefixes across labels, as some stores' did."""

    def search(self, namespace_prefix, /, **keywords):
        return [
            item
            for item in super().search(namespace_prefix[:1], **keywords)
            if "".join(item.namespace).startswith("".join(namespace_prefix))
        ]


def test_leaky_search_is_filtered():
    memory = PreferenceMemory(LeakyStore())
    memory.remember("1", "Be brief.")
    memory.remember("12", "Be kind.")
    assert len(memory.store.search(("preferences", "1"))) == 2
    assert memory.recall("1") == [Preference("Be brief.")]


def test_more_preferences_than_one_page(memory):
    for i in range(201):
        memory.remember("alice", f"Preference {i}.")
    assert len(memory.recall("alice")) == 201


async def test_async_equals_sync(memory):
    for i in range(101):
        await memory.aremember("alice", f"Preference {i}.", 0.5)
    assert await memory.arecall("alice") == memory.recall("alice")
    await memory.aforget("alice", "Preference 0.")
    assert len(memory.recall("alice")) == 100
    await memory.aforget("alice")
    assert memory.recall("alice") == []


async def test_async_only_store(tmp_path):
    async with AsyncSqliteStore.from_conn_string(str(tmp_path / "memory.db")) as store:
        await store.setup()
        memory = PreferenceMemory(store)
        await memory.aremember("alice", "Be brief.")
        assert await memory.arecall("alice") == [Preference("Be brief.")]
        await memory.aforget("alice")
        assert await memory.arecall("alice") == []


def test_sqlite_survives_a_restart(tmp_path):
    for run in range(2):
        with SqliteStore.from_conn_string(str(tmp_path / "memory.db")) as store:
            store.setup()
            memory = PreferenceMemory(store)
            if run == 0:
                memory.remember("alice@example.com", "Be brief.", 0.5)
            assert memory.recall("alice@example.com") == [Preference("Be brief.", 0.5)]


@pytest.mark.parametrize(
    ("user_id", "remedy"), [("", "Leave it out"), (7, "str\\(user_id\\)"), (None, "str\\(user_id\\)")]
)
def test_wrong_user_id_is_refused(memory, user_id, remedy):
    with pytest.raises(UserIdError, match=remedy):
        memory.recall(user_id)


def test_wrong_preference_is_refused_before_anything_is_stored(memory):
    with pytest.raises(PreferenceError):
        memory.remember("alice", 7)
    with pytest.raises(InvalidParameterError):
        memory.remember("alice", "Be brief.", float("inf"))
    assert memory.recall("alice") == []


@pytest.mark.parametrize("value", [{}, {"text": "secret"}, {"text": "secret", "weight": "much"}])
def test_item_that_is_no_preference_is_named_without_its_text(value):
    memory = PreferenceMemory()
    memory.store.put(("preferences", "alice"), "key-1", value)
    with pytest.raises(StoredPreferenceError, match="key-1.*needs a text and a weight") as raised:
        memory.recall("alice")
    assert "secret" not in str(raised.value)


def test_forgetting_needs_no_readable_items():
    memory = PreferenceMemory()
    memory.store.put(("preferences", "alice"), "written by another program", {"text": "Be brief.", "weight": 1.0})
    memory.store.put(("preferences", "alice"), "broken", {})
    memory.forget("alice", "Be brief.")
    assert [item.key for item in memory.store.search(("preferences", "alice"))] == ["broken"]
    memory.forget("alice")
    assert memory.recall("alice") == []


def test_something_that_is_no_store_is_refused():
    with pytest.raises(StoreTypeError, match="SqliteStore"):
        PreferenceMemory({"alice": "Be brief."})
