"""Opposites are stored, changed, exported, imported and forgotten with their preferences."""

import json

import pytest

from langchain_amulet import Preference, PreferenceMemory
from langchain_amulet.exceptions import ImportFormatError, InvalidParameterError, PreferenceError, StoredPreferenceError
from langchain_amulet.memory import lengths
from langchain_amulet.memory.access import tell_when_forgetting
from langchain_amulet.memory.items import key_of, preference_in, to_fields
from langchain_amulet.memory.lengths import MAX_TEXT_LENGTH
from tests.unit_tests.memory.test_preference_memory import CountingCache

ALICE = ("preferences", "alice")
RHYME = Preference("Rhyme.", opposite="Write plain prose.")
LONG = "x" * (MAX_TEXT_LENGTH + 1)


@pytest.fixture
def memory() -> PreferenceMemory:
    return PreferenceMemory()


def everything(memory: PreferenceMemory) -> str:
    return str([item.value for item in memory.store.search(())])


@pytest.mark.parametrize("opposite", [None, "", "Write plain prose."])
def test_opposite_survives_json(opposite):
    preference = Preference("Rhyme.", opposite=opposite)
    assert preference_in(json.loads(json.dumps(to_fields(preference)))) == preference


def test_item_of_an_earlier_version_has_no_opposite(memory):
    assert to_fields(Preference("Rhyme.")) == {"text": "Rhyme.", "weight": 1.0}
    memory.store.put(ALICE, key_of("Rhyme."), {"text": "Rhyme.", "weight": 1.0})
    assert memory.recall("alice") == [Preference("Rhyme.")]


async def test_opposite_is_remembered_and_in_the_history(memory):
    assert memory.remember("alice", "Rhyme.", opposite="Write plain prose.") == RHYME
    assert await memory.aremember("bob", "Rhyme.", opposite="Write plain prose.") == RHYME
    assert memory.recall("alice") == memory.recall("bob") == [RHYME]
    assert [change.preference for change in memory.history("alice")] == [RHYME]


def test_remembering_again_without_an_opposite_keeps_it_and_writes_nothing(memory):
    memory.remember("alice", RHYME)
    assert memory.remember("alice", "Rhyme.") == RHYME
    assert len(memory.history("alice")) == 1
    assert memory.remember("alice", "Rhyme.", 0.5).opposite == "Write plain prose."


def test_remembering_another_opposite_replaces_it(memory):
    memory.remember("alice", RHYME)
    assert memory.remember("alice", "Rhyme.", opposite="").opposite == ""
    assert [change.action for change in memory.history("alice")] == ["remembered", "changed"]
    assert memory.recall("alice") == [Preference("Rhyme.", opposite="")]


def test_opposite_of_another_text_under_the_same_key_is_not_kept(memory):
    memory.store.put(ALICE, key_of("Rhyme."), {"text": "Sing.", "weight": 1.0, "opposite": "Be silent."})
    assert memory.remember("alice", "Rhyme.") == Preference("Rhyme.")


async def test_update_changes_the_opposite_and_keeps_it_otherwise(memory):
    memory.remember("alice", RHYME)
    assert memory.update("alice", "Rhyme.", weight=0.5).opposite == "Write plain prose."
    assert (await memory.aupdate("alice", "Rhyme.", opposite="Write prose.")).opposite == "Write prose."
    assert memory.update("alice", "Rhyme.", opposite="").opposite == ""


def test_new_text_drops_the_opposite_of_the_earlier_one(memory):
    memory.remember("alice", RHYME)
    assert memory.update("alice", "Rhyme.", new_text="Sing.") == Preference("Sing.")
    assert memory.update("alice", "Sing.", new_text="Hum.", opposite="Shout.") == Preference("Hum.", opposite="Shout.")


def test_opposite_beside_a_preference_object_is_refused(memory):
    with pytest.raises(InvalidParameterError, match="an opposite of its own"):
        memory.remember("alice", RHYME, opposite="Write prose.")


def test_round_trip_keeps_opposites(memory):
    memory.remember("alice", RHYME)
    memory.remember("alice", "Sing.", opposite="")
    memory.import_("bob", json.loads(json.dumps(memory.export("alice"))))
    assert sorted(memory.recall("bob"), key=lambda p: p.text) == [RHYME, Preference("Sing.", opposite="")]


def test_forgetting_a_preference_deletes_its_opposites(memory):
    memory.remember("alice", RHYME)
    memory.update("alice", "Rhyme.", opposite="Write dry prose.")
    memory.remember("alice", "Be kind.")
    memory.forget("alice", "Rhyme.")
    assert "prose" not in everything(memory)
    assert memory.recall("alice") == [Preference("Be kind.")]


@pytest.mark.parametrize(
    "write",
    [
        lambda memory: memory.remember("alice", RHYME),
        lambda memory: memory.update("alice", "Rhyme.", opposite="Write dry prose."),
        lambda memory: memory.import_("alice", PreferenceMemory().export("bob")),
    ],
)
async def test_private_caches_are_dropped_when_an_opposite_may_be_replaced(memory, write):
    memory.remember("alice", RHYME)
    cache = CountingCache()
    tell_when_forgetting(cache)
    write(memory)
    assert cache.num_times == 1


async def test_private_caches_are_dropped_by_async_writes_of_opposites(memory):
    cache = CountingCache()
    tell_when_forgetting(cache)
    await memory.aremember("alice", RHYME)
    await memory.aimport_("alice", memory.export("bob"))
    assert cache.num_times == 2


@pytest.mark.parametrize("wrong", [7, ["Zanzibar"], {"a": "Zanzibar"}])
def test_stored_opposite_that_is_no_text_makes_the_item_invalid(memory, wrong):
    memory.store.put(ALICE, "a", {"text": "Rhyme.", "weight": 1.0, "opposite": wrong})
    with pytest.raises(StoredPreferenceError) as raised:
        memory.recall("alice")
    assert "Zanzibar" not in str(raised.value)


@pytest.mark.parametrize("wrong", [7, "Zanzibar\0", "Zanzibar" + LONG])
def test_import_of_a_wrong_opposite_is_refused_without_quoting_it(memory, wrong):
    value = {"text": "Rhyme.", "weight": 1.0, "opposite": wrong}
    exported = {"format": 1, "preferences": {"a": value}, "preference_history": {}, "preference_feedback": {}}
    with pytest.raises(ImportFormatError, match="entry 1 of preferences needs") as raised:
        memory.import_("bob", exported)
    assert "Zanzibar" not in str(raised.value)


@pytest.mark.parametrize(
    "write",
    [
        lambda memory: memory.remember("alice", "Rhyme.", opposite=LONG),
        lambda memory: memory.remember("alice", Preference("Rhyme.", opposite=LONG)),
        lambda memory: memory.update("alice", "Rhyme.", opposite=LONG),
        lambda _: PreferenceMemory({"alice": Preference("Rhyme.", opposite=LONG)}).recall("alice"),
    ],
)
def test_opposite_that_is_too_long_is_refused(memory, write):
    memory.remember("alice", RHYME)
    with pytest.raises(InvalidParameterError, match="The opposite of a preference has 10,001 characters"):
        write(memory)
    assert memory.recall("alice") == [RHYME]


def test_stored_preference_whose_opposite_is_too_long_is_ignored(memory, monkeypatch, caplog):
    monkeypatch.setattr(lengths, "_last_warning_s", -1e9)
    memory.store.put(ALICE, "a", {"text": "Rhyme.", "weight": 1.0, "opposite": LONG})
    assert memory.recall("alice") == []
    assert "xxx" not in caplog.text


def test_opposite_of_a_wrong_type_is_refused(memory):
    with pytest.raises(PreferenceError, match="the opposite must be a string"):
        memory.remember("alice", "Rhyme.", opposite=7)
    assert memory.store.search(()) == []
