"""An agent with two tools answers two users, each according to the preferences in its store.

    python examples/agent.py [preferences.db]

The agent is LangChain's own. The model takes the user id from the run's context and the preferences from the run's
store, which is an SQLite file: run the example twice with the same file, and the second run finds the preferences of
the first. Without an argument, the file is temporary.
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

from langchain_amulet import ChatAmulet, PreferenceMemory

PREFERENCES = {
    "alice@example.com": "Answer in one short sentence.",
    "bob@example.com": "Answer as a numbered list.",
}
QUESTIONS = ("When does the museum open?", "What is the weather like in Paris?")


@dataclass
class Context:
    """The context of one run of the agent. `ChatAmulet` reads `user_id` from it."""

    user_id: str


def opening_hours(place: Literal["library", "museum", "swimming pool"]) -> str:
    """Return the opening hours of a public place."""
    hours = {"library": "from 9 to 18, closed on Mondays", "museum": "from 10 to 17", "swimming pool": "from 7 to 21"}
    return f"The {place} is open {hours[place]}."


def weather(city: str) -> str:
    """Return the weather in a city."""
    return f"It is sunny in {city}, with 24 degrees and a light wind."


@wrap_model_call
def one_tool_call(request: ModelRequest[Any], handler: Callable[[ModelRequest[Any]], ModelResponse]) -> ModelResponse:
    """Force one tool call, then an answer in words. Larger models need no such rule."""
    has_result = isinstance(request.messages[-1], ToolMessage)
    return handler(request.override(tool_choice="none" if has_result else "any"))


def main(database: Path) -> None:
    """Ask both questions as both users; print the tool call, its result and the answer."""
    llm = ChatAmulet(temperature=0, repetition_penalty=1.1, max_tokens=60)
    with SqliteStore.from_conn_string(str(database)) as store:
        store.setup()
        memory = PreferenceMemory(store)
        for user_id, preference in PREFERENCES.items():
            if memory.recall(user_id):
                print(f"{user_id} has preferences from an earlier run.")
            else:
                memory.remember(user_id, preference)
        agent = create_agent(
            llm, [opening_hours, weather], middleware=[one_tool_call], store=store, context_schema=Context
        )
        for question in QUESTIONS:
            print(f"\n=== {question}")
            for user_id, preference in PREFERENCES.items():
                question_state: Any = {"messages": [("user", question)]}
                _, request, result, answer = agent.invoke(question_state, context=Context(user_id))["messages"]
                (call,) = request.tool_calls
                print(f"\n--- {user_id} ({preference})")
                print(f"    {call['name']}({call['args']}) -> {result.content}\n{answer.content}")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        main(Path(sys.argv[1]))
    else:
        with tempfile.TemporaryDirectory() as folder:
            main(Path(folder) / "preferences.db")
