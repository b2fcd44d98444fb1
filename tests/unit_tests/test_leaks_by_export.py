"""What observability clients, crash reports and pickles make of calls: no preference, and nobody else's words."""

import asyncio
import contextlib
import gc
import random
import threading
import traceback
from collections.abc import Callable, Collection, Generator, Iterator
from typing import Any, cast

import pytest
import torch
from langchain_core.caches import InMemoryCache
from langchain_core.messages import AIMessage, AIMessageChunk, AnyMessage, HumanMessage, ToolMessage
from langchain_core.stores import InMemoryByteStore
from langgraph.store.memory import InMemoryStore

from langchain_amulet import ChatAmulet, Preference, PreferenceMemory, RealignmentConfig
from langchain_amulet.exceptions import AmuletError
from langchain_amulet.stream_plan import plan_streams
from tests.fakes.databases import KINDS, opened
from tests.fakes.exporters import EXPORTERS, attributes
from tests.fakes.figures import count
from tests.fakes.leak_watch import (
    ALL_PATHS,
    App,
    AsyncEavesdropper,
    Eavesdropper,
    User,
    Visit,
    Watch,
    WatchedCache,
    make_llm,
    one_layer_model,
    random_users,
    secrets_in,
    visit,
    watched_logs,
    watched_warnings,
)


class ExportingWatch(Watch):
    """Looks at everything in the way of every client."""

    def see(self, channel: str, seen: Any, may_carry: Collection[str] = ()) -> None:
        if isinstance(seen, str | bytes):
            super().see(channel, seen, may_carry)
            return
        for name, export in EXPORTERS.items():
            super().see(f"{channel} by {name}", export(seen), may_carry)


@pytest.fixture
def watch() -> Iterator[ExportingWatch]:
    watch = ExportingWatch()
    with watched_logs(watch), watched_warnings(watch):
        yield watch
    count("places searched for leaks", watch.num_seen.total())
    count("leaks", len(watch.leaks))


# Callbacks, traces, caches


@pytest.mark.parametrize("path", ALL_PATHS)
async def test_no_client_exports_a_preference(watch, path):
    app, users = App(InMemoryStore(), watch, WatchedCache(InMemoryCache(), watch)), random_users(2, random.Random(9))
    app.enter(users)
    for _ in range(2):  # the second time from the cache
        await visit(app, path, users)
    assert watch.leaks == []


def conversation_of(user: User) -> list[AnyMessage]:
    """A question, a tool call and its result, each with a secret of the user's."""
    call = {"name": "look_up", "args": {"what": user.question}, "id": "1"}
    return [HumanMessage(user.question), AIMessage("", tool_calls=[call]), ToolMessage(user.question, tool_call_id="1")]


@pytest.mark.parametrize("eavesdropper", [Eavesdropper, AsyncEavesdropper])
async def test_words_and_tool_results_reach_their_own_users_callbacks_only(watch, eavesdropper):
    app, users = App(InMemoryStore(), watch, WatchedCache(InMemoryCache(), watch)), random_users(30, random.Random(10))
    app.enter(users)
    calls = [Visit(app, [user], eavesdropper) for user in users[::3]]  # those with words of their own
    answers = [app.llm.ainvoke(conversation_of(call.users[0]), call.config) for call in calls]
    for call, answer in zip(calls, await asyncio.gather(*answers), strict=True):
        call.see(answer)
    assert watch.leaks == []


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "async sqlite"])  # that one logs what it writes
async def test_no_store_and_no_event_loop_logs_a_preference_at_debug(watch, kind, tmp_path, empty_postgres):
    loop = asyncio.get_running_loop()
    loop.set_debug(True)
    loop.slow_callback_duration = 0  # asyncio logs each callback with its arguments
    async with opened(kind, tmp_path, empty_postgres) as store:
        memory = PreferenceMemory(store)
        for each in BOTH:
            await memory.aremember("somebody", each.text, each.weight)
        llm = make_llm(memory=memory)
        await llm.ainvoke(ASKED, USER)
        [chunk async for chunk in llm.astream(ASKED, USER)]
        await memory.aforget("somebody", LIKE)
        await memory.aforget_user("somebody")
    assert watch.num_seen["log line"] > 10
    assert watch.leaks == []


@pytest.mark.parametrize("name", ["attributes", "pickle", "reductions", "copies", "referents"])
def test_exporters_find_what_an_object_holds(name):
    held = Preference("Speak as pref-0123456789ab.")
    assert secrets_in(repr(held)) == []
    assert {*secrets_in(EXPORTERS[name]({"kwargs": [held]}))} == {"pref-0123456789ab"}


# Errors and crash reports

LIKE, DISLIKE = "Speak as pref-abababababab.", "Never as pref-cdcdcdcdcdcd."
ASKED, TOLD = "Why asks-121212121212?", "It is asks-343434343434."
BOTH = [Preference(LIKE), Preference(DISLIKE, -0.5)]
USER: Any = {"configurable": {"user_id": "somebody"}}
TALK = [HumanMessage(ASKED), AIMessage(TOLD), HumanMessage(TOLD)]


def some_llm(**fields: Any) -> ChatAmulet:
    return make_llm(**{"preference": BOTH, **fields})


def with_broken_model(break_it: Callable[[Any], None]) -> None:
    model = one_layer_model()
    llm = some_llm(model=model)
    llm.invoke("Why?")
    break_it(model)
    llm.invoke(TALK)


def lose_device(model: Any) -> None:
    def lost(*_: Any, **__: Any) -> None:
        msg = "The device is lost."
        raise RuntimeError(msg)

    model.forward = lost


def become_nan(model: Any) -> None:
    with torch.no_grad():
        for weights in model.parameters():
            weights.fill_(torch.nan)


def with_broken_items() -> PreferenceMemory:
    store = InMemoryByteStore()
    memory = PreferenceMemory(store)
    memory.remember("somebody", LIKE)
    for key in store.yield_keys():
        store.mset([(key, value[:-3]) for value in store.mget([key]) if value])
    return memory


class QuotingStore(InMemoryStore):
    def batch(self, ops: Any) -> Any:
        msg = f"could not do {[*ops]}"
        raise ConnectionError(msg)


def memory_of(exported: Any) -> PreferenceMemory:
    memory = PreferenceMemory()
    memory.import_("somebody", exported)
    return memory


FAILURES: dict[str, Callable[[], object]] = {
    "a preference that does not fit": lambda: some_llm().invoke(TALK, preference=[LIKE * 50]),
    "a conversation that does not fit": lambda: some_llm().invoke(ASKED * 200),
    "an image": lambda: some_llm().invoke([HumanMessage([{"type": "image_url", "image_url": {"url": ASKED}}])]),
    "a part without text": lambda: some_llm().invoke(
        [HumanMessage([{"type": "text"}, {"type": "text", "text": TOLD}])]
    ),
    "a lone surrogate": lambda: some_llm().invoke(ASKED + "\ud800"),
    "a preference with a lone surrogate": lambda: some_llm().invoke("Why?", preference=LIKE + "\ud800"),
    "a dict for a preference": lambda: some_llm().invoke("Why?", preference={"text": LIKE}),
    "a dict among preferences": lambda: some_llm().invoke("Why?", preference=[LIKE, {"text": DISLIKE}]),
    "too large a weight": lambda: Preference(LIKE, 1e9),
    "a text for a weight": lambda: Preference(LIKE, LIKE),
    "a field of another type": lambda: some_llm(preference={"text": LIKE}),
    "a wrong field beside a preference": lambda: some_llm(temperature="hot"),
    "a dict for a user id": lambda: some_llm().invoke("Why?", {"configurable": {"user_id": {"x": LIKE}}}),
    "a store that fails": lambda: some_llm(memory=PreferenceMemory(QuotingStore())).invoke("Why?", USER),
    "a store that cannot write": lambda: PreferenceMemory(QuotingStore()).remember("somebody", LIKE),
    "remembering with too large a weight": lambda: PreferenceMemory().remember("somebody", LIKE, 1e9),
    "an import of a text for a weight": lambda: memory_of({"preferences": [{"text": LIKE, "weight": LIKE}]}),
    "an import of a list": lambda: memory_of([{"text": LIKE}]),
    "a broken item": lambda: some_llm(memory=with_broken_items()).invoke("Why?", USER),
    "a mapping to dicts": lambda: some_llm(memory={"somebody": {"text": LIKE}}).invoke("Why?", USER),
    "a device that is lost": lambda: with_broken_model(lose_device),
    "a model of NaN": lambda: with_broken_model(become_nan),
    "a timeout": lambda: some_llm().invoke(TALK, timeout=1e-9),
    "a tool choice without tools": lambda: some_llm().bind_tools([], tool_choice="x").invoke(TALK),
    "wrong settings": lambda: some_llm().invoke(TALK, seed="x"),
    "an unknown role": lambda: some_llm().invoke([{"role": "other", "content": ASKED}]),
}


def chain_of(error: BaseException | None) -> list[BaseException]:
    """The error with all causes and contexts, hidden ones too."""
    waiting, found = [error], list[BaseException]()
    while waiting:
        each = waiting.pop()
        if each is not None and each not in found:
            found.append(each)
            waiting += [each.__cause__, each.__context__]
    return found


def report_of(error: BaseException) -> str:
    """Everything that a crash report shows of an error without its local variables."""
    pieces = [(repr(each), str(each), attributes([*each.args, vars(each)])) for each in chain_of(error)]
    return "".join(traceback.format_exception(error)) + str(pieces)


@pytest.mark.filterwarnings("ignore:.*:UserWarning")
@pytest.mark.parametrize("name", FAILURES)
def test_errors_show_neither_preferences_nor_words(watch, name):
    with pytest.raises((AmuletError, ValueError, TypeError, ConnectionError)) as failed:
        FAILURES[name]()
    watch.see("report", report_of(failed.value))
    assert watch.leaks == []


# Objects and threads while an answer is written


def test_objects_of_the_package_show_no_prompt_in_their_repr(watch):
    memory = PreferenceMemory()
    memory.remember("somebody", LIKE)
    memory.remember("somebody", DISLIKE, -0.5)
    llm = make_llm(memory=memory, max_tokens=100)
    llm.invoke(TALK, USER)  # leaves rows in the prefix cache
    chunks = cast("Generator[AIMessageChunk]", llm.stream(TALK, USER))
    next(chunks)
    words = {*secrets_in(f"{LIKE} {DISLIKE} {TALK}")}
    gc.collect()  # what earlier tests left in cycles, with the same words
    own = [each for each in gc.get_objects() if str(type(each).__module__).startswith("langchain_amulet")]
    for each in own:
        with contextlib.suppress(AttributeError):  # half-made objects that a failed call has left behind
            shown = repr(each)
            found = {secret for secret in secrets_in(shown) if "-" in secret}  # words; the rest are token ids
            others = found - words  # left over from other tests
            watch.see(f"repr of {type(each).__name__}", shown, others)
    watch.see("threads", str([thread.name for thread in threading.enumerate()]))
    assert {"Request", "Sequence", "Row", "PrefixCache"} <= {type(each).__name__ for each in own}
    assert watch.leaks == []
    chunks.close()


def test_plan_of_streams_shows_no_text(watch):
    profile = [Preference(LIKE, opposite=DISLIKE), Preference(DISLIKE, -0.5)]
    watch.see("plan", repr(plan_streams(profile, RealignmentConfig(contrast="opposite"))))
    assert watch.leaks == []
