"""Agents, stores and models for the tests of langchain_amulet.agents."""

from dataclasses import dataclass
from typing import Any

from langchain.agents import create_agent
from langchain.agents.middleware import AgentMiddleware
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage
from langchain_core.outputs import ChatGeneration, ChatResult
from langgraph.store.base import SearchOp
from langgraph.store.memory import InMemoryStore
from pydantic import Field

from langchain_amulet import PreferenceMemory
from tests.fakes.leak_watch import make_llm
from tests.fakes.roomy import roomy_model

LLM = make_llm(model=roomy_model())  # its context is long enough for descriptions of tools
ASKED = {"messages": [("human", "Why?")]}
PLAIN = LLM.invoke("Why?").text
BRIEF = LLM.invoke("Why?", preference="Be brief.").text
POLITE = LLM.invoke("Why?", preference="Be polite.").text
assert len({PLAIN, BRIEF, POLITE}) == 3, "the tests need different answers for different preferences"


@dataclass
class Context:
    user_id: str | None = None


ALICE = Context("alice")
ALICE_IN_CONFIG = {"configurable": {"user_id": "alice"}}


class CountingStore(InMemoryStore):
    """Counts searches; raises `ConnectionError` while `is_broken`."""

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


def agent_with(*middleware: AgentMiddleware, llm: Any = LLM, store: Any = None, tools: Any = ()) -> Any:
    return create_agent(llm, [*tools], middleware=middleware, store=store, context_schema=Context)


class Scripted(BaseChatModel):
    """Replies from a list, and records its messages. Unknown call arguments are an error."""

    replies: list[AIMessage]
    seen: list[Any] = Field(default_factory=list)

    @property
    def _llm_type(self) -> str:
        return "scripted"

    # mypy misses `**kwargs`, which would accept unknown arguments.
    def _generate(self, messages, stop=None, run_manager=None, ls_structured_output_format=None):  # type: ignore[override]  # noqa: ARG002
        self.seen.append(messages)
        reply = self.replies[(len(self.seen) - 1) % len(self.replies)]
        return ChatResult(generations=[ChatGeneration(message=reply.model_copy())])

    def bind_tools(self, tools, *, tool_choice=None, **kwargs):  # noqa: ARG002
        return self.bind(**kwargs)


def calling(name: str, **arguments: Any) -> AIMessage:
    return AIMessage("", tool_calls=[{"name": name, "args": arguments, "id": name}])


class CallsFirst(AgentMiddleware):
    """Replaces the model of the first call by one that calls a tool; `ChatAmulet` answers after that."""

    def __init__(self, call: AIMessage) -> None:
        super().__init__()
        self.caller = Scripted(replies=[call])

    def wrap_model_call(self, request, handler):
        return handler(request.override(model=self.caller) if len(request.messages) == 1 else request)

    async def awrap_model_call(self, request, handler):
        return await handler(request.override(model=self.caller) if len(request.messages) == 1 else request)
