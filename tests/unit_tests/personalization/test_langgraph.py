"""ChatAmulet inside a real LangGraph run: its store and its context serve."""

from dataclasses import dataclass

import pytest
from langgraph.graph import START, StateGraph
from langgraph.store.memory import InMemoryStore
from typing_extensions import TypedDict

from langchain_amulet import ChatAmulet, PreferenceMemory, RealignmentConfig
from langchain_amulet.exceptions import UserIdError
from tests.fakes.chat_templates import byte_tokenizer
from tests.fakes.models import tiny_model

LLM = ChatAmulet(
    model=tiny_model("qwen2", seed=5),
    tokenizer=byte_tokenizer(),
    max_tokens=12,
    realignment=RealignmentConfig(guidance_scale=3.0),
)


class State(TypedDict):
    question: str
    answer: str


@dataclass
class Context:
    user_id: str


@pytest.fixture
def graph():
    store = InMemoryStore()
    PreferenceMemory(store).remember("alice@example.com", "Be brief.")

    def answer(state: State) -> dict[str, str]:
        return {"answer": LLM.invoke(state["question"]).text}

    builder = StateGraph(State, context_schema=Context).add_node("answer", answer).add_edge(START, "answer")
    return builder.compile(store=store)


@pytest.fixture(scope="module")
def personal() -> str:
    return LLM.invoke("Why?", preference="Be brief.").text


@pytest.fixture(scope="module")
def plain() -> str:
    return LLM.invoke("Why?").text


def test_store_and_context_of_the_run_serve(graph, personal, plain):
    assert graph.invoke({"question": "Why?"}, context=Context("alice@example.com"))["answer"] == personal != plain
    assert graph.invoke({"question": "Why?"}, context=Context("bob"))["answer"] == plain


async def test_async_run(graph, personal):
    answer = await graph.ainvoke({"question": "Why?"}, context=Context("alice@example.com"))
    assert answer["answer"] == personal


def test_configurable_user_of_the_run_serves(graph, personal):
    config = {"configurable": {"user_id": "alice@example.com"}}
    assert graph.invoke({"question": "Why?"}, config)["answer"] == personal


def test_authenticated_user_of_the_run_cannot_be_replaced_by_a_node(personal):
    store = InMemoryStore()
    PreferenceMemory(store).remember("mallory", "Be brief.")

    def answer(state: State) -> dict[str, str]:
        return {"answer": LLM.invoke(state["question"], {"configurable": {"user_id": "mallory"}}).text}

    graph = StateGraph(State).add_node("answer", answer).add_edge(START, "answer").compile(store=store)
    assert graph.invoke({"question": "Why?"})["answer"] == personal
    authenticated = {"configurable": {"langgraph_auth_user": {"identity": "alice"}}}
    with pytest.raises(UserIdError, match="authenticated"):
        graph.invoke({"question": "Why?"}, authenticated)
