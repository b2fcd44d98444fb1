"""An agent with two tools and a durable store answers two users, each in their own way.

    python examples/agent.py [preferences.db]

Preferences are kept in SQLite, so a second run with the same file remembers what the first was told. The agent is
LangChain's own; the model finds the user in the run's context, and their preferences in the run's store.
"""

import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from langchain.agents import create_agent
from langchain.agents.middleware import ModelRequest, ModelResponse, wrap_model_call
from langchain_core.messages import ToolMessage
from langgraph.store.sqlite import SqliteStore

from langchain_amulet import ChatAmulet, PreferenceMemory, RealignmentConfig

PREFERENCES = {
    "alice@example.com": "Answer in one short sentence.",
    "bob@example.com": "Answer as a numbered list.",
}
QUESTIONS = ("When does the museum open?", "What is the weather like in Paris?")


@dataclass
class Context:
    """Who is asking."""

    user_id: str


def opening_hours(place: Literal["library", "museum", "swimming pool"]) -> str:
    """Tell when a public place is open."""
    hours = {"library": "from 9 to 18, closed on Mondays", "museum": "from 10 to 17", "swimming pool": "from 7 to 21"}
    return f"The {place} is open {hours[place]}."


def weather(city: str) -> str:
    """Tell the weather in a city."""
    return f"It is sunny in {city}, with 24 degrees and a light wind."


@wrap_model_call
def one_tool_each(request: ModelRequest[Any], handler: Callable[[ModelRequest[Any]], ModelResponse]) -> ModelResponse:
    """Have a tool called first, and words said then. Larger models know by themselves when to do which."""
    was_called = isinstance(request.messages[-1], ToolMessage)
    return handler(request.override(tool_choice="none" if was_called else "any"))


def main(database: Path) -> None:
    """Ask as both users, and show what was called and said."""
    llm = ChatAmulet(
        temperature=0, max_tokens=80, repetition_penalty=1.1, realignment=RealignmentConfig(guidance_scale=3)
    )
    with SqliteStore.from_conn_string(str(database)) as store:
        store.setup()
        memory = PreferenceMemory(store)
        agent = create_agent(
            llm, [opening_hours, weather], middleware=[one_tool_each], store=store, context_schema=Context
        )
        for user_id, preference in PREFERENCES.items():
            if memory.recall(user_id):
                print(f"{user_id} is known already.")
            else:
                memory.remember(user_id, preference)
        for question in QUESTIONS:
            print(f"\n=== {question}")
            for user_id in PREFERENCES:
                asked: Any = {"messages": [("user", question)]}
                _, call, result, answer = agent.invoke(asked, context=Context(user_id))["messages"]
                (made,) = call.tool_calls
                print(f"\n--- {user_id}: {made['name']}({made['args']}) -> {result.content}\n{answer.content}")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(tempfile.mkdtemp()) / "preferences.db")
