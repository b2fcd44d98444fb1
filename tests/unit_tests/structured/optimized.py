"""What tool calls, structured output and the agents' tools do, as JSON; to be compared under `python -OO`."""

import json
import sys
from typing import Any

if sys.flags.optimize > 1:
    # transformers derives its documentation from docstrings when a model's module is imported, and fails without them.
    import transformers.utils

    transformers.utils.auto_docstring = lambda decorated=None, **_: decorated or (lambda other: other)

from langchain_core.utils.function_calling import convert_to_openai_tool

from langchain_amulet.agents import preference_tools
from langchain_amulet.agents.extraction import ProposedPreferences
from langchain_amulet.exceptions import SchemaError
from langchain_amulet.structured.structured_output import json_schema_of
from tests.fakes.roomy import roomy_chat

ADD: dict[str, Any] = {
    "title": "add",
    "description": "Add two numbers.",
    "type": "object",
    "properties": {"x": {"type": "integer"}, "y": {"enum": [1, 2]}},
    "required": ["x", "y"],
}
UNSUPPORTED = {**ADD, "properties": {**ADD["properties"], "x": {"type": "array", "uniqueItems": True}}}
ENDLESS = {**ADD, "properties": {"x": {"$ref": "#"}, "y": {}}}
METHODS = ("json_schema", "function_calling")


def refusal(schema: dict[str, Any], method: str) -> str:
    try:
        roomy_chat("qwen2.5").with_structured_output(schema, method=method).invoke("Why?")
    except SchemaError as error:
        return str(error)
    return ""


def observe() -> dict[str, Any]:
    llm = roomy_chat("qwen2.5")
    call = llm.bind_tools([ADD], tool_choice="any").invoke("Why?").tool_calls[0]
    return {
        "tools": [convert_to_openai_tool(tool) for tool in preference_tools()],
        "extraction": json_schema_of(ProposedPreferences),
        "call": [call["name"], call["args"]],
        "objects": [llm.with_structured_output(ADD, method=method).invoke("Why?") for method in METHODS],
        "unsupported": [refusal(UNSUPPORTED, method) for method in METHODS],
        "endless": [refusal(ENDLESS, method) for method in METHODS],
    }


if __name__ == "__main__":
    print(json.dumps({"optimize": sys.flags.optimize, **observe()}))  # noqa: T201 - read by the test
