"""What `import_` writes and refuses, and the limit on the length of preferences."""

import json
import logging
import math
import traceback
from datetime import UTC, datetime, timedelta

import pytest

from langchain_amulet import Preference, PreferenceMemory
from langchain_amulet.exceptions import ImportFormatError, InvalidParameterError, UserIdError
from langchain_amulet.memory import lengths
from langchain_amulet.memory.items import key_of
from langchain_amulet.memory.lengths import MAX_TEXT_LENGTH

ALICE = ("preferences", "alice")
LONG = "x" * (MAX_TEXT_LENGTH + 1)
PRIVATE = "Zanzibar"
GOOD = {"text": "Be brief.", "weight": 1.0}
CHANGE = {**GOOD, "action": "remembered", "at_ns": 1}
EVENT = {"kind": "liked", "evidence": {"a": 0.5}, "at_ns": 1}


@pytest.fixture
def memory() -> PreferenceMemory:
    return PreferenceMemory()


def export_with(**sections) -> dict:
    return {"format": 1, "preferences": {}, "preference_history": {}, "preference_feedback": {}, **sections}


def nested(depth: int) -> dict:
    """Return JSON objects inside each other."""
    value: dict = {}
    for _ in range(depth):
        value = {"inside": value}
    return value


def test_import_adds_preferences_and_replaces_equal_texts(memory):
    memory.store.put(ALICE, "written by another program", {"text": "Be brief.", "weight": 0.5})
    memory.remember("bob", "Be brief.")
    memory.remember("bob", "Be kind.")
    memory.import_("bob", memory.export("alice"))
    assert sorted((p.text, p.weight) for p in memory.recall("bob")) == [("Be brief.", 0.5), ("Be kind.", 1.0)]
    assert {item.value["user_id"] for item in memory.store.search(("preferences", "bob"))} == {"bob"}


@pytest.mark.parametrize(
    "spoil",
    [
        lambda _: None,
        lambda _: {},
        lambda exported: {**exported, "format": 2},
        lambda exported: {**exported, "preferences": [{"text": "Be brief.", "weight": 1.0}]},
        lambda exported: {**exported, "preferences": {"a": {"text": "Be brief."}}},
        lambda exported: {**exported, "preferences": {"a": "Be brief."}},
        lambda exported: {**exported, "preference_history": {"a": {"text": "Be brief.", "weight": 1.0}}},
        lambda exported: {**exported, "preference_feedback": {"a": 7}},
        lambda exported: {**exported, "preference_feedback": {"a": {"kind": "liked", "evidence": {}}}},
        lambda exported: {
            **exported,
            "preference_feedback": {"a": {"kind": "liked", "evidence": {"a": float("nan")}, "at_ns": 1}},
        },
        lambda exported: {name: value for name, value in exported.items() if name != "preference_feedback"},
    ],
)
def test_invalid_import_writes_nothing(memory, spoil):
    memory.remember("alice", "Be brief.")
    with pytest.raises(ImportFormatError, match="nothing was written"):
        memory.import_("bob", spoil(memory.export("alice")))
    assert memory.recall("bob") == memory.history("bob") == []


@pytest.mark.parametrize("wrong", [1e9, math.nan, math.inf, True, -101, "1", None, 10**400])
@pytest.mark.parametrize("field", ["stated", "learned"])
def test_learned_weights_that_are_no_weights_are_refused(memory, field, wrong):
    weights = {key_of("Be brief."): {"stated": 1.0, "learned": 0.5, field: wrong}}
    exported = export_with(preferences={"a": GOOD, "learned_weights": weights})
    with pytest.raises(ImportFormatError, match="entry 2 of preferences needs"):
        memory.import_("bob", exported)
    assert memory.store.search(()) == []


@pytest.mark.parametrize("wrong", [1e9, math.nan, True, -101, "1"])
def test_stored_learned_weights_that_are_no_weights_are_ignored(memory, wrong):
    memory.remember("alice", "Be brief.")
    memory.store.put(ALICE, "learned_weights", {key_of("Be brief."): {"stated": 1.0, "learned": wrong}})
    assert memory.recall("alice") == [Preference("Be brief.")]


@pytest.mark.parametrize(
    ("section", "wrong"),
    [
        ("preferences", {**GOOD, "weight": math.nan}),
        ("preferences", {**GOOD, "expires_at": PRIVATE}),
        ("preferences", {**GOOD, "source": PRIVATE}),
        ("preferences", {**GOOD, "remembered_at": math.inf}),
        ("preferences", {**GOOD, "lineage": "\0"}),
        ("preferences", {**GOOD, "note": object()}),
        ("preferences", {**GOOD, "note": 2**63}),
        ("preferences", {**GOOD, "note": {1: "one"}}),
        ("preferences", {**GOOD, "note": nested(2000)}),
        ("preferences", {**GOOD, "text": LONG}),
        ("preference_history", {**CHANGE, "action": PRIVATE}),
        ("preference_history", {**CHANGE, "at_ns": math.nan}),
        ("preference_history", {**CHANGE, "at_ns": 10**30}),
        ("preference_history", {**CHANGE, "at_ns": True}),
        ("preference_history", {**CHANGE, "text": LONG}),
        ("preference_feedback", {**EVENT, "at_ns": -1}),
        ("preference_feedback", {**EVENT, "at_ns": True}),
        ("preference_feedback", {**EVENT, "kind": PRIVATE}),
        ("preference_feedback", {**EVENT, "evidence": {"a": True}}),
        ("preference_feedback", {**EVENT, "evidence": {"a": 1e300}}),
    ],
)
def test_bad_entry_is_named_by_its_position_without_its_text(memory, section, wrong):
    good = {"preferences": GOOD, "preference_history": CHANGE, "preference_feedback": EVENT}[section]
    with pytest.raises(ImportFormatError, match=f"entry 2 of {section} needs.*nothing was written") as raised:
        memory.import_("bob", export_with(**{section: {"a": good, PRIVATE: {**wrong, "extra": PRIVATE}}}))
    assert PRIVATE not in "".join(traceback.format_exception(raised.value))
    assert raised.value.__cause__ is raised.value.__context__ is None
    assert memory.store.search(()) == []


@pytest.mark.parametrize("key", ["", "a\0b", "\ud800", 7])
@pytest.mark.parametrize("section", ["preferences", "preference_history", "preference_feedback"])
def test_key_that_databases_refuse_is_refused(memory, section, key):
    with pytest.raises(ImportFormatError, match=f"entry 1 of {section} needs a key"):
        memory.import_("bob", export_with(**{section: {key: GOOD}}))


def test_format_that_is_a_text_is_not_quoted(memory):
    with pytest.raises(ImportFormatError, match="the format is str"):
        memory.import_("bob", {**export_with(), "format": PRIVATE})


def test_import_for_an_invalid_user_id_is_refused(memory):
    with pytest.raises(UserIdError):
        memory.import_("", export_with())


def test_import_keeps_the_learned_weights_of_other_preferences(memory):
    for user_id, text in (("alice", "Be brief."), ("bob", "Be kind.")):
        memory.remember(user_id, text)
        memory.store.put(("preferences", user_id), "learned_weights", {key_of(text): {"stated": 1.0, "learned": 0.5}})
    memory.import_("bob", memory.export("alice"))
    assert {(p.text, p.weight) for p in memory.recall("bob")} == {("Be brief.", 0.5), ("Be kind.", 0.5)}


def test_import_replaces_the_learned_weight_of_an_imported_preference(memory):
    memory.remember("bob", "Be brief.")
    memory.store.put(("preferences", "bob"), "learned_weights", {key_of("Be brief."): {"stated": 1.0, "learned": 0.5}})
    memory.import_("bob", export_with(preferences={"a": GOOD}))
    assert memory.recall("bob") == [Preference("Be brief.")]


def test_import_keeps_fields_of_other_programs(memory):
    memory.store.put(ALICE, "of another program", {**GOOD, "note": {"why": ["asked", 1, None, True, 0.5]}})
    memory.import_("bob", json.loads(json.dumps(memory.export("alice"))))
    [item] = memory.store.search(("preferences", "bob"))
    assert item.value["note"] == {"why": ["asked", 1, None, True, 0.5]}


# Length


@pytest.fixture
def warnings_at_once(monkeypatch):
    monkeypatch.setattr(lengths, "_last_warning_s", -math.inf)


@pytest.mark.parametrize(
    "write",
    [
        lambda memory: memory.remember("alice", LONG),
        lambda memory: memory.remember("alice", Preference(LONG)),
        lambda memory: memory.update("alice", "Be brief.", new_text=LONG),
    ],
)
def test_text_that_is_too_long_is_refused_before_anything_is_written(memory, write):
    memory.remember("alice", "Be brief.")
    before = memory.export("alice")
    with pytest.raises(InvalidParameterError, match="has 10,001 characters; 10,000 are allowed. Shorten it") as raised:
        write(memory)
    assert LONG not in str(raised.value)
    assert memory.export("alice") == before


def test_longest_text_is_remembered(memory):
    assert memory.remember("alice", LONG[1:]) == memory.recall("alice")[0]


@pytest.mark.usefixtures("warnings_at_once")
def test_stored_text_that_is_too_long_is_ignored_with_one_warning_and_can_be_shortened(memory, caplog):
    memory.remember("alice", "Be brief.")
    memory.store.put(ALICE, key_of(LONG), {"text": LONG, "weight": 1.0})
    with caplog.at_level(logging.WARNING, "langchain_amulet"):
        assert memory.recall("alice") == memory.recall("alice") == [Preference("Be brief.")]
    [message] = caplog.messages
    assert message.startswith("1 stored preferences")
    assert "xxx" not in message
    memory.update("alice", LONG, new_text="Be kind.")
    assert {preference.text for preference in memory.recall("alice")} == {"Be brief.", "Be kind."}


def test_text_of_a_function_that_is_too_long_is_refused():
    with pytest.raises(InvalidParameterError, match="Shorten it"):
        PreferenceMemory({"alice": LONG}).recall("alice")


def test_expired_preference_survives_a_round_trip(memory):
    expired = Preference("Be brief.", expires_at=datetime.now(UTC) - timedelta(days=1))
    memory.remember("alice", expired)
    memory.import_("bob", memory.export("alice"))
    assert memory.export("bob")["preferences"].keys() == memory.export("alice")["preferences"].keys()
