"""AmuletMiddleware: the user whose preferences a model call follows, and what the middleware leaves unchanged."""

import asyncio
import random
import subprocess
import sys
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain.agents.middleware import AgentMiddleware, ModelFallbackMiddleware
from langchain_core.caches import InMemoryCache
from langchain_core.messages import AIMessage
from langgraph.store.memory import InMemoryStore

from langchain_amulet import ChatAmulet, PreferenceMemory
from langchain_amulet.agents import AmuletMiddleware, preference_tools
from langchain_amulet.exceptions import InvalidParameterError, StoreTypeError
from tests.fakes.agents import (
    ALICE,
    ALICE_IN_CONFIG,
    ASKED,
    BRIEF,
    LLM,
    PLAIN,
    POLITE,
    Context,
    Scripted,
    agent_with,
    last,
    store_of,
)
from tests.fakes.leak_watch import (
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
from tests.fakes.roomy import roomy_model

# The middleware


def test_user_of_the_context_gets_a_personalised_answer():
    agent = agent_with(AmuletMiddleware(), store=store_of(alice="Be brief."))
    assert last(agent.invoke(ASKED, context=ALICE)).text == BRIEF
    assert last(agent.invoke(ASKED, context=Context("bob"))).text == PLAIN


async def test_user_of_the_context_gets_a_personalised_answer_async():
    agent = agent_with(AmuletMiddleware(), store=store_of(alice="Be brief."))
    assert last(await agent.ainvoke(ASKED, context=ALICE)).text == BRIEF
    assert last(await agent.ainvoke(ASKED, context=Context("bob"))).text == PLAIN


async def test_user_of_the_config_gets_a_personalised_answer():
    agent = agent_with(AmuletMiddleware(), store=store_of(alice="Be brief."))
    assert last(agent.invoke(ASKED, ALICE_IN_CONFIG)).text == BRIEF
    assert last(await agent.ainvoke(ASKED, ALICE_IN_CONFIG)).text == BRIEF


async def test_concurrent_users_get_their_own_personalised_answers():
    agent = agent_with(AmuletMiddleware(), store=store_of(alice="Be brief.", bob="Be polite."))
    contexts = [Context(user_id) for user_id in ("alice", "bob", "carol")] * 3
    states = await asyncio.gather(*(agent.ainvoke(ASKED, context=context) for context in contexts))
    assert [last(state).text for state in states] == [BRIEF, POLITE, PLAIN] * 3


@pytest.mark.parametrize("memory", [PreferenceMemory, lambda store: store, lambda _: {"alice": "Be brief."}])
def test_memory_of_the_middleware_precedes_that_of_the_agent_and_of_the_model(memory):
    model = LLM.model_copy(update={"memory": PreferenceMemory(store_of(alice="Be polite."))})
    middleware = AmuletMiddleware(memory(store_of(alice="Be brief.")))
    agent = agent_with(middleware, llm=model, store=store_of(alice="Be polite."))
    assert last(agent.invoke(ASKED, context=ALICE)).text == BRIEF


def test_arguments_that_are_left_out_are_taken_from_the_model():
    model = make_llm(memory=store_of(alice="Be brief."), preference="Be polite.")
    agent = agent_with(AmuletMiddleware(), llm=model, store=store_of(alice="Be polite."))
    assert last(agent.invoke(ASKED, context=ALICE)).text == BRIEF
    assert last(agent.invoke(ASKED, context=Context("bob"))).text == POLITE


def test_preference_of_the_middleware_is_for_users_without_preferences():
    agent = agent_with(
        AmuletMiddleware(preference="Be polite."),
        llm=make_llm(preference="Be dull."),
        store=store_of(alice="Be brief."),
    )
    contexts = [ALICE, Context("bob"), Context()]
    assert [last(agent.invoke(ASKED, context=context)).text for context in contexts] == [BRIEF, POLITE, POLITE]


def test_empty_preference_of_the_middleware_is_a_plain_answer():
    agent = agent_with(AmuletMiddleware(preference=[]), llm=make_llm(preference="Be polite."))
    assert last(agent.invoke(ASKED)).text == PLAIN


@pytest.mark.parametrize("fields", [{}, {"on_store_error": "plain"}], ids=["by default", "whatever the model's policy"])
async def test_failing_store_fails_the_run(fields):
    store = store_of(alice="Be brief.")
    policy = {"on_store_error": "raise"} if fields else {}
    agent = agent_with(AmuletMiddleware(**policy), llm=make_llm(**fields), store=store)
    store.is_broken = True
    with pytest.raises(ConnectionError, match="failed with ConnectionError"):
        agent.invoke(ASKED, context=ALICE)
    with pytest.raises(ConnectionError, match="failed with ConnectionError"):
        await agent.ainvoke(ASKED, context=ALICE)


@pytest.mark.parametrize("of_middleware", [True, False], ids=["the middleware's policy", "the model's policy"])
async def test_failing_store_gives_plain_answers_where_the_policy_says_so(of_middleware, caplog):
    store, policy = store_of(alice="Be brief."), {"on_store_error": "plain"}
    middleware = AmuletMiddleware(**policy) if of_middleware else AmuletMiddleware()
    agent = agent_with(middleware, llm=LLM if of_middleware else make_llm(**policy), store=store)
    store.is_broken = True
    answers = [last(agent.invoke(ASKED, context=ALICE)), last(await agent.ainvoke(ASKED, context=ALICE))]
    assert "could not be read (ConnectionError)" in caplog.text
    assert [answer.text for answer in answers] == [PLAIN, PLAIN]
    assert {answer.response_metadata["amulet"]["store_error"] for answer in answers} == {"ConnectionError"}


def test_middleware_refuses_invalid_arguments():
    with pytest.raises(InvalidParameterError, match='"raise" or "plain", got \'ignore\''):
        AmuletMiddleware(on_store_error="ignore")
    for make in (AmuletMiddleware, preference_tools):
        with pytest.raises(StoreTypeError, match="got str"):
            make("preferences.db")


class Settings(AgentMiddleware):
    """Adds settings to model calls, as other middleware does."""

    def __init__(self, **settings: Any) -> None:
        super().__init__()
        self.settings = settings

    def wrap_model_call(self, request, handler):
        return handler(request.override(model_settings={**request.model_settings, **self.settings}))


def test_preference_of_a_call_is_not_replaced():
    store = store_of(alice="Be brief.")
    for preference, text in [("Be polite.", POLITE), (None, PLAIN), ([], PLAIN)]:
        agent = agent_with(Settings(preference=preference), AmuletMiddleware(), store=store)
        assert last(agent.invoke(ASKED, context=ALICE)).text == text
    assert store.num_lookups == 0


def test_other_settings_of_a_call_are_not_changed():
    agent = agent_with(Settings(max_tokens=2), AmuletMiddleware(), store=store_of(alice="Be brief."))
    answer = last(agent.invoke(ASKED, context=ALICE))
    assert answer.usage_metadata["output_tokens"] == 2
    assert answer.text == LLM.invoke("Why?", preference="Be brief.", max_tokens=2).text


def test_bound_model_is_personalised_unless_a_preference_is_bound():
    of_middleware = AmuletMiddleware(store_of(alice="Be brief."))
    bound = LLM.bind(stop=["nothing says this"])
    assert last(agent_with(of_middleware, llm=bound).invoke(ASKED, context=ALICE)).text == BRIEF
    of_call = bound.bind(preference="Be polite.")
    assert last(agent_with(of_middleware, llm=of_call).invoke(ASKED, context=ALICE)).text == POLITE


class Broken(ChatAmulet):
    """Fails in every call."""

    def _generate(self, *_args, **_kwargs):
        raise ConnectionError


def test_fallback_listed_before_the_middleware_is_personalised_if_it_supports_preferences():
    store = store_of(alice="Be brief.")
    other = Scripted(replies=[AIMessage("Because.")])
    agent = agent_with(ModelFallbackMiddleware(other), AmuletMiddleware(), llm=Broken(), store=store)
    assert last(agent.invoke(ASKED, context=ALICE)).text == "Because."
    agent = agent_with(ModelFallbackMiddleware(LLM), AmuletMiddleware(), llm=Broken(), store=store)
    assert last(agent.invoke(ASKED, context=ALICE)).text == BRIEF


async def test_calls_of_other_chat_models_are_not_changed():
    store = store_of(alice="Be brief.")
    agent = agent_with(AmuletMiddleware(), llm=Scripted(replies=[AIMessage("Because.")]), store=store)
    assert last(agent.invoke(ASKED, context=ALICE)).text == "Because."
    assert last(await agent.ainvoke(ASKED, context=ALICE)).text == "Because."
    assert store.num_lookups == 0


async def test_preferences_are_looked_up_once_per_model_call():
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
    """Forces two calls of a tool before the answer."""

    def wrap_model_call(self, request, handler):
        return handler(request.override(tool_choice="any" if len(request.messages) < 5 else "none"))


# Privacy


@pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
async def test_agents_with_the_middleware_leak_no_preference(is_async):
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


def test_package_imports_no_langchain_and_agents_import_no_torch():
    heavy = "print(sorted({'langchain', 'torch', 'transformers'} & set(sys.modules)))"
    output = run_script(f"import sys, langchain_amulet; {heavy}; import langchain_amulet.agents; {heavy}")
    assert output.splitlines() == ["[]", "['langchain']"]
