"""Methods of a memory, over any one store. test_stores.py runs one suite over all kinds of stores."""

import hashlib
import json
import sqlite3
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from langgraph.store.base import SearchOp
from langgraph.store.memory import InMemoryStore
from langgraph.store.sqlite import SqliteStore

from langchain_amulet.exceptions import (
    InvalidParameterError,
    PreferenceError,
    StoredPreferenceError,
    UnknownPreferenceError,
)
from langchain_amulet.memory.access import tell_when_forgetting
from langchain_amulet.memory.preference_memory import PreferenceMemory
from langchain_amulet.preferences import Preference

ALICE = ("preferences", "alice")
SOON = datetime.now(UTC) + timedelta(days=1)


@pytest.fixture
def memory() -> PreferenceMemory:
    return PreferenceMemory()


def changes(memory: PreferenceMemory) -> list[tuple[str, Preference]]:
    return [(change.action, change.preference) for change in memory.history("alice")]


# Public names

METHODS = ("remember", "recall", "update", "forget", "forget_user", "history", "export", "import_")


def test_public_names_are_the_documented_methods_their_async_twins_and_the_store():
    names = [name for name in dir(PreferenceMemory) if not name.startswith("_")]
    assert names == sorted([*METHODS, *(f"a{name}" for name in METHODS), "store"])
    assert all(getattr(PreferenceMemory, name).__doc__ for name in names)


# Remembering


def test_remember_accepts_a_preference_object(memory):
    preference = Preference("Be brief.", -0.5, "learned", SOON)
    assert memory.remember("alice", preference) == preference
    assert memory.recall("alice") == [preference]


def test_arguments_beside_a_preference_object_are_refused(memory):
    with pytest.raises(InvalidParameterError, match="Leave the other arguments out"):
        memory.remember("alice", Preference("Be brief."), 0.5)


def test_remember_replaces_an_invalid_item_of_the_same_key(memory):
    memory.remember("alice", "Be brief.")
    [item] = memory.store.search(ALICE)
    memory.store.put(ALICE, item.key, {"text": "Be brief."})
    memory.remember("alice", "Be brief.")
    assert memory.recall("alice") == [Preference("Be brief.")]


def test_each_preference_is_one_item_under_a_hashed_key(memory):
    memory.remember("alice", "Be brief.", 0.5)
    [item] = memory.store.search(ALICE)
    assert item.key == hashlib.sha256(b"Be brief.").hexdigest()
    assert (item.value["text"], item.value["weight"]) == ("Be brief.", 0.5)


@pytest.mark.parametrize("user_id", ["x" * 201, "漢" * 67, "x" * 10_000])
def test_id_too_long_for_a_label_is_hashed_and_stored_in_the_item(memory, user_id):
    memory.remember(user_id, "Be brief.")
    [item] = memory.store.search(("preferences",))
    assert len(item.namespace[1]) < 200
    assert item.value["user_id"] == user_id


def test_id_of_two_hundred_bytes_is_not_hashed(memory):
    memory.remember("x" * 200, "Be brief.")
    assert [item.namespace for item in memory.store.search(("preferences",))] == [("preferences", "x" * 200)]


def test_wrong_preference_is_refused_before_anything_is_stored(memory):
    with pytest.raises(PreferenceError):
        memory.remember("alice", 7)
    with pytest.raises(InvalidParameterError):
        memory.remember("alice", "Be brief.", float("inf"))
    with pytest.raises(InvalidParameterError, match="no time zone"):
        memory.remember("alice", "Be brief.", expires_at=datetime(2030, 1, 1))  # noqa: DTZ001 - the error under test
    assert memory.store.search(()) == []


def test_remembering_a_stored_preference_again_writes_nothing(memory):
    memory.remember("alice", "Be brief.")
    items = memory.store.search(())
    memory.remember("alice", "Be brief.")
    assert memory.store.search(()) == items
    assert len(changes(memory)) == 1


# Items of other programs


@pytest.mark.parametrize(
    "value",
    [
        {},
        {"text": "secret"},
        {"text": "secret", "weight": "much"},
        {"text": "secret", "weight": 1.0, "expires_at": "tomorrow"},
        {"text": "secret", "weight": 1.0, "expires_at": "2030-01-01"},
        {"text": "secret", "weight": 1.0, "source": "heard"},
    ],
)
def test_error_about_an_invalid_item_names_its_key_but_not_its_text(memory, value):
    memory.store.put(ALICE, "key-1", value)
    with pytest.raises(StoredPreferenceError, match="key-1.*needs a text and a weight") as raised:
        memory.recall("alice")
    assert "secret" not in str(raised.value)


def test_forgetting_works_with_invalid_items(memory):
    memory.store.put(ALICE, "written by another program", {"text": "Be brief.", "weight": 1.0})
    memory.store.put(ALICE, "broken", {"remembered_at": "yesterday"})
    memory.store.put(("preference_history", "alice"), "broken", {})
    memory.forget("alice", "Be brief.")
    assert [item.key for item in memory.store.search(ALICE)] == ["broken"]
    memory.forget("alice")
    assert memory.store.search(()) == []


def test_items_of_other_programs_without_a_time_come_first(memory):
    memory.remember("alice", "Be kind.")
    memory.store.put(ALICE, "b", {"text": "Be brief.", "weight": 1.0, "remembered_at": "yesterday"})
    memory.store.put(ALICE, "a", {"text": "No emojis.", "weight": 1.0})
    assert [preference.text for preference in memory.recall("alice")] == ["No emojis.", "Be brief.", "Be kind."]


class LeakyStore(InMemoryStore):
    """A store whose search matches prefixes of the joined labels, as in earlier versions of some stores."""

    def batch(self, ops):
        ops = [*ops]
        results: list[Any] = super().batch([self._widened(op) for op in ops])
        return [
            [item for item in result if "".join(item.namespace).startswith("".join(op.namespace_prefix))]
            if isinstance(op, SearchOp)
            else result
            for op, result in zip(ops, results, strict=True)
        ]

    def _widened(self, op):
        return op._replace(namespace_prefix=op.namespace_prefix[:1]) if isinstance(op, SearchOp) else op


def test_leaky_search_is_filtered():
    memory = PreferenceMemory(LeakyStore())
    memory.remember("1", "Be brief.")
    memory.remember("12", "Be kind.")
    assert len(memory.store.search(("preferences", "1"))) == 2
    assert memory.recall("1") == [Preference("Be brief.")]
    memory.forget_user("1")
    assert memory.recall("12") == [Preference("Be kind.")]
    assert len(memory.history("12")) == 1


# History


def test_history_contains_times_actions_and_preferences(memory):
    before = datetime.now(UTC)
    memory.remember("alice", "Be brief.")
    memory.remember("alice", "Be brief.", 0.5)
    [first, second] = memory.history("alice")
    assert (first.action, first.preference) == ("remembered", Preference("Be brief."))
    assert (second.action, second.preference) == ("changed", Preference("Be brief.", 0.5))
    assert before - timedelta(milliseconds=1) <= first.at <= second.at <= datetime.now(UTC) + timedelta(milliseconds=1)
    assert "Be brief." not in repr(first)


def test_unknown_change_is_refused(memory):
    memory.remember("alice", "Be brief.")
    with pytest.raises(TypeError, match="wieght"):
        memory.update("alice", "Be brief.", wieght=0.5)
    with pytest.raises(InvalidParameterError, match="from -100 to 100"):
        memory.update("alice", "Be brief.", weight=1000)
    with pytest.raises(UnknownPreferenceError, match="with remember") as raised:
        memory.update("alice", "Be kind.", weight=0.5)
    assert "Be kind." not in str(raised.value)
    assert changes(memory) == [("remembered", Preference("Be brief."))]


def test_update_without_a_change_writes_nothing(memory):
    memory.remember("alice", "Be brief.")
    assert memory.update("alice", "Be brief.", weight=1.0) == Preference("Be brief.")
    assert len(changes(memory)) == 1


def test_every_field_can_change(memory):
    memory.remember("alice", "Be brief.")
    changed = memory.update("alice", "Be brief.", new_text="Be kind.", weight=-1, source="learned", expires_at=SOON)
    assert changed == Preference("Be kind.", -1, "learned", SOON)
    assert memory.recall("alice") == [changed]
    assert memory.update("alice", "Be kind.", expires_at=None) == Preference("Be kind.", -1, "learned")


def test_forgetting_deletes_all_versions_from_the_history(memory):
    memory.remember("alice", "First of two.")
    memory.remember("alice", "Second of two.")
    memory.update("alice", "First of two.", new_text="Both.")
    memory.update("alice", "Second of two.", new_text="Both.")
    memory.remember("alice", "Be kind.")
    memory.forget("alice", "Both.")
    assert changes(memory) == [("remembered", Preference("Be kind."))]


def test_forgetting_a_reused_text_leaves_the_other_preference(memory):
    memory.remember("alice", "Be brief.")
    memory.update("alice", "Be brief.", new_text="Be concise.")
    memory.remember("alice", "Be brief.")
    memory.update("alice", "Be brief.", new_text="Be short.")
    memory.update("alice", "Be short.", new_text="Be terse.")
    memory.forget("alice", "Be terse.")
    assert memory.recall("alice") == [Preference("Be concise.")]
    assert [preference.text for _, preference in changes(memory)] == ["Be brief.", "Be concise."]


def test_forgetting_an_earlier_text_deletes_it_from_the_history(memory):
    memory.remember("alice", "Be brief.")
    memory.update("alice", "Be brief.", new_text="Be concise.")
    memory.forget("alice", "Be brief.")
    assert memory.recall("alice") == [Preference("Be concise.")]
    assert changes(memory) == [("changed", Preference("Be concise."))]


def test_forgetting_a_user_deletes_only_their_feedback(memory):
    for user_id in ("alice", "bob"):
        memory.remember(user_id, "Be brief.")
        memory.store.put(("preference_feedback", user_id), "1", {"kind": "liked", "evidence": {}, "at_ns": 1})
    memory.forget_user("alice")
    assert {item.namespace for item in memory.store.search(())} == {
        (root, "bob") for root in ("preferences", "preference_history", "preference_feedback")
    }


class CountingCache:
    num_times = 0

    def forget_private(self):
        self.num_times += 1


async def test_private_caches_are_dropped_by_every_method_that_forgets(memory):
    cache = CountingCache()
    tell_when_forgetting(cache)
    memory.remember("alice", "Be brief.")
    assert cache.num_times == 0
    memory.forget("alice", "Be brief.")
    memory.forget_user("alice")
    await memory.aforget("alice")
    await memory.aforget_user("alice")
    assert cache.num_times == 4
    memory.remember("alice", "Be brief.")
    memory.update("alice", "Be brief.", new_text="Be kind.")
    await memory.aupdate("alice", "Be kind.", new_text="Be brief.")
    assert cache.num_times == 6


class FailingStore(InMemoryStore):
    def batch(self, _ops):
        raise ConnectionError

    abatch = batch


async def test_private_caches_are_dropped_if_the_store_fails():
    memory, cache = PreferenceMemory(FailingStore()), CountingCache()
    tell_when_forgetting(cache)
    with pytest.raises(ConnectionError):
        memory.forget("alice")
    with pytest.raises(ConnectionError):
        await memory.aforget("alice")
    assert cache.num_times == 2


# Export


def test_export_is_json_of_everything_stored(memory):
    memory.remember("alice", Preference("Be brief.", 0.5, "learned", SOON))
    feedback = {"kind": "liked", "evidence": {"a": 0.5}, "at_ns": 1}
    memory.store.put(("preference_feedback", "alice"), "1", feedback)
    exported = memory.export("alice")
    assert json.loads(json.dumps(exported)) == exported
    assert exported["user_id"] == "alice"
    [value] = exported["preferences"].values()
    assert (value["text"], value["weight"], value["source"]) == ("Be brief.", 0.5, "learned")
    assert datetime.fromisoformat(value["expires_at"]) == SOON
    assert len(exported["preference_history"]) == 1
    assert exported["preference_feedback"] == {"1": feedback}


# Connections


async def test_connection_of_one_thread_is_used_by_that_thread():
    store = SqliteStore(sqlite3.connect(":memory:", isolation_level=None))
    memory = PreferenceMemory(store)
    memory.remember("alice", "Be brief.")
    assert memory.recall("alice") == await memory.arecall("alice") == [Preference("Be brief.")]
    await memory.aforget("alice")
    assert memory.recall("alice") == []
    store.conn.close()
