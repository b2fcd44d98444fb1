"""Two hundred users call one model through every API: no answer, text or preference reaches another user."""

import asyncio
import contextlib
import itertools
import logging
import random
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextvars import ContextVar
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from langchain.agents import create_agent
from langchain.agents.middleware import AgentMiddleware
from langchain_core.caches import BaseCache, InMemoryCache
from langchain_core.globals import set_llm_cache
from langchain_core.language_models import BaseChatModel
from langgraph.store.memory import InMemoryStore
from langgraph.store.sqlite import SqliteStore

from langchain_amulet import ChatAmulet, Preference, PreferenceMemory
from langchain_amulet.exceptions import (
    StoreConnectionError,
)
from tests.fakes.leak_tools import Mood, past_questions, printed_error
from tests.fakes.leak_watch import (
    ALL_PATHS,
    ENGINE,
    THREADS,
    TOKENIZER,
    App,
    AsyncEavesdropper,
    Eavesdropper,
    Received,
    User,
    Visit,
    Watch,
    WatchedCache,
    make_llm,
    one_layer_model,
    random_preferences,
    random_users,
    secrets_in,
    together,
    visit,
    watched_logs,
    watched_warnings,
)

ORACLE = make_llm(  # the same weights in another engine, without memory, cache or prefix reuse
    model=one_layer_model(), engine_config=replace(ENGINE, prefix_cache_bytes=0)
)


@cache
def expected(question: str, preferences: tuple[Preference, ...]) -> str:
    return ORACLE.invoke(question, preference=[*preferences]).text


def wrong(received: Sequence[Received]) -> list[str]:
    """Describe each answer that is not the one its user should receive, with its path."""
    due = THREADS.map(lambda reading: expected(reading.user.question, reading.user.preferences), received)
    return [
        f"{reading.path} gave {reading.user.id} {reading.text!r}, theirs is {text!r}"
        for reading, text in zip(received, due, strict=True)
        if reading.text != text
    ]


# Two hundred users: all ask, then some change their preferences while others continue to ask.


class Life(NamedTuple):
    watch: Watch
    cache: WatchedCache
    received: dict[str, list[Received]]


@pytest.fixture(scope="module", params=["memory", "sqlite"])
def life(request, is_campaign, tmp_path_factory) -> Life:
    """The recorded traffic of all users, once with LangChain's global cache and once with the model's own."""
    watch, rng, folder = Watch(), random.Random(0), tmp_path_factory.mktemp("life")
    users = random_users(200 if is_campaign or request.param == "memory" else 50, rng)
    with contextlib.ExitStack() as stack:
        stack.enter_context(watched_logs(watch))
        stack.enter_context(watched_warnings(watch))
        if request.param == "memory":
            response_cache = WatchedCache(InMemoryCache(), watch)
            stack.callback(set_llm_cache, None)
            set_llm_cache(response_cache)
            app = App(InMemoryStore(), watch)
        else:
            response_cache = WatchedCache(stack.enter_context(sqlite_cache(folder / "answers.db")), watch)
            app = App(stack.enter_context(SqliteStore.from_conn_string(":memory:")), watch, response_cache)
        received = asyncio.run(live(app, users, rng))
    app.see_checkpoints()
    if request.param == "sqlite":
        asked = secrets_in(str([user.question for user in users]))
        watch.see("cache file", (folder / "answers.db").read_bytes(), asked)
    return Life(watch, response_cache, received)


@contextlib.contextmanager
def sqlite_cache(path: Path) -> Iterator[BaseCache]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # the package is being sunset, and used all the same
        from langchain_community.cache import SQLiteCache
    opened = SQLiteCache(str(path))
    yield opened
    opened.engine.dispose()


async def live(app: App, users: Sequence[User], rng: random.Random) -> dict[str, list[Received]]:
    app.enter(users)
    paths = itertools.cycle(rng.sample(ALL_PATHS, len(ALL_PATHS)))
    first = await together([visit(app, next(paths), [user, rng.choice(users)]) for user in users])
    shuffled = rng.sample(users, len(users))
    plans: dict[str, list[tuple[User, tuple[Preference, ...]]]] = {
        "changed": [(user, random_preferences(rng)) for user in shuffled[::3]],
        "deleted": [(user, ()) for user in shuffled[1::3]],
        "kept": [(user, user.preferences) for user in shuffled[2::3]],
    }
    later = [together([revisit(app, next(paths), *plan) for plan in kind]) for kind in plans.values()]
    return {"first": first, **dict(zip(plans, await asyncio.gather(*later), strict=True))}


async def revisit(app: App, path: str, user: User, preferences: tuple[Preference, ...]) -> list[Received]:
    now = user if preferences == user.preferences else await app.change(user, preferences)
    return await visit(app, path, [now, now])


@pytest.mark.parametrize("phase", ["first", "changed", "deleted", "kept"])
def test_every_path_gives_each_user_their_own_answer_at_once(life, phase):
    assert wrong(life.received[phase]) == []


def test_nothing_that_leaves_carries_a_preference_or_anothers_words(life):
    assert life.watch.leaks == []


def test_a_mistake_would_have_been_seen(life):
    first = life.received["first"]
    profiles = {reading.user.preferences for reading in first if reading.user.question == "Why?"}
    assert len({expected("Why?", profile) for profile in profiles}) > 0.7 * len(profiles) > 20
    assert {reading.path for reading in first} == {*ALL_PATHS}
    assert life.cache.num_hits > 5
    hooks = ["on_chat_model_start", "on_llm_new_token", "on_llm_end", "on_chain_start", "on_chain_end"]
    callbacks = {f"{kind} {hook}" for kind in ("callback", "async callback") for hook in hooks}
    channels = {"answer", "trace", "checkpoint", "cache key", "cache entry", "log line", *callbacks}
    assert channels - {*life.watch.num_seen} == set()


# A store that fails in the middle


class FailingStore(InMemoryStore):
    """Fails at every third operation while `is_broken` is set."""

    def __init__(self) -> None:
        super().__init__()
        self.is_broken, self._count = False, itertools.count(1)

    def batch(self, ops: Any) -> Any:
        self._fail()
        return super().batch(ops)

    async def abatch(self, ops: Any) -> Any:
        self._fail()
        return await super().abatch(ops)

    def _fail(self) -> None:
        if self.is_broken and next(self._count) % 3 == 0:
            msg = "The store has gone away."
            raise ConnectionError(msg)


@pytest.fixture
def watch() -> Iterator[Watch]:
    watch = Watch()
    with watched_logs(watch), watched_warnings(watch):
        yield watch


async def test_store_that_fails_in_the_middle_gives_errors_or_right_answers(watch):
    store, users = FailingStore(), random_users(2 * len(ALL_PATHS), random.Random(1))
    app = App(store, watch, WatchedCache(InMemoryCache(), watch))
    app.enter(users)
    store.is_broken = True
    visits = [visit(app, path, [user] * 2) for user, path in zip(users, 2 * ALL_PATHS, strict=True)]
    outcomes = await asyncio.gather(*visits, return_exceptions=True)
    errors = [outcome for outcome in outcomes if isinstance(outcome, BaseException)]
    received = [reading for outcome in outcomes if isinstance(outcome, list) for reading in outcome]
    for error in errors:
        watch.see("error", printed_error(error))
    assert {type(error) for error in errors} == {StoreConnectionError}
    assert min(len(errors), len(received)) > 5
    store.is_broken = False
    assert wrong([*received, *await together([visit(app, "ainvoke", [user]) for user in users])]) == []
    assert watch.leaks == []


def test_store_that_fails_while_preferences_change_shows_none(watch):
    store = FailingStore()
    memory, text = PreferenceMemory(store), random_preferences(random.Random(2))[0].text
    store.is_broken = True
    changes: list[Callable[[str, str], object]] = [memory.remember, memory.forget, memory.remember]
    for change in changes:
        with pytest.raises(ConnectionError) as failed:
            [change("somebody", text) for _ in range(3)]
        watch.see("error", printed_error(failed.value))
    assert watch.leaks == []


# Tools and objects


class CallsFirst(AgentMiddleware):
    """Forces the model to call a tool before it answers."""

    async def awrap_model_call(self, request, handler):
        forced = {"tool_choice": "any", "model_settings": {"max_tokens": 100}}
        return await handler(request.override(**forced) if len(request.messages) == 1 else request)


async def test_tools_of_an_agent_tell_each_user_their_own(watch):
    users = random_users(15, random.Random(7))[::3]  # those with questions of their own
    app, asked = App(InMemoryStore(), watch, WatchedCache(InMemoryCache(), watch)), past_questions(users)
    app.enter(users)
    agent = create_agent(app.llm, [asked], middleware=[CallsFirst()], checkpointer=app.saver)
    calls = [Visit(app, [user], AsyncEavesdropper) for user in users]
    states = await asyncio.gather(*(agent.ainvoke(call.state, call.config) for call in calls))
    for user, call, state in zip(users, calls, states, strict=True):
        question, calling, result, answer = call.see(state)["messages"]
        forced = ORACLE.bind_tools([asked], tool_choice="any", max_tokens=100, preference=[*user.preferences])
        assert [each["args"] for each in calling.tool_calls] == [
            each["args"] for each in forced.invoke([question]).tool_calls
        ]
        assert result.content == user.question
        free = ORACLE.bind_tools([asked], preference=[*user.preferences])
        assert answer.text == free.invoke([question, calling, result]).text
    app.see_checkpoints()
    assert {f"async callback on_tool_{hook}" for hook in ("start", "end")} <= {*watch.num_seen}
    assert watch.leaks == []


def test_structured_output_follows_each_users_preferences(watch):
    users = random_users(12, random.Random(8))
    app = App(InMemoryStore(), watch, WatchedCache(InMemoryCache(), watch))
    app.enter(users)
    call = Visit(app, users, Eavesdropper)
    moods = app.llm.with_structured_output(Mood, max_tokens=60).batch(call.questions, call.configs)
    due = ORACLE.with_structured_output(Mood, max_tokens=60)
    assert moods == [due.invoke(user.question, preference=[*user.preferences]) for user in users]
    assert len({mood.tone for mood in moods}) > 1
    assert watch.leaks == []


PROFILE = random_preferences(random.Random(3))
SECRET = PROFILE[0].text


# The watchers catch what is planted

ASKING: ContextVar[Any] = ContextVar("ASKING")


class Late(ChatAmulet):
    """Looks up who asks past LangChain's cache, as models do that read the config within `_generate`."""

    def invoke(self, input, config=None, **kwargs):  # noqa: A002
        ASKING.set(config)
        return BaseChatModel.invoke(self, input, config, **kwargs)

    def _generate(self, *args, **kwargs):
        preferences = self.memory.recall(ASKING.get()["configurable"]["user_id"])
        return super()._generate(*args, **{**kwargs, "preference": preferences})


async def test_answer_of_another_from_the_cache_is_caught(watch):
    app, users = App(InMemoryStore(), watch), random_users(3, random.Random(4))[1:]
    app.llm = make_llm(Late, memory=app.memory, cache=WatchedCache(InMemoryCache(), watch))
    app.enter(users)
    first, second = [await visit(app, "invoke", [user]) for user in users]
    assert wrong(first) == []
    assert len(wrong(second)) == 1


async def test_preference_in_call_arguments_is_caught(watch, monkeypatch):
    monkeypatch.setattr("langchain_amulet.personalization.entry_points.opaque_arguments", lambda kwargs: kwargs)
    monkeypatch.setattr("langchain_amulet.personalization.entry_points.as_of_now", lambda preference: preference)
    monkeypatch.setattr("langchain_amulet.personalization.entry_points.for_caller", lambda preference, *_: preference)
    app, users = App(InMemoryStore(), watch, WatchedCache(InMemoryCache(), watch)), random_users(2, random.Random(5))
    app.llm = make_llm(cache=app.llm.cache, preference=None).bind(preference=[SECRET])
    await together([visit(app, path, users) for path in ("invoke", "ainvoke")])
    hooks = {"callback on_chat_model_start", "async callback on_chat_model_start"}
    assert {"cache key", "cache entry", "trace", *hooks} <= watch.channels_of_leaks()


def test_words_of_another_in_a_config_are_caught(watch):
    one, other = random_users(4, random.Random(6))[::3]
    call = Visit(App(InMemoryStore(), watch), [one], Eavesdropper)
    carried: dict[str, Any] = {"tags": [other.question], "metadata": {"asked": other.id}}
    call.app.chain.invoke(call.input, call.config | carried)
    assert {"trace", "callback on_chain_start", "callback on_chat_model_start"} <= watch.channels_of_leaks()
    assert {leak.split()[-1] for leak in watch.leaks} == other.own


def test_preference_in_other_channels_is_caught(watch):
    logging.getLogger("langchain_amulet.chat.call").debug("The prompt is %s", SECRET)
    warnings.warn(f"Too long: {SECRET}", stacklevel=1)
    watch.see("bytes", SECRET.encode())
    watch.see("token ids", TOKENIZER.encode(SECRET))
    watch.see("objects", {"preference": PROFILE[0].text})
    assert watch.channels_of_leaks() == {"log line", "warning", "bytes", "token ids", "objects"}
