"""What travels in place of preferences."""

import copy
import gc
import inspect
import json
import pickle
from datetime import UTC, datetime, timedelta
from typing import Any, cast

import pytest
from langchain_core.caches import InMemoryCache

from langchain_amulet import ChatAmulet
from langchain_amulet.exceptions import PreferenceError
from langchain_amulet.personalization.resolved import (
    ResolvedPreferences,
    _preferences,
    as_of_now,
    preferences_of,
    resolve,
)
from langchain_amulet.preferences import Preference
from tests.fakes.chats import BRIEF, MODEL, QUESTION, SHORT, TOKENIZER, expected_answers


def test_resolved_preferences_show_a_digest_and_never_a_text():
    resolved = resolve([Preference("I am diabetic.", 0.5)])
    assert "diabetic" not in repr(resolved) + str(resolved) + f"{resolved}"
    assert resolve(resolved) is resolved
    assert resolved == resolve(Preference("I am diabetic.", 0.5)) == pickle.loads(pickle.dumps(resolved))  # noqa: S301
    assert hash(resolved) == hash(resolve(Preference("I am diabetic.", 0.5)))


def test_nothing_that_travels_reaches_a_text():
    resolved = resolve([Preference("I am diabetic.", 0.5)])
    shown: list[Any] = [pickle.dumps(resolved)]
    shown += [json.dumps(resolved, default=str), json.dumps(resolved, default=walked)]
    shown += [inspect.getmembers(resolved), vars_of_slots(resolved), copy.deepcopy(resolved), resolved.__reduce_ex__(4)]
    assert "diabetic" not in repr(shown)


def walked(thing: object) -> object:
    return vars_of_slots(thing) if hasattr(type(thing), "__slots__") else str(thing)


def vars_of_slots(thing: object) -> dict[str, object]:
    kind: Any = type(thing)
    return {name: getattr(thing, name, None) for name in kind.__slots__ if name != "__weakref__"}


def test_copies_find_the_texts_as_long_as_one_exists():
    resolved = resolve("a")
    copies = [copy.copy(resolved), copy.deepcopy(resolved), pickle.loads(pickle.dumps(resolved))]  # noqa: S301
    del resolved
    gc.collect()
    assert [preferences_of(each) for each in copies] == [(Preference("a"),)] * 3
    num_texts = len(_preferences)
    del copies
    gc.collect()
    assert len(_preferences) == num_texts - 1


def test_preferences_pickled_for_another_process_are_an_error_there_and_never_left_out():
    pickled, digest = pickle.dumps(resolve("a")), repr(resolve("a"))
    gc.collect()
    elsewhere = pickle.loads(pickled)  # noqa: S301
    assert repr(elsewhere) == digest
    assert elsewhere
    with pytest.raises(PreferenceError, match="stayed in the process.*Pass the preferences again"):
        preferences_of(elsewhere)


def test_pickled_empty_preferences_are_empty_everywhere():
    pickled = pickle.dumps(resolve([]))
    gc.collect()
    assert preferences_of(pickle.loads(pickled)) == ()  # noqa: S301


def test_digests_differ_with_text_weight_order_and_nothing():
    values = [None, "", "a", "b", Preference("a", 0.5), ["a", "b"], ["b", "a"], ["ab"]]
    assert len({repr(resolve(value)) for value in values}) == len(values)


def test_digest_does_not_depend_on_how_preferences_were_read():
    fresh, cached = (ResolvedPreferences((Preference("a"),), age_s=age_s) for age_s in (0.0, 3.0))
    assert cached.digest == fresh.digest == resolve("a").digest != resolve("b").digest
    assert repr(cached) != repr(fresh)  # an answer reports the age, so response caches keep the two apart


def test_resolved_preferences_differ_from_other_things():
    assert resolve("a") != ("a",)
    assert isinstance(resolve(None), ResolvedPreferences)


# Expiry


@pytest.fixture
def expire(monkeypatch):
    """A function after whose call every preference with a time of expiry has expired."""
    return lambda: monkeypatch.setattr(Preference, "is_expired", property(lambda self: self.expires_at is not None))


SOON = datetime.now(UTC) + timedelta(hours=1)


def test_bound_preference_stops_counting_when_it_expires(expire):
    preference = Preference("a", expires_at=SOON)
    resolved = resolve([preference, "b"])
    assert resolved == resolve(["a", "b"])
    expire()
    assert resolved == resolve("b")
    assert preferences_of(resolved) == (Preference("b"),)
    assert not resolve(preference)


def test_preferences_of_one_call_do_not_expire_during_it(expire):
    now = as_of_now(resolve([Preference("a", expires_at=SOON), "b"]))
    assert as_of_now(now) is now
    expire()
    assert now == resolve(["a", "b"])


@pytest.mark.parametrize("where", ["argument", "binding", "field"])
def test_answer_follows_the_preferences_in_its_cache_key_though_they_expire_in_between(expire, where):
    class Slow(InMemoryCache):
        def lookup(self, prompt, llm_string):
            found = super().lookup(prompt, llm_string)
            expire()
            return found

    answers, brief = expected_answers(), Preference(BRIEF, expires_at=SOON)
    field = {"preference": brief} if where == "field" else {}
    llm = ChatAmulet(model=MODEL, tokenizer=TOKENIZER, cache=Slow(), **field, **SHORT)
    asked = llm.bind(preference=brief) if where == "binding" else llm
    arguments = {"preference": brief} if where == "argument" else {}
    assert asked.invoke(QUESTION, **arguments).text == answers["alice"]
    assert asked.invoke(QUESTION, **arguments).text == answers["visitor"]
    assert len(cast("Slow", llm.cache)._cache) == 2
