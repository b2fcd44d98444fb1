"""Expiry of preferences, and the time to live of items in stores."""

from datetime import UTC, datetime, timedelta

import pytest
from langgraph.store.sqlite import SqliteStore

from langchain_amulet.memory.preference_memory import PreferenceMemory
from langchain_amulet.preferences import Preference

SOON = datetime.now(UTC) + timedelta(days=1)
PAST = datetime.now(UTC) - timedelta(seconds=1)


@pytest.fixture
def memory() -> PreferenceMemory:
    return PreferenceMemory()


def test_preference_is_not_recalled_after_it_expires(memory, monkeypatch):
    memory.remember("alice", "Be brief.", expires_at=SOON)
    assert len(memory.recall("alice")) == 1
    monkeypatch.setattr(Preference, "is_expired", property(lambda self: self.expires_at is not None))
    assert memory.recall("alice") == []


def test_expired_preference_can_be_renewed(memory):
    memory.remember("alice", "Be brief.", expires_at=PAST)
    memory.update("alice", "Be brief.", expires_at=SOON)
    assert len(memory.recall("alice")) == 1


def test_stores_with_a_time_to_live_delete_expired_items():
    with SqliteStore.from_conn_string(":memory:") as store:
        memory = PreferenceMemory(store)
        memory.remember("alice", "Be brief.", expires_at=PAST)
        memory.remember("alice", "Be kind.")
        exported = memory.export("alice")
        memory.import_("bob", exported)
        store.conn.execute("UPDATE store SET expires_at = '2000-01-01' WHERE expires_at IS NOT NULL")
        assert store.sweep_ttl() == 4
        assert [item.value["text"] for item in store.search(("preferences",))] == ["Be kind."] * 2


def test_default_time_to_live_of_the_store_applies_to_preferences_that_do_not_expire():
    with SqliteStore.from_conn_string(":memory:", ttl={"default_ttl": 60, "refresh_on_read": False}) as store:
        memory = PreferenceMemory(store)
        memory.remember("alice", "Be brief.")
        memory.remember("alice", "Be kind.", expires_at=datetime.now(UTC) + timedelta(minutes=5))
        ttl = dict(store.conn.execute("SELECT json_extract(value, '$.text'), ttl_minutes FROM store").fetchall())
        assert ttl == {"Be brief.": 60, "Be kind.": pytest.approx(5, abs=0.1)}


@pytest.mark.parametrize("refresh", [True, False])
def test_reading_renews_the_time_to_live_if_the_store_is_configured_so(refresh):
    with SqliteStore.from_conn_string(":memory:", ttl={"default_ttl": 60, "refresh_on_read": refresh}) as store:
        memory = PreferenceMemory(store)
        memory.remember("alice", "Be brief.")
        store.conn.execute("UPDATE store SET expires_at = '2000-01-01 00:00:00'")
        memory.recall("alice")
        [expires_at] = store.conn.execute("SELECT expires_at FROM store WHERE prefix = 'preferences.alice'").fetchone()
        assert expires_at.startswith("2000") != refresh
