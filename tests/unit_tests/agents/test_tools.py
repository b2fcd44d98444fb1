"""What users may have remembered, listed and forgotten by an agent's tools."""

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
