"""Users with unique secrets, the APIs through which they ask, and watchers of everything that leaves the process."""

import asyncio
import contextlib
import itertools
import logging
import random
import re
import threading
import uuid
import warnings
from collections import Counter
from collections.abc import AsyncIterable, Callable, Collection, Coroutine, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, NamedTuple

import requests
import torch
from langchain.agents import create_agent
from langchain_core.caches import BaseCache
from langchain_core.callbacks import AsyncCallbackHandler, BaseCallbackHandler
from langchain_core.load import dumps
from langchain_core.messages import BaseMessage
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.tracers.langchain import LangChainTracer
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.store.base import BaseStore
from langsmith import Client
from pydantic import BaseModel
from transformers import AutoModelForCausalLM, PreTrainedModel, Qwen2Config

from langchain_amulet import ChatAmulet, Preference, PreferenceMemory, RealignmentConfig
from langchain_amulet.engine.config import EngineConfig
from tests.fakes.chat_templates import MISTRAL, byte_tokenizer
from tests.fakes.models import GROUPED

TOKENIZER = byte_tokenizer(MISTRAL)  # the template with the shortest prompts
_PREFERENCE_IDS = r",\s*".join(map(str, TOKENIZER.encode("pref-", add_special_tokens=False)))
# A prompt's token ids reveal its text, too.
_SECRET = re.compile(rf"(?:user|asks|pref)-[0-9a-f]{{12,}}|{_PREFERENCE_IDS}")


def secrets_in(text: str) -> list[str]:
    """The users' secrets that a text contains, in order."""
    return _SECRET.findall(text)


@dataclass(frozen=True)
class User:
    """A user with unique id, question and preferences."""

    id: str
    question: str
    preferences: tuple[Preference, ...]

    @property
    def own(self) -> frozenset[str]:
        """The secrets that this user's own traces may contain: all but preferences."""
        return frozenset(secrets_in(f"{self.id} {self.question}"))


def random_preferences(rng: random.Random) -> tuple[Preference, ...]:
    """One to three likes and dislikes, each with its own secret, and every other one with an opposite that has one."""
    weights = [1.0, *rng.choices([1.0, 0.5, -0.5], k=rng.choices([0, 1, 2], [6, 2, 1])[0])]
    opposites = [rng.choice([f"Speak as pref-{rng.randbytes(6).hex()}.", None]) for _ in weights]
    return tuple(
        Preference(f"Speak as pref-{rng.randbytes(6).hex()}.", weight, opposite=opposite)
        for weight, opposite in zip(weights, opposites, strict=True)
    )


def random_users(num_users: int, rng: random.Random) -> list[User]:
    """Two of three ask the same question, so that only their preferences tell them apart.

    Every other id begins with the whole id before it: stores have mistaken such users for each other.
    """
    users: list[User] = []
    for number in range(num_users):
        user_id = f"{users[-1].id}0" if number % 2 else f"user-{rng.randbytes(6).hex()}"
        question = "Why?" if number % 3 else f"Why asks-{rng.randbytes(6).hex()}?"
        users.append(User(user_id, question, random_preferences(rng)))
    return users


class Watch:
    """Searches outgoing data for secrets; stores the findings, not the texts."""

    def __init__(self) -> None:
        self.leaks: list[str] = []
        self.num_seen: Counter[str] = Counter()
        self._lock = threading.Lock()

    def see(self, channel: str, seen: Any, may_carry: Collection[str] = ()) -> None:
        """Look into a thing as `repr` and as JSON, for secrets other than those that it may carry."""
        if isinstance(seen, bytes):
            seen = seen.decode(errors="replace")
        texts = [seen] if isinstance(seen, str) else [repr(_laid_open(seen)), dumps(seen)]
        found = {secret for text in texts for secret in secrets_in(text)}
        with self._lock:
            self.num_seen[channel] += 1
            self.leaks += [f"{channel} carries {secret}" for secret in sorted(found.difference(may_carry))]

    def channels_of_leaks(self) -> set[str]:
        """The places where secrets were found."""
        return {leak.split(" carries ")[0] for leak in self.leaks}


def _laid_open(seen: Any) -> Any:
    """Messages and results as dicts of all their fields; pydantic's own `repr` shows fewer, and slowly."""
    if isinstance(seen, dict):
        return {key: _laid_open(value) for key, value in seen.items()}
    if isinstance(seen, list | tuple):
        return [_laid_open(each) for each in seen]
    return _laid_open(vars(seen)) if isinstance(seen, BaseModel) else seen


class Eavesdropper(BaseCallbackHandler):
    """Sees every argument of every hook of one user's calls."""

    raise_error = True

    def __init__(self, watch: Watch, may_carry: Collection[str]) -> None:
        self.watch, self.may_carry = watch, may_carry


class AsyncEavesdropper(AsyncCallbackHandler):
    """The same, for async calls."""

    raise_error = True
    __init__ = Eavesdropper.__init__


def _listen(hook: str) -> None:
    def see(self: Eavesdropper, *args: Any, **kwargs: Any) -> None:
        self.watch.see(f"callback {hook}", (args, kwargs), self.may_carry)

    async def asee(self: Any, *args: Any, **kwargs: Any) -> None:
        self.watch.see(f"async callback {hook}", (args, kwargs), self.may_carry)

    setattr(Eavesdropper, hook, see)
    setattr(AsyncEavesdropper, hook, asee)


for _hook in filter(re.compile("on_").match, dir(BaseCallbackHandler)):
    _listen(_hook)


class _Wire(requests.Session):
    """Stands where LangSmith's client sends by HTTP, and sees the very bytes."""

    def __init__(self, watch: Watch, may_carry: Collection[str]) -> None:
        super().__init__()
        self.watch, self.may_carry = watch, may_carry

    def request(self, method: Any, url: Any, *_: Any, **sent: Any) -> requests.Response:
        self.watch.see("trace", f"{method} {url} {sent.get('data', b'').decode()}", self.may_carry)
        response = requests.Response()
        response.status_code = 200
        return response


@cache
def tracer(watch: Watch, may_carry: frozenset[str]) -> LangChainTracer:
    """LangSmith's own tracer of one user's calls, whose server is the watch."""
    sent_by = {"api_url": "http://localhost", "api_key": "none", "auto_batch_tracing": False, "info": {}}
    return LangChainTracer(client=Client(session=_Wire(watch, may_carry), **sent_by))


class WatchedCache(BaseCache):
    """A cache that records each key and entry, and counts hits."""

    def __init__(self, cache: BaseCache, watch: Watch) -> None:
        self.cache, self.watch, self.num_hits = cache, watch, 0
        self._lock = threading.Lock()

    def lookup(self, prompt: str, llm_string: str) -> Any:
        self.watch.see("cache key", f"{prompt} {llm_string}", _asked_in(prompt))
        with self._lock:
            found = self.cache.lookup(prompt, llm_string)
            self.num_hits += found is not None
        return found

    def update(self, prompt: str, llm_string: str, return_val: Any) -> None:
        self.watch.see("cache entry", (prompt, llm_string, return_val), _asked_in(prompt))
        with self._lock:
            self.cache.update(prompt, llm_string, return_val)

    def clear(self, **kwargs: Any) -> None:
        self.cache.clear(**kwargs)


def _asked_in(prompt: str) -> list[str]:
    """One user's question: a second secret in a key is another's, and no id belongs in it."""
    return [secret for secret in secrets_in(prompt) if secret.startswith("asks-")][:1]


class _LogLines(logging.Handler):
    def __init__(self, watch: Watch) -> None:
        super().__init__(logging.DEBUG)
        self.watch = watch

    def emit(self, record: logging.LogRecord) -> None:
        line = self.format(record)
        # LangGraph's stores tell which namespace they search: an id, where the log's reader has the store itself.
        ids = secrets_in(line) if record.name.startswith("langgraph.store.") else []
        self.watch.see("log line", f"{record.name}: {line}", [each for each in ids if each.startswith("user-")])


@contextlib.contextmanager
def watched_logs(watch: Watch) -> Iterator[None]:
    """See all lines of all loggers, debugging ones included; none may carry anybody's anything."""
    handler = _LogLines(watch)
    named = [each for each in logging.root.manager.loggerDict.values() if isinstance(each, logging.Logger)]
    levels = {each: each.level for each in [logging.root, *named]}
    for each in levels:
        each.setLevel(logging.DEBUG)
        if each is logging.root or not each.propagate:
            each.addHandler(handler)
    try:
        yield
    finally:
        for each, level in levels.items():
            each.setLevel(level)
            each.removeHandler(handler)


@contextlib.contextmanager
def watched_warnings(watch: Watch) -> Iterator[None]:
    """Watch all warnings without raising them."""
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.showwarning = lambda message, *_: watch.see("warning", str(message))
        yield


# The paths


def one_layer_model(max_length: int = 1024) -> PreTrainedModel:
    """A model of one layer, with the same weights on each call and a context that fits prompts with tools."""
    sizes = {**GROUPED, "num_hidden_layers": 1, "max_position_embeddings": max_length}
    with torch.random.fork_rng():
        torch.manual_seed(5)
        return AutoModelForCausalLM.from_config(Qwen2Config(**sizes)).double().eval()


MODEL = one_layer_model()
ENGINE = EngineConfig(prefill_tokens=4096, prefix_cache_bytes=1_000_000)  # small enough that rows are evicted
SETTINGS = {
    "max_tokens": 4,
    "temperature": 0.0,
    "realignment": RealignmentConfig(guidance_scale=3.0, contrast="opposite"),
    "max_streams": 8,
}
PROMPT = ChatPromptTemplate.from_messages([("human", "{question}")])
THREADS = ThreadPoolExecutor(16)


def make_llm(kind: type[ChatAmulet] = ChatAmulet, **arguments: Any) -> ChatAmulet:
    return kind(**{"model": MODEL, "tokenizer": TOKENIZER, "engine_config": ENGINE, **SETTINGS, **arguments})


@dataclass
class Context:
    user_id: str


class App:
    """One model, store and response cache behind all of LangChain's paths."""

    def __init__(self, store: BaseStore, watch: Watch, response_cache: BaseCache | None = None) -> None:
        self.watch, self.memory, self.saver = watch, PreferenceMemory(store), InMemorySaver()
        self.llm = make_llm(memory=self.memory, cache=response_cache)
        self.chain = PROMPT | self.llm | StrOutputParser()
        self.agent = create_agent(self.llm, tools=[], checkpointer=self.saver)
        without_memory = make_llm(cache=response_cache)
        self.agent_of_store = create_agent(without_memory, tools=[], store=store, context_schema=Context)
        self.users_of_conversations: dict[str, User] = {}

    def enter(self, users: Sequence[User]) -> None:
        for user in users:
            for each in user.preferences:
                self.memory.remember(user.id, each)

    async def change(self, user: User, preferences: tuple[Preference, ...]) -> User:
        """Forget what the user prefers, one after another and then all, and remember what they prefer now."""
        for each in user.preferences[1:]:
            await self.memory.aforget(user.id, each.text)
        await asyncio.to_thread(self.memory.forget, user.id)
        for each in preferences:
            await self.memory.aremember(user.id, each)
        return replace(user, preferences=preferences)

    def see_checkpoints(self) -> None:
        for key, saved in [*self.saver.blobs.items(), *self.saver.writes.items(), *self.saver.storage.items()]:
            user = self.users_of_conversations[str(key if isinstance(key, str) else key[0])]
            self.watch.see("checkpoint", repr(saved), user.own)


class Visit:
    """What a path is given: one user's call, and those of others for paths that answer many at once."""

    def __init__(self, app: App, users: Sequence[User], eavesdropper: type[Eavesdropper | AsyncEavesdropper]) -> None:
        self.app, self.llm, self.users, self.eavesdropper = app, app.llm, users, eavesdropper
        self.questions = [user.question for user in users]
        self.inputs = [{"question": question} for question in self.questions]
        self.configs = [self._config(user) for user in users]
        self.question, self.input, self.config = self.questions[0], self.inputs[0], self.configs[0]
        self.state = {"messages": [("human", self.question)]}
        self.context = {"config": {"callbacks": self.config["callbacks"]}, "context": Context(users[0].id)}

    def see(self, given: Any) -> Any:
        self.app.watch.see("answer", given, {secret for user in self.users for secret in user.own})
        return given

    def _config(self, user: User) -> dict[str, Any]:
        conversation = uuid.uuid4().hex
        self.app.users_of_conversations[conversation] = user
        watchers = [self.eavesdropper(self.app.watch, user.own), tracer(self.app.watch, user.own)]
        return {"configurable": {"user_id": user.id, "thread_id": conversation}, "callbacks": watchers}


async def collect(stream: AsyncIterable[Any]) -> list[Any]:
    return [each async for each in stream]


def events_v3(v: Visit) -> Any:
    stream = v.llm.stream_events(v.question, v.config, version="v3")
    v.see(list(stream))
    return stream.output


async def aevents_v3(v: Visit) -> Any:
    stream = await v.llm.astream_events(v.question, v.config, version="v3")
    v.see(await collect(stream))
    return await stream.output


async def last_output(v: Visit, events: AsyncIterable[Any]) -> Any:
    return v.see(await collect(events))[-1]["data"]["output"]


PATHS: dict[str, Callable[[Visit], Any]] = {
    "invoke": lambda v: v.llm.invoke(v.question, v.config),
    "stream": lambda v: list(v.llm.stream(v.question, v.config)),
    "batch": lambda v: v.llm.batch(v.questions, v.configs),
    "batch_as_completed": lambda v: map(
        dict(v.llm.batch_as_completed(v.questions, v.configs)).get, range(len(v.users))
    ),
    "events v3": events_v3,
    "bound": lambda v: v.llm.bind(preference=[*v.users[0].preferences]).invoke(v.question, v.config),
    "chain.invoke": lambda v: v.app.chain.invoke(v.input, v.config),
    "chain.stream": lambda v: list(v.app.chain.stream(v.input, v.config)),
    "chain.batch": lambda v: v.app.chain.batch(v.inputs, v.configs),
    "agent.invoke": lambda v: v.app.agent.invoke(v.state, v.config),
    "agent.stream": lambda v: [
        message for message, _ in v.see([*v.app.agent.stream(v.state, v.config, stream_mode="messages")])
    ],
    "agent_of_store.invoke": lambda v: v.app.agent_of_store.invoke(v.state, **v.context),
}
ASYNC_PATHS: dict[str, Callable[[Visit], Any]] = {
    "ainvoke": lambda v: v.llm.ainvoke(v.question, v.config),
    "astream": lambda v: collect(v.llm.astream(v.question, v.config)),
    "abatch": lambda v: v.llm.abatch(v.questions, v.configs),
    "aevents v2": lambda v: last_output(v, v.llm.astream_events(v.question, v.config, version="v2")),
    "aevents v3": aevents_v3,
    "chain.ainvoke": lambda v: v.app.chain.ainvoke(v.input, v.config),
    "chain.astream": lambda v: collect(v.app.chain.astream(v.input, v.config)),
    "chain.abatch": lambda v: v.app.chain.abatch(v.inputs, v.configs),
    "agent.ainvoke": lambda v: v.app.agent.ainvoke(v.state, v.config),
    "agent.aevents v2": lambda v: last_output(v, v.app.agent.astream_events(v.state, v.config, version="v2")),
    "agent_of_store.ainvoke": lambda v: v.app.agent_of_store.ainvoke(v.state, **v.context),
}
ALL_PATHS = [*PATHS, *ASYNC_PATHS]


class Received(NamedTuple):
    """The answer that a user received by a path, with the user's preferences at that time."""

    path: str
    user: User
    text: str


async def visit(app: App, path: str, users: Sequence[User]) -> list[Received]:
    users = users if "batch" in path else users[:1]
    if path in ASYNC_PATHS:
        call = Visit(app, users, AsyncEavesdropper)
        given = await ASYNC_PATHS[path](call)
    else:
        call = Visit(app, users, Eavesdropper)
        given = await asyncio.get_running_loop().run_in_executor(THREADS, PATHS[path], call)
    answers = call.see([*given] if "batch" in path else [given])
    return [Received(path, user, text_of(answer)) for user, answer in zip(users, answers, strict=True)]


def text_of(given: Any) -> str:
    if isinstance(given, str):
        return given
    if isinstance(given, BaseMessage):
        return given.text
    return text_of(given["messages"][-1]) if isinstance(given, dict) else "".join(map(text_of, given))


async def together(visits: Sequence[Coroutine[Any, Any, list[Received]]]) -> list[Received]:
    return [*itertools.chain.from_iterable(await asyncio.gather(*visits))]
