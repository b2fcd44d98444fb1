"""One suite for every kind of store, called by sync and async callers."""

import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from enum import IntEnum
from itertools import count

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from langchain_amulet.exceptions import UnknownPreferenceError, UserIdError
from langchain_amulet.memory import store_ops
from langchain_amulet.memory.preference_memory import PreferenceMemory
from langchain_amulet.preferences import Preference
from tests.fakes.databases import DURABLE, KINDS, Caller, Postgres, opened

SOON = datetime.now(UTC) + timedelta(days=1)
USER_IDS = [
    "alice@example.com",
    "1",
    "ünïcödé 漢字 👩‍🚀",
    "a.b.c",
    "..",
    "100%",
    "%2E",
    "under_score",
    "back\\slash",
    "a*b?[c]",
    "line\nbreak",
    "nul\x00",
    "x" * 10_000,
    "漢" * 10_000,
    " ",
    "\ud800",
    "langgraph",
    "preferences",
]
NEIGHBOURS = [
    ("1", "12"),
    ("12", "1"),
    ("bob", "Bob"),
    ("bob", "bob.x"),
    ("a_b", "aXb"),
    ("x" * 300, "x" * 301),
    ("sha256=", "sha256"),
]


@pytest.fixture(params=KINDS)
def kind(request) -> str:
    return request.param


@pytest.fixture(params=["sync", "async"])
def is_async(request) -> bool:
    return request.param == "async"


@pytest.fixture
async def memory(kind, is_async, tmp_path, request) -> AsyncIterator[Caller]:
    async with opened(kind, tmp_path, postgres_for(kind, request)) as store:
        yield Caller(PreferenceMemory(store), is_async=is_async)


def postgres_for(kind: str, request: pytest.FixtureRequest) -> Postgres | None:
    return request.getfixturevalue("empty_postgres") if "postgres" in kind else None


async def test_preferences_are_recalled_in_the_order_of_remembering(memory):
    for text, weight in [("Be brief.", 1.0), ("No emojis.", -0.5), ("Be kind.", 0.25)]:
        assert await memory.remember("alice", text, weight) == Preference(text, weight)
    await memory.remember("alice", "Be brief.", 0.5)
    assert await memory.recall("alice") == [
        Preference("Be brief.", 0.5),
        Preference("No emojis.", -0.5),
        Preference("Be kind.", 0.25),
    ]
    assert await memory.recall("nobody") == []


async def test_all_fields_of_a_preference_are_stored(memory):
    stored = Preference("Sag „du“ zu mir. 漢字 👩‍🚀\n\"quoted\" 'and' \\", -100.0, "learned", SOON)
    assert await memory.remember("alice", stored) == stored
    assert await memory.recall("alice") == [stored]


async def test_weights_may_be_any_kind_of_number(memory):
    class Weight(IntEnum):
        ONE = 1

    for weight in (np.float64(0.5), Weight.ONE, 5e-324):
        preference = await memory.remember("alice", Preference("Be brief.", weight))
        assert await memory.recall("alice") == [preference]


async def test_any_non_empty_string_is_a_user_id(memory):
    for number, user_id in enumerate(USER_IDS):
        await memory.remember(user_id, f"Preference {number}.")
    for number, user_id in enumerate(USER_IDS):
        assert await memory.recall(user_id) == [Preference(f"Preference {number}.")]
    for number, user_id in enumerate(USER_IDS):
        await memory.forget(user_id)
        assert await memory.recall(user_id) == []
        assert len(await memory.recall(USER_IDS[-1])) == (number + 1 < len(USER_IDS))


async def test_wrong_user_id_is_refused(memory):
    for user_id, remedy in [("", "Leave it out"), (7, "str\\(user_id\\)"), (None, "str\\(user_id\\)")]:
        for name, arguments in [("recall", []), ("remember", ["Be brief."]), ("forget_user", []), ("export", [])]:
            with pytest.raises(UserIdError, match=remedy):
                await getattr(memory, name)(user_id, *arguments)


async def test_users_with_similar_ids_are_separate(memory):
    for asked, other in NEIGHBOURS:
        await memory.remember(other, "Be brief.")
        assert await memory.recall(asked) == []
        assert await memory.history(asked) == []
        await memory.forget(asked, "Be brief.")
        await memory.forget_user(asked)
        assert await memory.recall(other) == [Preference("Be brief.")]
        assert len(await memory.history(other)) == 1
        await memory.forget_user(other)


async def test_everything_beyond_the_first_page_is_found(memory, monkeypatch):
    monkeypatch.setattr(store_ops, "PAGE_SIZE", 3)
    preferences = [Preference(f"Preference {number}.") for number in range(15)]
    for number, preference in enumerate(preferences):
        await memory.remember("alice", preference)
        if number in (2, 3, 11, 12, 14):  # at and around the sizes of pages
            assert await memory.recall("alice") == preferences[: number + 1]
    exported = await memory.export("alice")
    await memory.import_("bob", exported)
    assert await memory.recall("bob") == preferences
    await memory.forget("alice")
    assert await memory.recall("alice") == await memory.history("alice") == []
    assert len(await memory.history("bob")) == 15


async def test_updates_keep_the_position_and_are_added_to_the_history(memory):
    await memory.remember("alice", "Be brief.")
    await memory.remember("alice", "Be kind.")
    changed = await memory.update("alice", "Be brief.", new_text="Be concise.", weight=0.5)
    assert changed == Preference("Be concise.", 0.5)
    assert await memory.recall("alice") == [changed, Preference("Be kind.")]
    changes = [(change.action, change.preference) for change in await memory.history("alice")]
    assert changes == [
        ("remembered", Preference("Be brief.")),
        ("remembered", Preference("Be kind.")),
        ("changed", changed),
    ]
    with pytest.raises(UnknownPreferenceError):
        await memory.update("alice", "Be brief.", weight=0.5)


async def test_forgetting_one_preference_deletes_only_its_history(memory):
    await memory.remember("alice", "Be brief.")
    await memory.update("alice", "Be brief.", new_text="Be concise.")
    await memory.remember("alice", "Be kind.")
    await memory.forget("alice", "Be concise.")
    assert await memory.recall("alice") == [Preference("Be kind.")]
    assert [change.preference.text for change in await memory.history("alice")] == ["Be kind."]


async def test_forgetting_a_user_leaves_nothing(memory):
    await memory.remember("alice", "Be brief.")
    await memory.update("alice", "Be brief.", weight=0.5)
    await memory.forget_user("alice")
    exported = await memory.export("alice")
    assert exported["preferences"] == exported["preference_history"] == exported["preference_feedback"] == {}


async def test_export_can_be_imported_after_a_json_round_trip(memory):
    await memory.remember("alice", Preference("Be brief.", 0.5, "learned", SOON))
    await memory.remember("alice", "Be kind.")
    await memory.update("alice", "Be kind.", weight=-1.0)
    exported = json.loads(json.dumps(await memory.export("alice")))
    recalled, history = await memory.recall("alice"), await memory.history("alice")
    await memory.forget_user("alice")
    await memory.import_("bob", exported)
    assert await memory.recall("bob") == recalled
    assert await memory.history("bob") == history
    assert await memory.recall("alice") == []


async def test_expired_preferences_are_not_recalled(memory):
    await memory.remember("alice", "Be brief.", expires_at=datetime.now(UTC) - timedelta(seconds=1))
    await memory.remember("alice", "Be kind.", expires_at=datetime.max.replace(tzinfo=UTC))
    assert [preference.text for preference in await memory.recall("alice")] == ["Be kind."]


@pytest.mark.parametrize("kind", DURABLE)
async def test_preferences_survive_a_restart(kind, is_async, tmp_path, request):
    postgres = postgres_for(kind, request)
    for run in range(3):
        async with opened(kind, tmp_path, postgres) as store:
            memory = Caller(PreferenceMemory(store), is_async=is_async)
            if run == 0:
                await memory.remember("alice@example.com", "Be brief.", 0.5)
            if run < 2:
                assert await memory.recall("alice@example.com") == [Preference("Be brief.", 0.5)]
                assert len(await memory.history("alice@example.com")) == 1
            if run == 1:
                await memory.forget("alice@example.com", "Be brief.")
            if run == 2:
                assert await memory.recall("alice@example.com") == []


TEXTS = st.sampled_from(["Be brief.", "be brief.", "Be kind.", "", "漢字"])
ACTIONS = st.tuples(
    st.sampled_from(["remember", "remember", "remember", "update", "rename", "forget", "forget all", "forget user"]),
    st.sampled_from(["1", "12", "bob", "Bob"]),
    TEXTS,
    TEXTS,
    st.sampled_from([1.0, 0.5, -1.0]),
)
NAMES = count()


@settings(max_examples=8, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(actions=st.lists(ACTIONS, min_size=5, max_size=14))
async def test_memory_behaves_like_a_dictionary_of_dictionaries(memory, actions):
    name = f"{next(NAMES)} "
    model: dict[str, dict[str, float]] = {}
    for action, user, text, new_text, weight in actions:
        profile = model.setdefault(user, {})
        await act(memory, name + user, action, text, new_text, weight)
        imitate(profile, action, text, new_text, weight)
        recalled = await memory.recall(name + user)
        assert [(preference.text, preference.weight) for preference in recalled] == [*profile.items()]
        if action.startswith("forget"):
            remembered = [change.preference.text for change in await memory.history(name + user)]
            assert text not in remembered if action == "forget" else remembered == []
    for user, profile in model.items():
        assert {preference.text for preference in await memory.recall(name + user)} == set(profile)


async def act(memory: Caller, user_id: str, action: str, text: str, new_text: str, weight: float) -> None:
    match action:
        case "remember":
            await memory.remember(user_id, text, weight)
        case "forget":
            await memory.forget(user_id, text)
        case "forget all":
            await memory.forget(user_id)
        case "forget user":
            await memory.forget_user(user_id)
        case _:
            changes = {"weight": weight} if action == "update" else {"new_text": new_text}
            try:
                await memory.update(user_id, text, **changes)
            except UnknownPreferenceError:
                assert text not in [preference.text for preference in await memory.recall(user_id)]


def imitate(profile: dict[str, float], action: str, text: str, new_text: str, weight: float) -> None:
    match action:
        case "remember":
            profile[text] = weight
        case "forget":
            profile.pop(text, None)
        case "forget all" | "forget user":
            profile.clear()
        case "update" if text in profile:
            profile[text] = weight
        case "rename" if text in profile:
            renamed = {
                new_text if key == text else key: profile[key] for key in profile if key == text or key != new_text
            }
            profile.clear()
            profile.update(renamed)
