"""Users change their preferences and ask, over all kinds of stores, with faults: nobody's answer or data is wrong."""

import asyncio
import contextlib
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test
from langchain_classic.storage import LocalFileStore
from langchain_core.caches import InMemoryCache
from langchain_core.messages import HumanMessage
from langgraph.store.base import BaseStore

from langchain_amulet import ChatAmulet, Preference, PreferenceMemory, RealignmentConfig
from langchain_amulet.exceptions import AmuletError
from langchain_amulet.memory.sources import as_store
from tests.fakes.databases import PLAIN
from tests.fakes.faulty_store import ERRORS, FaultyStore
from tests.fakes.figures import count
from tests.fakes.fuzzed_calls import Call
from tests.fakes.fuzzed_models import fuzzed_llm
from tests.fakes.fuzzed_runs import rests
from tests.fakes.reference_answers import Outcome, differs, expected_outcome, outcome_of
from tests.fakes.writers import database

KINDS = ("in memory", "key-value bytes", "files", "sqlite", "postgres")
SETTINGS = {"max_tokens": 4, "realignment": RealignmentConfig(guidance_scale=3.0)}
USERS = ("ann@example.com", "bob", "日本", "a/b.c")
users = st.sampled_from(USERS)
texts = st.sampled_from(["Be brief.", "Be cheerful!", "日本語で"])
weights = st.sampled_from([1.0, 1.0, -1.0, 0.5])
questions = st.sampled_from(["Why?", "Où?"])


@cache
def users_llm() -> ChatAmulet:
    return fuzzed_llm("qwen2", **SETTINGS)


@cache
def expected(question: str, preferences: tuple[Preference, ...]) -> Outcome:
    return expected_outcome(users_llm(), Call([HumanMessage(question)], SETTINGS, [*preferences]))


class Life(RuleBasedStateMachine):
    """A memory and its model: per user, what is stored by text, in order."""

    store: BaseStore  # of the kind that is tested

    def __init__(self) -> None:
        super().__init__()
        self.faulty = FaultyStore(type(self).store)
        self.stored: dict[str, dict[str, Preference]] = {}
        self.cache = InMemoryCache()
        self.open_again(caches=True)

    @rule(caches=st.booleans())
    def open_again(self, *, caches):
        """Go on as another process would: with a memory that has read nothing yet."""
        self.memory = PreferenceMemory(self.faulty, cache_seconds=60 if caches else 0)
        model = users_llm()
        self.llm = ChatAmulet(model=model.model, tokenizer=model.tokenizer, memory=self.memory, **SETTINGS)
        self.plain_llm = self.llm.model_copy(update={"on_store_error": "plain"})
        self.cached_llm = self.llm.model_copy(update={"cache": self.cache})

    @rule(user=users, text=texts, weight=weights)
    def remember(self, user, text, weight):
        preference = Preference(text, weight)
        after = {**self.stored.get(user, {}), text: preference}
        self.memory.remember(user, preference)
        self.stored[user] = after

    @rule(user=users, text=texts)
    def forget(self, user, text):
        after = {key: value for key, value in self.stored.get(user, {}).items() if key != text}
        self.memory.forget(user, text)
        self.stored[user] = after

    @rule(user=users)
    def forget_user(self, user):
        asyncio.run(self.memory.aforget_user(user))
        self.stored[user] = {}

    @rule(giver=users, taker=users)
    def move(self, giver, taker):
        exported = self.memory.export(giver)
        after = {**self.stored.get(taker, {}), **self.stored.get(giver, {})}
        self.memory.import_(taker, exported)
        found = {each.text: each for each in self.memory.recall(taker)}
        assert found == after  # the order is that of the times at which the giver and the taker first stored them
        self.stored[taker] = found

    @rule(user=users, text=texts, error=st.sampled_from(ERRORS), delay=st.integers(0, 3), does_it=st.booleans())
    def remember_while_the_store_fails(self, user, text, error, delay, does_it):
        """The change is made or not, and nothing else changes."""
        before, preference = self.stored.get(user, {}), Preference(text, 2.0)
        self.faulty.fail(error, delay=delay, does_it=does_it)
        with contextlib.suppress(type(error), AmuletError):
            self.memory.remember(user, preference)
        self.faulty.mend()
        found = {each.text: each for each in self.memory.recall(user)}
        assert found in (before, {**before, text: preference})
        self.stored[user] = found

    @rule(user=users, question=questions, error=st.sampled_from(ERRORS), manner=st.sampled_from(["invoke", "ainvoke"]))
    def ask_while_the_store_fails(self, user, question, error, manner):
        num_failed = self.faulty.num_failed
        self.faulty.fail(error, delay=0, does_it=False)
        answer = self.asked(self.plain_llm, user, question, manner)
        self.faulty.mend()
        has_failed = self.faulty.num_failed > num_failed
        kind = "StoreTimeoutError" if isinstance(error, TimeoutError) else type(error).__name__
        assert answer.response_metadata["amulet"].pop("store_error", None) == (kind if has_failed else None)
        self.compare(answer, question, () if has_failed else self.preferences_of(user))

    @rule(
        user=users,
        question=questions,
        manner=st.sampled_from(["invoke", "ainvoke", "stream", "batch"]),
        has_cache=st.booleans(),
    )
    def ask(self, user, question, manner, has_cache):
        llm = self.cached_llm if has_cache else self.llm
        self.compare(self.asked(llm, user, question, manner), question, self.preferences_of(user))

    @rule(question=questions, text=texts, user=users)
    def ask_with_a_preference(self, question, text, user):
        config = {"configurable": {"user_id": user}}
        answer = self.cached_llm.invoke(question, config, preference=text)
        self.compare(answer, question, (Preference(text),))

    def preferences_of(self, user: str) -> tuple[Preference, ...]:
        return tuple(self.stored.get(user, {}).values())

    def asked(self, llm: ChatAmulet, user: str, question: str, manner: str) -> Any:
        count("requests")
        config = {"configurable": {"user_id": user}}
        if manner == "ainvoke":
            return asyncio.run(llm.ainvoke(question, config))
        if manner == "stream":
            first, *others = llm.stream(question, config)
            return first + others
        return llm.batch([question], [config])[0] if manner == "batch" else llm.invoke(question, config)

    def compare(self, answer: Any, question: str, preferences: tuple[Preference, ...]) -> None:
        count("answers compared")
        answer.response_metadata["amulet"].pop("preferences_age_s", None)
        answer.usage_metadata.pop("total_cost", None)  # LangChain's, of answers from its cache
        fault = differs(outcome_of(answer), expected(question, preferences))
        count("wrong answers", fault is not None)
        assert fault is None, fault

    @invariant()
    def everything_is_stored(self):
        for user, preferences in self.stored.items():
            assert self.memory.recall(user) == [*preferences.values()]

    def teardown(self):
        rests(users_llm().engine)


def clear(store: BaseStore) -> None:
    """Delete everything."""
    memory = PreferenceMemory(store)
    for user in USERS:
        memory.forget_user(user)


@contextlib.contextmanager
def empty_store(kind: str, folder: Path, postgres: Any) -> Iterator[BaseStore]:
    """Open an empty store of this kind."""
    if kind in PLAIN:
        yield as_store(PLAIN[kind]())
    elif kind == "files":
        yield as_store(LocalFileStore(folder))
    else:
        with database(kind, postgres.uri if kind == "postgres" else str(folder / "memory.db")) as store:
            yield store


@pytest.mark.parametrize("kind", KINDS)
def test_users_get_what_they_have_stored(kind, is_campaign, tmp_path, request):
    postgres = request.getfixturevalue("postgres") if kind == "postgres" else None
    with empty_store(kind, tmp_path, postgres) as store:

        class LifeInStore(Life):
            def __init__(self):
                clear(store)
                super().__init__()

        LifeInStore.store = store
        run_state_machine_as_test(
            LifeInStore,
            settings=settings(max_examples=150 if is_campaign else 2, stateful_step_count=25 if is_campaign else 10),
        )
