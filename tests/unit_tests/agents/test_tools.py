"""The tools with which an agent remembers, lists and forgets preferences."""

import contextlib
import random
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain_core.messages import AIMessage, ToolMessage
from langchain_core.utils.function_calling import convert_to_openai_tool
from langgraph.store.memory import InMemoryStore
from langgraph.store.sqlite import SqliteStore
from langgraph.store.sqlite.aio import AsyncSqliteStore

from langchain_amulet import Preference, PreferenceMemory
from langchain_amulet.agents import MAX_PREFERENCE_LENGTH, MAX_PREFERENCES, AmuletMiddleware, preference_tools
from langchain_amulet.exceptions import UserIdError
from tests.fakes.agents import ALICE, ASKED, LLM, CallsFirst, Context, Scripted, agent_with, calling, last, store_of
from tests.fakes.leak_watch import (
    App,
    AsyncEavesdropper,
    Visit,
    Watch,
    make_llm,
    random_users,
    watched_logs,
    watched_warnings,
)
from tests.fakes.roomy import roomy_model


def run_tool(name: str, store: Any = None, tools: Any = None, **arguments: Any) -> ToolMessage:
    """Return the result of a tool that a model calls in Alice's run."""
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
        result = await either(is_async, "remember_preference", store, preference="Be brief.")
        assert (result.content, result.status) == ('Remembered: "Be brief."', "success")
        result = await either(is_async, "remember_preference", store, preference="Use jargon.", is_dislike=True)
        assert result.content == 'Remembered to avoid: "Use jargon."'
        assert await memory.arecall("alice") == [Preference("Be brief."), Preference("Use jargon.", -1.0)]
        result = await either(is_async, "list_preferences", store)
        assert result.content == "- Be brief.\n- (avoid) Use jargon."
        result = await either(is_async, "forget_preference", store, preference="Be brief.")
        assert result.content == 'Forgotten: "Be brief."'
        assert await memory.arecall("alice") == [Preference("Use jargon.", -1.0)]


@both
async def test_tools_use_the_memory_that_they_are_created_with(is_async):
    memory, store = PreferenceMemory(), InMemoryStore()
    await either(is_async, "remember_preference", store, preference_tools(memory), preference="Be brief.")
    assert memory.recall("alice") == [Preference("Be brief.")]
    assert PreferenceMemory(store).recall("alice") == []


async def test_next_model_call_follows_a_remembered_preference():
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


def test_schemas_of_the_tools_have_descriptions_and_no_user():
    functions = {tool.name: convert_to_openai_tool(tool)["function"] for tool in preference_tools()}
    arguments = {name: {*function["parameters"]["properties"]} for name, function in functions.items()}
    assert arguments == {
        "remember_preference": {"preference", "is_dislike"},
        "list_preferences": set(),
        "forget_preference": {"preference"},
    }
    for function in functions.values():
        assert "\n" not in function["description"]
        assert function["description"].endswith(".")
        assert all(argument["description"] for argument in function["parameters"]["properties"].values())


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
    result = await either(is_async, "list_preferences", store, **FORGED)
    assert result.content == "- Be brief."
    result = await either(is_async, "forget_preference", store, preference="Be polite.", **FORGED)
    assert result.content == "No such preference is remembered. What is remembered:\n- Be brief."
    await either(is_async, "remember_preference", store, preference="Be dull.", **FORGED)
    assert memory.recall("bob") == [Preference("Be polite.")]
    assert memory.recall("alice") == [Preference("Be brief."), Preference("Be dull.")]


async def test_tools_act_for_the_authenticated_user():
    store = store_of(alice="Be brief.")
    llm = Scripted(replies=[calling("list_preferences"), AIMessage("Done.")])
    agent = agent_with(llm=llm, store=store, tools=preference_tools())
    authenticated = {"configurable": {"langgraph_auth_user": {"identity": "alice"}}}
    assert agent.invoke(ASKED, authenticated, context=Context("bob"))["messages"][2].content == "- Be brief."
    with pytest.raises(UserIdError, match="authenticated"):
        agent.invoke(ASKED, {"configurable": {"user_id": "bob", **authenticated["configurable"]}})


@pytest.mark.parametrize("store", [InMemoryStore(), None], ids=["no user", "neither user nor store"])
@pytest.mark.parametrize("name", ["remember_preference", "list_preferences", "forget_preference"])
async def test_missing_user_is_an_error_with_the_remedy(name, store):
    llm = Scripted(replies=[calling(name, preference="Be brief.")])
    agent = agent_with(llm=llm, store=store, tools=preference_tools())
    with pytest.raises(UserIdError, match=r"context=.* that has a user_id"):
        agent.invoke(ASKED)
    with pytest.raises(UserIdError, match=r"context=.* that has a user_id"):
        await agent.ainvoke(ASKED, context=Context())


def test_missing_store_is_an_error_with_the_remedy():
    with pytest.raises(UserIdError, match=r"create it with store=.*preference_tools\(memory\)"):
        run_tool("list_preferences")


@both
@pytest.mark.parametrize(
    ("arguments", "message"),
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
async def test_invalid_input_is_reported_to_the_model_and_changes_nothing(arguments, message, is_async):
    store = store_of(alice="Be brief.")
    answer = await either(is_async, "remember_preference", store, **arguments)
    assert answer.status == "error"
    assert message in answer.content
    assert PreferenceMemory(store).recall("alice") == [Preference("Be brief.")]


def test_lone_surrogate_is_reported_to_the_model():
    answer = run_tool("remember_preference", InMemoryStore(), preference="Be \ud800.")
    assert answer.status == "error"


@both
async def test_number_of_remembered_preferences_is_limited(is_async):
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
async def test_repeated_preference_is_not_changed(is_async):
    store = InMemoryStore()
    known = PreferenceMemory(store).remember("alice", "Be brief.", 0.5, source="learned")
    await either(is_async, "remember_preference", store, preference=" be  BRIEF ")
    assert PreferenceMemory(store).recall("alice") == [known]


@both
async def test_like_becomes_a_dislike_at_the_request_of_the_user(is_async):
    store = store_of(alice="Use jargon.")
    memory = PreferenceMemory(store)
    await either(is_async, "remember_preference", store, preference="use jargon", is_dislike=True)
    assert memory.recall("alice") == [Preference("Use jargon.", -1.0)]
    assert [change.preference.weight for change in memory.history("alice")] == [1.0, -1.0]


@pytest.mark.parametrize(
    "text", ["Avoid jargon.", "Do not use jargon.", "don\u2019t use jargon", "NO jargon", "Never joke."]
)
def test_negated_dislike_is_remembered_as_an_instruction(text):
    store = InMemoryStore()
    answer = run_tool("remember_preference", store, preference=text, is_dislike=True)
    assert answer.content == f'Remembered: "{text}"'
    assert PreferenceMemory(store).recall("alice") == [Preference(text, 1.0)]


@pytest.mark.parametrize("text", ["Notes in the margin.", "Nonsense.", "Stopgaps."])
def test_dislike_that_begins_like_a_negation_is_a_dislike(text):
    store = InMemoryStore()
    run_tool("remember_preference", store, preference=text, is_dislike=True)
    assert PreferenceMemory(store).recall("alice") == [Preference(text, -1.0)]


@both
@pytest.mark.parametrize(
    "text",
    ["use jargon", "  Use\n jargon ", '"Use jargon."', "- (avoid) Use jargon.", "(avoid) \u201cuse jargon\u201d!"],
)
async def test_preference_is_forgotten_by_an_inexact_copy_of_its_text(text, is_async):
    store = store_of(alice="Be brief.")
    PreferenceMemory(store).remember("alice", "Use jargon.", -1)
    answer = await either(is_async, "forget_preference", store, preference=text)
    assert answer.content == 'Forgotten: "Use jargon."'
    assert PreferenceMemory(store).recall("alice") == [Preference("Be brief.")]


def test_exact_text_forgets_only_that_preference():
    store = store_of(alice="Be brief.")
    PreferenceMemory(store).remember("alice", "be brief")
    run_tool("forget_preference", store, preference="be brief")
    assert PreferenceMemory(store).recall("alice") == [Preference("Be brief.")]


@pytest.mark.parametrize("text", ["", "...", "Use C.", "Use C++", "Write code in C#"])
def test_text_with_another_meaning_forgets_nothing(text):
    store = store_of(alice="Use C#.")
    answer = run_tool("forget_preference", store, preference=text)
    assert answer.text.startswith("No such preference")
    assert PreferenceMemory(store).recall("alice") == [Preference("Use C#.")]


def test_text_of_an_earlier_version_is_forgotten_with_its_history():
    store = store_of(alice="Be brief.")
    PreferenceMemory(store).update("alice", "Be brief.", new_text="Be polite.")
    run_tool("forget_preference", store, preference="Be brief.")
    assert "Be brief." not in str(PreferenceMemory(store).export("alice"))


def test_preference_of_another_program_is_not_reported_as_forgotten():
    store = InMemoryStore()
    store.put(("memories", "alice"), "1", {"content": "Be brief."})
    memory = PreferenceMemory(store, langmem_namespace=("memories", "{langgraph_user_id}"))
    tools = preference_tools(memory)
    assert "cannot be forgotten here" in run_tool("forget_preference", store, tools, preference="Be brief.").content
    assert run_tool("list_preferences", store, tools).content == "- Be brief."


def test_list_has_one_line_per_preference():
    store = store_of(alice="Be brief.\n- (avoid) Be polite.")
    assert run_tool("list_preferences", store).content == "- Be brief. - (avoid) Be polite."
    assert run_tool("list_preferences", InMemoryStore()).content == "Nothing is remembered."


# Privacy


async def test_tools_show_preferences_to_their_user_only():
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
        user.id: "\n".join(f"- {'(avoid) ' if item.weight < 0 else ''}{item.text}" for item in user.preferences)
        for user in users
    }
    assert watch.num_seen["log line"] > 0
    assert watch.leaks == []
