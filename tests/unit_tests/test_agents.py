"""LangChain's agents: whose preferences a model call follows, and what users may have remembered by tools."""

import asyncio
import contextlib
import random
import subprocess
import sys
from dataclasses import dataclass
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain.agents.middleware import AgentMiddleware
from langchain_core.caches import InMemoryCache
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage, ToolMessage
from langchain_core.outputs import ChatGeneration, ChatResult
from langchain_core.prompt_values import ChatPromptValue
from langchain_core.utils.function_calling import convert_to_openai_tool
from langgraph.store.base import SearchOp
from langgraph.store.memory import InMemoryStore
from langgraph.store.sqlite import SqliteStore
from langgraph.store.sqlite.aio import AsyncSqliteStore
from pydantic import Field

from langchain_amulet import Preference, PreferenceMemory
from langchain_amulet.agents import (
    MAX_PREFERENCE_LENGTH,
    MAX_PREFERENCES,
    AmuletMiddleware,
    extract_preferences,
    preference_tools,
)
from langchain_amulet.exceptions import InvalidParameterError, StoreTypeError, UserIdError
from tests.unit_tests.leak_watch import (
    App,
    AsyncEavesdropper,
    Eavesdropper,
    Visit,
    Watch,
    WatchedCache,
    make_llm,
    random_users,
    watched_logs,
    watched_warnings,
)
from tests.unit_tests.roomy import roomy_chat, roomy_model

LLM = make_llm(model=roomy_model())  # with room for tools in its prompts
ASKED = {"messages": [("human", "Why?")]}
PLAIN = LLM.invoke("Why?").text
BRIEF = LLM.invoke("Why?", preference="Be brief.").text
POLITE = LLM.invoke("Why?", preference="Be polite.").text
assert len({PLAIN, BRIEF, POLITE}) == 3, "answers must tell whose preferences they follow"


@dataclass
class Context:
    user_id: str | None = None


ALICE = Context("alice")
ALICE_IN_CONFIG = {"configurable": {"user_id": "alice"}}


class CountingStore(InMemoryStore):
    """Counts look-ups; fails while it is broken."""

    def __init__(self) -> None:
        super().__init__()
        self.num_lookups, self.is_broken = 0, False

    def batch(self, ops: Any) -> Any:
        return super().batch(self._count(ops))

    async def abatch(self, ops: Any) -> Any:
        return await super().abatch(self._count(ops))

    def _count(self, ops: Any) -> list[Any]:
        ops = [*ops]
        self.num_lookups += sum(isinstance(op, SearchOp) for op in ops)
        if self.is_broken:
            msg = "The store has gone away."
            raise ConnectionError(msg)
        return ops


def store_of(**preferences: str) -> CountingStore:
    store = CountingStore()
    for user_id, text in preferences.items():
        PreferenceMemory(store).remember(user_id, text)
    store.num_lookups = 0
    return store


def last(state: dict[str, Any]) -> AIMessage:
    return state["messages"][-1]


# The middleware


def agent_with(*middleware: AgentMiddleware, llm: Any = LLM, store: Any = None, tools: Any = ()) -> Any:
    return create_agent(llm, [*tools], middleware=middleware, store=store, context_schema=Context)


def test_user_of_the_context_is_answered_as_they_prefer():
    agent = agent_with(AmuletMiddleware(), store=store_of(alice="Be brief."))
    assert last(agent.invoke(ASKED, context=ALICE)).text == BRIEF
    assert last(agent.invoke(ASKED, context=Context("bob"))).text == PLAIN


async def test_user_of_the_context_is_answered_as_they_prefer_async():
    agent = agent_with(AmuletMiddleware(), store=store_of(alice="Be brief."))
    assert last(await agent.ainvoke(ASKED, context=ALICE)).text == BRIEF
    assert last(await agent.ainvoke(ASKED, context=Context("bob"))).text == PLAIN


async def test_configurable_user_is_answered_as_they_prefer():
    agent = agent_with(AmuletMiddleware(), store=store_of(alice="Be brief."))
    assert last(agent.invoke(ASKED, ALICE_IN_CONFIG)).text == BRIEF
    assert last(await agent.ainvoke(ASKED, ALICE_IN_CONFIG)).text == BRIEF


async def test_users_asking_at_once_are_answered_each_their_way():
    agent = agent_with(AmuletMiddleware(), store=store_of(alice="Be brief.", bob="Be polite."))
    contexts = [Context(user_id) for user_id in ("alice", "bob", "carol")] * 3
    states = await asyncio.gather(*(agent.ainvoke(ASKED, context=context) for context in contexts))
    assert [last(state).text for state in states] == [BRIEF, POLITE, PLAIN] * 3


@pytest.mark.parametrize("memory", [PreferenceMemory, lambda store: store, lambda _: {"alice": "Be brief."}])
def test_memory_of_the_middleware_comes_before_that_of_the_agent_and_of_the_model(memory):
    model = LLM.model_copy(update={"memory": PreferenceMemory(store_of(alice="Be polite."))})
    middleware = AmuletMiddleware(memory(store_of(alice="Be brief.")))
    agent = agent_with(middleware, llm=model, store=store_of(alice="Be polite."))
    assert last(agent.invoke(ASKED, context=ALICE)).text == BRIEF


def test_what_the_middleware_leaves_out_is_as_the_model_has_it():
    model = make_llm(memory=store_of(alice="Be brief."), preference="Be polite.")
    agent = agent_with(AmuletMiddleware(), llm=model, store=store_of(alice="Be polite."))
    assert last(agent.invoke(ASKED, context=ALICE)).text == BRIEF
    assert last(agent.invoke(ASKED, context=Context("bob"))).text == POLITE


def test_preference_of_the_middleware_is_for_users_of_whom_nothing_is_remembered():
    agent = agent_with(
        AmuletMiddleware(preference="Be polite."),
        llm=make_llm(preference="Be dull."),
        store=store_of(alice="Be brief."),
    )
    contexts = [ALICE, Context("bob"), Context()]
    assert [last(agent.invoke(ASKED, context=each)).text for each in contexts] == [BRIEF, POLITE, POLITE]


def test_empty_preference_of_the_middleware_is_a_plain_answer():
    agent = agent_with(AmuletMiddleware(preference=[]), llm=make_llm(preference="Be polite."))
    assert last(agent.invoke(ASKED)).text == PLAIN


@pytest.mark.parametrize("fields", [{}, {"on_store_error": "plain"}], ids=["by default", "whatever the model's policy"])
async def test_failing_store_fails_the_run(fields):
    store = store_of(alice="Be brief.")
    policy = {"on_store_error": "raise"} if fields else {}
    agent = agent_with(AmuletMiddleware(**policy), llm=make_llm(**fields), store=store)
    store.is_broken = True
    with pytest.raises(ConnectionError, match="gone away"):
        agent.invoke(ASKED, context=ALICE)
    with pytest.raises(ConnectionError, match="gone away"):
        await agent.ainvoke(ASKED, context=ALICE)


@pytest.mark.parametrize("of_middleware", [True, False], ids=["the middleware's policy", "the model's policy"])
async def test_failing_store_gives_plain_answers_where_the_policy_says_so(of_middleware):
    store, policy = store_of(alice="Be brief."), {"on_store_error": "plain"}
    middleware = AmuletMiddleware(**policy) if of_middleware else AmuletMiddleware()
    agent = agent_with(middleware, llm=LLM if of_middleware else make_llm(**policy), store=store)
    store.is_broken = True
    with pytest.warns(UserWarning, match="ConnectionError"):
        answers = [last(agent.invoke(ASKED, context=ALICE)), last(await agent.ainvoke(ASKED, context=ALICE))]
    assert [answer.text for answer in answers] == [PLAIN, PLAIN]
    assert {answer.response_metadata["amulet"]["store_error"] for answer in answers} == {"ConnectionError"}


def test_middleware_refuses_what_it_cannot_use():
    with pytest.raises(InvalidParameterError, match='"raise" or "plain", got \'ignore\''):
        AmuletMiddleware(on_store_error="ignore")
    for make in (AmuletMiddleware, preference_tools):
        with pytest.raises(StoreTypeError, match="got str"):
            make("preferences.db")


class Settings(AgentMiddleware):
    """Gives model calls settings, as other middleware does."""

    def __init__(self, **settings: Any) -> None:
        super().__init__()
        self.settings = settings

    def wrap_model_call(self, request, handler):
        return handler(request.override(model_settings={**request.model_settings, **self.settings}))


def test_preference_that_a_call_is_given_already_stays():
    store = store_of(alice="Be brief.")
    for preference, text in [("Be polite.", POLITE), (None, PLAIN), ([], PLAIN)]:
        agent = agent_with(Settings(preference=preference), AmuletMiddleware(), store=store)
        assert last(agent.invoke(ASKED, context=ALICE)).text == text
    assert store.num_lookups == 0


def test_other_settings_of_a_call_stay():
    agent = agent_with(Settings(max_tokens=2), AmuletMiddleware(), store=store_of(alice="Be brief."))
    answer = last(agent.invoke(ASKED, context=ALICE))
    assert answer.usage_metadata["output_tokens"] == 2
    assert answer.text == LLM.invoke("Why?", preference="Be brief.", max_tokens=2).text


def test_bound_model_is_answered_for_too_unless_a_preference_is_bound():
    of_middleware = AmuletMiddleware(store_of(alice="Be brief."))
    bound = LLM.bind(stop=["nothing says this"])
    assert last(agent_with(of_middleware, llm=bound).invoke(ASKED, context=ALICE)).text == BRIEF
    of_call = bound.bind(preference="Be polite.")
    assert last(agent_with(of_middleware, llm=of_call).invoke(ASKED, context=ALICE)).text == POLITE


class Scripted(BaseChatModel):
    """Says what it is told to, and keeps what it was given; refuses call arguments that it does not know."""

    replies: list[AIMessage]
    seen: list[Any] = Field(default_factory=list)

    @property
    def _llm_type(self) -> str:
        return "scripted"

    def _generate(self, messages, stop=None, run_manager=None, ls_structured_output_format=None):  # noqa: ARG002
        self.seen.append(messages)
        reply = self.replies[(len(self.seen) - 1) % len(self.replies)]
        return ChatResult(generations=[ChatGeneration(message=reply.model_copy())])

    def bind_tools(self, tools, *, tool_choice=None, **kwargs):  # noqa: ARG002
        return self.bind(**kwargs)


async def test_calls_of_other_chat_models_are_left_alone():
    store = store_of(alice="Be brief.")
    agent = agent_with(AmuletMiddleware(), llm=Scripted(replies=[AIMessage("Because.")]), store=store)
    assert last(agent.invoke(ASKED, context=ALICE)).text == "Because."
    assert last(await agent.ainvoke(ASKED, context=ALICE)).text == "Because."
    assert store.num_lookups == 0


def calling(name: str, **arguments: Any) -> AIMessage:
    return AIMessage("", tool_calls=[{"name": name, "args": arguments, "id": name}])


class CallsFirst(AgentMiddleware):
    """Has another model call a tool before `ChatAmulet` answers."""

    def __init__(self, call: AIMessage) -> None:
        super().__init__()
        self.caller = Scripted(replies=[call])

    def wrap_model_call(self, request, handler):
        return handler(request.override(model=self.caller) if len(request.messages) == 1 else request)

    async def awrap_model_call(self, request, handler):
        return await handler(request.override(model=self.caller) if len(request.messages) == 1 else request)


async def test_each_model_call_looks_up_once():
    def nothing() -> str:
        """Do nothing."""
        return "Nothing."

    store = store_of(alice="Be brief.")
    agent = agent_with(AmuletMiddleware(), store=store)
    agent.invoke(ASKED, context=ALICE)
    assert store.num_lookups == 1
    await agent.ainvoke(ASKED, ALICE_IN_CONFIG)
    assert store.num_lookups == 2
    forced = [Settings(max_tokens=80), ForcesTwoCalls(), AmuletMiddleware()]
    state = agent_with(*forced, store=store, tools=[nothing]).invoke(ASKED, context=ALICE)
    assert [message.type for message in state["messages"]] == ["human", "ai", "tool", "ai", "tool", "ai"]
    assert store.num_lookups == 2 + 3


class ForcesTwoCalls(AgentMiddleware):
    """Has a tool called twice, before words are said."""

    def wrap_model_call(self, request, handler):
        return handler(request.override(tool_choice="any" if len(request.messages) < 5 else "none"))


# The tools


def run_tool(name: str, store: Any = None, tools: Any = None, **arguments: Any) -> ToolMessage:
    """What a tool tells a model that calls it in Alice's run."""
    llm = Scripted(replies=[calling(name, **arguments), AIMessage("Done.")])
    agent = agent_with(llm=llm, store=store, tools=tools or preference_tools())
    return agent.invoke(ASKED, context=ALICE)["messages"][2]


async def arun_tool(name: str, store: Any = None, tools: Any = None, **arguments: Any) -> ToolMessage:
    llm = Scripted(replies=[calling(name, **arguments), AIMessage("Done.")])
    agent = agent_with(llm=llm, store=store, tools=tools or preference_tools())
    return (await agent.ainvoke(ASKED, context=ALICE))["messages"][2]


async def either(is_async: bool, *args: Any, **arguments: Any) -> ToolMessage:  # noqa: FBT001
    return await arun_tool(*args, **arguments) if is_async else run_tool(*args, **arguments)


both = pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])


@contextlib.asynccontextmanager
async def opened(kind: str, path: Any) -> Any:
    if kind == "memory":
        yield InMemoryStore()
    elif kind == "sqlite":  # sync only: it raises in async runs
        with SqliteStore.from_conn_string(str(path)) as store:
            store.setup()
            yield store
    else:
        async with AsyncSqliteStore.from_conn_string(str(path)) as store:
            await store.setup()
            yield store


@pytest.mark.parametrize(
    ("kind", "is_async"),
    [("memory", False), ("memory", True), ("sqlite", False), ("sqlite", True), ("async sqlite", True)],
)
async def test_tools_remember_list_and_forget(kind, is_async, tmp_path):
    async with opened(kind, tmp_path / "preferences.db") as store:
        memory = PreferenceMemory(store)
        told = await either(is_async, "remember_preference", store, preference="Be brief.")
        assert (told.content, told.status) == ('Remembered: "Be brief."', "success")
        told = await either(is_async, "remember_preference", store, preference="Use jargon.", is_dislike=True)
        assert told.content == 'Remembered to avoid: "Use jargon."'
        assert await memory.arecall("alice") == [Preference("Be brief."), Preference("Use jargon.", -1.0)]
        told = await either(is_async, "list_preferences", store)
        assert told.content == "- Be brief.\n- (avoid) Use jargon."
        told = await either(is_async, "forget_preference", store, preference="Be brief.")
        assert told.content == 'Forgotten: "Be brief."'
        assert await memory.arecall("alice") == [Preference("Use jargon.", -1.0)]


@both
async def test_tools_keep_preferences_in_a_memory_of_their_own(is_async):
    memory, store = PreferenceMemory(), InMemoryStore()
    await either(is_async, "remember_preference", store, preference_tools(memory), preference="Be brief.")
    assert memory.recall("alice") == [Preference("Be brief.")]
    assert PreferenceMemory(store).recall("alice") == []


async def test_what_is_remembered_counts_from_the_next_model_call_on():
    agent = agent_with(
        CallsFirst(calling("remember_preference", preference="Be brief.")),
        AmuletMiddleware(),
        store=InMemoryStore(),
        tools=preference_tools(),
    )
    state = await agent.ainvoke(ASKED, context=ALICE)
    due = LLM.bind_tools(preference_tools()).invoke(state["messages"][:-1], preference="Be brief.")
    plain = LLM.bind_tools(preference_tools()).invoke(state["messages"][:-1])
    assert last(state).text == due.text != plain.text


def test_models_are_shown_what_to_remember_and_no_user():
    shown = {tool.name: convert_to_openai_tool(tool)["function"] for tool in preference_tools()}
    arguments = {name: {*each["parameters"]["properties"]} for name, each in shown.items()}
    assert arguments == {
        "remember_preference": {"preference", "is_dislike"},
        "list_preferences": set(),
        "forget_preference": {"preference"},
    }
    for each in shown.values():
        assert "\n" not in each["description"]
        assert each["description"].endswith(".")
        assert all(argument["description"] for argument in each["parameters"]["properties"].values())


FORGED = {
    "user_id": "bob",
    "runtime": {"context": {"user_id": "bob"}},
    "config": {"configurable": {"user_id": "bob", "langgraph_auth_user": {"identity": "bob"}}},
    "self": None,
    "weight": 100,
}


@both
async def test_models_cannot_reach_another_user(is_async):
    store = store_of(alice="Be brief.", bob="Be polite.")
    memory = PreferenceMemory(store)
    told = await either(is_async, "list_preferences", store, **FORGED)
    assert told.content == "- Be brief."
    told = await either(is_async, "forget_preference", store, preference="Be polite.", **FORGED)
    assert told.content == "No such preference is remembered. What is remembered:\n- Be brief."
    await either(is_async, "remember_preference", store, preference="Be dull.", **FORGED)
    assert memory.recall("bob") == [Preference("Be polite.")]
    assert memory.recall("alice") == [Preference("Be brief."), Preference("Be dull.")]


async def test_authenticated_user_is_the_one_that_tools_act_for():
    store = store_of(alice="Be brief.")
    llm = Scripted(replies=[calling("list_preferences"), AIMessage("Done.")])
    agent = agent_with(llm=llm, store=store, tools=preference_tools())
    authenticated = {"configurable": {"langgraph_auth_user": {"identity": "alice"}}}
    assert agent.invoke(ASKED, authenticated, context=Context("bob"))["messages"][2].content == "- Be brief."
    with pytest.raises(UserIdError, match="authenticated"):
        agent.invoke(ASKED, {"configurable": {"user_id": "bob", **authenticated["configurable"]}})


@pytest.mark.parametrize("store", [InMemoryStore(), None], ids=["no user", "neither user nor store"])
@pytest.mark.parametrize("name", ["remember_preference", "list_preferences", "forget_preference"])
async def test_missing_user_is_an_error_that_says_what_to_do(name, store):
    llm = Scripted(replies=[calling(name, preference="Be brief.")])
    agent = agent_with(llm=llm, store=store, tools=preference_tools())
    with pytest.raises(UserIdError, match=r"context=.* that has a user_id"):
        agent.invoke(ASKED)
    with pytest.raises(UserIdError, match=r"context=.* that has a user_id"):
        await agent.ainvoke(ASKED, context=Context())


def test_missing_store_is_an_error_that_says_what_to_do():
    with pytest.raises(UserIdError, match=r"create it with store=.*preference_tools\(memory\)"):
        run_tool("list_preferences")


@both
@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"preference": ""}, "empty"),
        ({"preference": " \n "}, "empty"),
        ({"preference": "..."}, "empty"),
        ({"preference": "x" * (MAX_PREFERENCE_LENGTH + 1)}, "501 characters; 500 are allowed"),
        ({}, "preference: Field required"),
        ({"preference": None}, "valid string"),
        ({"preference": ["Be brief."]}, "valid string"),
        ({"preference": "Be odd.", "is_dislike": "very"}, "valid boolean"),
    ],
)
async def test_bad_input_is_told_to_the_model_and_changes_nothing(arguments, told, is_async):
    store = store_of(alice="Be brief.")
    answer = await either(is_async, "remember_preference", store, **arguments)
    assert answer.status == "error"
    assert told in answer.content
    assert PreferenceMemory(store).recall("alice") == [Preference("Be brief.")]


def test_half_a_character_is_told_to_the_model():
    answer = run_tool("remember_preference", InMemoryStore(), preference="Be \ud800.")
    assert answer.status == "error"


@both
async def test_only_so_many_preferences_are_remembered(is_async):
    store = InMemoryStore()
    memory = PreferenceMemory(store)
    for number in range(MAX_PREFERENCES):
        memory.remember("alice", f"Prefer {number}.")
    answer = await either(is_async, "remember_preference", store, preference="Be brief.")
    assert (answer.status, len(memory.recall("alice"))) == ("error", MAX_PREFERENCES)
    assert "Forget some" in answer.content
    answer = await either(is_async, "remember_preference", store, preference="Prefer 7.", is_dislike=True)
    assert answer.status == "success"


@both
async def test_repeated_preference_stays_as_it_is(is_async):
    store = InMemoryStore()
    kept = PreferenceMemory(store).remember("alice", "Be brief.", 0.5, source="learned")
    await either(is_async, "remember_preference", store, preference=" be  BRIEF ")
    assert PreferenceMemory(store).recall("alice") == [kept]


@both
async def test_liking_becomes_a_dislike_when_the_user_says_so(is_async):
    store = store_of(alice="Use jargon.")
    memory = PreferenceMemory(store)
    await either(is_async, "remember_preference", store, preference="use jargon", is_dislike=True)
    assert memory.recall("alice") == [Preference("Use jargon.", -1.0)]
    assert [change.preference.weight for change in memory.history("alice")] == [1.0, -1.0]


@pytest.mark.parametrize(
    "text", ["Avoid jargon.", "Do not use jargon.", "don\u2019t use jargon", "NO jargon", "Never joke."]
)
def test_negated_dislike_is_remembered_as_the_instruction_that_it_is(text):
    store = InMemoryStore()
    answer = run_tool("remember_preference", store, preference=text, is_dislike=True)
    assert answer.content == f'Remembered: "{text}"'
    assert PreferenceMemory(store).recall("alice") == [Preference(text, 1.0)]


@pytest.mark.parametrize("text", ["Notes in the margin.", "Nonsense.", "Stopgaps."])
def test_words_that_begin_like_a_negation_are_dislikes_as_others(text):
    store = InMemoryStore()
    run_tool("remember_preference", store, preference=text, is_dislike=True)
    assert PreferenceMemory(store).recall("alice") == [Preference(text, -1.0)]


@both
@pytest.mark.parametrize(
    "text",
    ["use jargon", "  Use\n jargon ", '"Use jargon."', "- (avoid) Use jargon.", "(avoid) \u201cuse jargon\u201d!"],
)
async def test_preference_is_forgotten_by_what_a_model_makes_of_its_text(text, is_async):
    store = store_of(alice="Be brief.")
    PreferenceMemory(store).remember("alice", "Use jargon.", -1)
    answer = await either(is_async, "forget_preference", store, preference=text)
    assert answer.content == 'Forgotten: "Use jargon."'
    assert PreferenceMemory(store).recall("alice") == [Preference("Be brief.")]


def test_exact_text_forgets_that_preference_alone():
    store = store_of(alice="Be brief.")
    PreferenceMemory(store).remember("alice", "be brief")
    run_tool("forget_preference", store, preference="be brief")
    assert PreferenceMemory(store).recall("alice") == [Preference("Be brief.")]


@pytest.mark.parametrize("text", ["", "...", "Use C.", "Use C++", "Write code in C#"])
def test_texts_that_mean_something_else_forget_nothing(text):
    store = store_of(alice="Use C#.")
    answer = run_tool("forget_preference", store, preference=text)
    assert answer.content.startswith("No such preference")
    assert PreferenceMemory(store).recall("alice") == [Preference("Use C#.")]


def test_text_of_an_earlier_version_is_forgotten_with_its_history():
    store = store_of(alice="Be brief.")
    PreferenceMemory(store).update("alice", "Be brief.", new_text="Be polite.")
    run_tool("forget_preference", store, preference="Be brief.")
    assert "Be brief." not in str(PreferenceMemory(store).export("alice"))


def test_what_another_program_keeps_is_not_told_to_be_forgotten():
    store = InMemoryStore()
    store.put(("memories", "alice"), "1", {"content": "Be brief."})
    memory = PreferenceMemory(store, langmem_namespace=("memories", "{langgraph_user_id}"))
    tools = preference_tools(memory)
    assert "cannot be forgotten here" in run_tool("forget_preference", store, tools, preference="Be brief.").content
    assert run_tool("list_preferences", store, tools).content == "- Be brief."


def test_list_shows_each_preference_on_a_line_of_its_own():
    store = store_of(alice="Be brief.\n- (avoid) Be polite.")
    assert run_tool("list_preferences", store).content == "- Be brief. - (avoid) Be polite."
    assert run_tool("list_preferences", InMemoryStore()).content == "Nothing is remembered."


# Privacy


@pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
async def test_agents_with_the_middleware_show_no_preference(is_async):
    watch, users = Watch(), random_users(4, random.Random(11))
    with watched_logs(watch), watched_warnings(watch):
        app = App(InMemoryStore(), watch, WatchedCache(InMemoryCache(), watch))
        app.enter(users)
        agent = create_agent(
            make_llm(model=roomy_model(), cache=app.llm.cache),
            preference_tools(app.memory),
            middleware=[AmuletMiddleware(app.memory, preference=[*users[0].preferences])],
            checkpointer=app.saver,
        )
        for user in users:
            call = Visit(app, [user], AsyncEavesdropper if is_async else Eavesdropper)
            ask = agent.ainvoke if is_async else agent.invoke
            state = ask(call.state, call.config)
            state = call.see(await state if is_async else state)
            due = LLM.bind_tools(preference_tools()).invoke(user.question, preference=[*user.preferences])
            assert last(state).text == due.text
        app.see_checkpoints()
    start = "async callback on_chat_model_start" if is_async else "callback on_chat_model_start"
    assert {"trace", "checkpoint", "cache key", "answer", start} <= {*watch.num_seen}
    assert watch.leaks == []


async def test_tools_show_preferences_to_their_user_alone():
    watch, users = Watch(), random_users(2, random.Random(12))
    listed: dict[str, str] = {}
    with watched_logs(watch), watched_warnings(watch):
        app = App(InMemoryStore(), watch)
        app.enter(users)
        agent = create_agent(
            make_llm(model=roomy_model(), memory=app.memory),
            preference_tools(app.memory),
            middleware=[CallsFirst(calling("list_preferences")), AmuletMiddleware()],
        )
        for user in users:
            call = Visit(app, [user], AsyncEavesdropper)
            state = await agent.ainvoke(call.state, {"configurable": call.config["configurable"]})
            listed[user.id] = state["messages"][2].content
    assert listed == {
        user.id: "\n".join(f"- {'(avoid) ' if each.weight < 0 else ''}{each.text}" for each in user.preferences)
        for user in users
    }
    assert watch.num_seen["log line"] > 0
    assert watch.leaks == []


# Proposals

PROPOSED = calling(
    "ProposedPreferences",
    preferences=[
        {"text": "Answer in one sentence.", "is_dislike": False},
        {"text": "Use jargon.", "is_dislike": True},
        {"text": "Avoid lists.", "is_dislike": True},
        {"text": "answer in one  sentence", "is_dislike": False},
        {"text": " ", "is_dislike": False},
    ],
)
CONVERSATION = [
    SystemMessage("You are a helpful assistant."),
    HumanMessage("Why is the sky blue? And please, always answer in one sentence."),
    AIMessage("", tool_calls=[{"name": "search", "args": {}, "id": "1"}]),
    ToolMessage("Rayleigh scattering.", tool_call_id="1"),
    AIMessage("Air scatters blue light most."),
]


async def test_conversation_becomes_proposed_preferences():
    extract = extract_preferences(Scripted(replies=[PROPOSED]))
    due = [
        Preference("answer in one sentence", 1.0, "learned"),
        Preference("Use jargon.", -1.0, "learned"),
        Preference("Avoid lists.", 1.0, "learned"),
    ]
    assert extract.invoke(CONVERSATION) == await extract.ainvoke(CONVERSATION) == due
    assert extract.batch([CONVERSATION] * 2) == await extract.abatch([CONVERSATION] * 2) == [due, due]


@pytest.mark.parametrize(
    ("conversation", "transcript"),
    [
        ("Be brief.", "User: Be brief."),
        ([("human", "Be brief."), ("ai", "Yes.")], "User: Be brief.\n\nAssistant: Yes."),
        (
            [{"role": "user", "content": "Be brief."}, {"role": "assistant", "content": "Yes."}],
            "User: Be brief.\n\nAssistant: Yes.",
        ),
        (ChatPromptValue(messages=[HumanMessage("Be brief.")]), "User: Be brief."),
        (CONVERSATION, f"User: {CONVERSATION[1].text}\n\nAssistant: Air scatters blue light most."),
    ],
)
def test_model_reads_what_was_said_and_nothing_else(conversation, transcript):
    llm = Scripted(replies=[PROPOSED])
    extract_preferences(llm).invoke(conversation)
    [[task, read]] = llm.seen
    assert task.type == "system"
    assert "wants to be answered" in task.text
    assert read.text == transcript


@pytest.mark.parametrize("reply", [calling("ProposedPreferences", preferences=[]), AIMessage("There are none.")])
def test_nothing_proposed_is_no_preference(reply):
    assert extract_preferences(Scripted(replies=[reply])).invoke("Why?") == []


async def test_proposals_of_chat_amulet_are_led_by_its_grammar_and_nobodys_preferences():
    store = store_of(alice="Be brief.")
    personal = roomy_chat(memory=store, max_tokens=60)  # with a preference of its own, too
    extract = extract_preferences(personal)
    found = extract.invoke(CONVERSATION, ALICE_IN_CONFIG)
    assert all(isinstance(each, Preference) and each.source == "learned" for each in found)
    assert await extract.ainvoke(CONVERSATION, ALICE_IN_CONFIG) == found
    assert extract.batch(["Why?", CONVERSATION], ALICE_IN_CONFIG)[1] == found
    assert store.num_lookups == 0
    nobody = extract_preferences(roomy_chat(preference=None, max_tokens=60))
    assert nobody.invoke(CONVERSATION) == found


# Imports


def run_script(script: str) -> str:
    return subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.strip()


def test_agents_without_langchain_name_the_extra_to_install():
    script = (
        "import sys; sys.modules['langchain'] = None\n"
        "from langchain_amulet.exceptions import MissingExtraError\n"
        "try:\n    import langchain_amulet.agents\n"
        "except MissingExtraError as error:\n    print(error)"
    )
    assert "pip install 'langchain-amulet[agents]'" in run_script(script)


def test_package_imports_no_langchain_and_agents_no_torch():
    heavy = "print(sorted({'langchain', 'torch', 'transformers'} & set(sys.modules)))"
    told = run_script(f"import sys, langchain_amulet; {heavy}; import langchain_amulet.agents; {heavy}")
    assert told.splitlines() == ["[]", "['langchain']"]
