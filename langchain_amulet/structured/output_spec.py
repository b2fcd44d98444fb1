"""What a caller asks of an answer besides words: tool calls, JSON of a schema."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from langchain_core.utils.function_calling import convert_to_openai_tool

from langchain_amulet.exceptions import SchemaError, ToolError

SCHEMA_PROMPT = "Answer with JSON that follows this JSON schema, and with nothing else:\n{schema}"
"""Told where `response_format` brings a schema. `schema`: as JSON."""

CALL_PROMPT = "Answer with a call of {which} now."
"""Told where a tool has to be called, to models whose template knows no tools. `which`: a tool's name, or any."""

ToolChoice: TypeAlias = Literal["auto", "none", "any"]

_ANY = ("any", "required")
_OPEN = ("allOf", "if", "not", "dependentSchemas", "patternProperties", "unevaluatedProperties")  # join other schemas


@dataclass(frozen=True, slots=True)
class OutputSpec:
    """What an answer may be."""

    tools: tuple[dict[str, Any], ...] = ()
    """As OpenAI writes them: `{"type": "function", "function": {"name", "description", "parameters"}}`."""
    choice: ToolChoice = "auto"
    """Whether a tool may, must or must not be called. A choice of one tool leaves only that one in `callable_names`."""
    callable_names: tuple[str, ...] = ()
    """The tools that may be called."""
    is_parallel: bool | None = None
    """Whether an answer that has to call a tool may call several."""
    schema: Mapping[str, Any] | None = None
    """What the text has to be, as JSON."""
    tells_schema: bool = False
    """Whether the prompt tells the model of it."""

    @property
    def may_call(self) -> bool:
        """Whether the answer may call tools."""
        return bool(self.tools) and self.choice != "none"

    @property
    def is_structure(self) -> bool:
        """Whether the answer is structure from its first token to its last."""
        return self.choice == "any" or self.schema is not None

    def parameters(self, name: str) -> dict[str, Any]:
        """The JSON schema of one tool's arguments."""
        function = next(tool["function"] for tool in self.tools if tool["function"]["name"] == name)
        return function.get("parameters") or {"type": "object", "properties": {}}


def output_spec(call: Mapping[str, Any]) -> OutputSpec:
    """Read the arguments of a call that say what the answer may be.

    Raises:
        ToolError: A tool is none, or the choice names none of them.
        SchemaError: The response format is none.
    """
    tools = tuple(as_openai_tool(tool) for tool in call.get("tools") or ())
    names = tuple(tool["function"]["name"] for tool in tools)
    if len({*names}) < len(names):
        msg = f"Tools need names of their own; got {sorted(names)}."
        raise ToolError(msg)
    choice, chosen = tool_choice(call.get("tool_choice"), names)
    schema, tells_schema = _schema_of(call.get("response_format"))
    return OutputSpec(tools, choice, chosen, call.get("parallel_tool_calls"), schema, tells_schema)


def as_openai_tool(tool: Any, *, strict: bool | None = None) -> dict[str, Any]:
    """Describe a tool as OpenAI does.

    Raises:
        ToolError: It is no tool.
    """
    try:
        described = convert_to_openai_tool(tool, strict=strict)
    except (TypeError, ValueError) as error:
        msg = f"{tool!r} cannot be bound as a tool: {error}"
        raise ToolError(msg) from error
    function = described.get("function")
    if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
        msg = f"A tool is a function with a name and parameters; tools of type {described.get('type')!r} run elsewhere."
        raise ToolError(msg)
    check_schema(function.get("parameters") or {})
    return described


def tool_choice(choice: Any, names: Sequence[str]) -> tuple[ToolChoice, tuple[str, ...]]:
    """Whether a tool is to be called, and which may be.

    Args:
        choice: `None`, `"auto"`, `"none"`, `"any"`, `"required"`, a tool's name, a bool, or a dict as OpenAI or
            Anthropic write them.
        names: Of the tools bound.

    Raises:
        ToolError: It is none of these, or there is no such tool.
    """
    if isinstance(choice, Mapping):
        function = choice.get("function")
        name = function.get("name") if isinstance(function, Mapping) else choice.get("name")
        choice = name or choice.get("type")
    if choice is None or choice is False or choice == "auto":
        return "auto", tuple(names)
    if choice == "none":
        return "none", ()
    chosen = tuple(names) if choice is True or choice in _ANY else tuple(name for name in names if name == choice)
    if not chosen:
        msg = (
            f"tool_choice {choice!r} names no tool; bound are {sorted(names)}. "
            f"Besides their names, 'auto', 'none' and 'any' can be chosen."
        )
        raise ToolError(msg)
    return "any", chosen


def _schema_of(response_format: Any) -> tuple[Mapping[str, Any] | None, bool]:
    """The schema that a response format asks for, and whether the model is told of it."""
    kind = response_format.get("type") if isinstance(response_format, Mapping) else response_format
    if kind in (None, "text"):
        return None, False
    if kind == "json_object":
        asked = response_format if isinstance(response_format, Mapping) else {}
        return check_schema(asked.get("schema", {"type": "object"})), False
    described = response_format.get("json_schema") if isinstance(response_format, Mapping) else None
    if kind == "json_schema" and isinstance(described, Mapping):
        return check_schema(described.get("schema")), True
    msg = (
        "response_format is {'type': 'json_schema', 'json_schema': {'name': ..., 'schema': ...}}, "
        f"{{'type': 'json_object'}} or {{'type': 'text'}}; got {response_format!r}. "
        "For pydantic models, use with_structured_output."
    )
    raise SchemaError(msg)


def check_schema(schema: Any) -> Mapping[str, Any]:
    """Refuse what is no JSON schema by its very kind.

    Raises:
        SchemaError: It is no dict, or cannot be written as JSON.
    """
    try:
        json.dumps(schema, allow_nan=False)
    except (TypeError, ValueError) as error:
        msg = f"A JSON schema is a dict of what JSON can hold: {error}."
        raise SchemaError(msg) from error
    if not isinstance(schema, Mapping):
        msg = f"A JSON schema is a dict such as {{'type': 'object', 'properties': ...}}; got {type(schema).__name__}."
        raise SchemaError(msg)
    return schema


def instructions(spec: OutputSpec, *, tells_choice: bool) -> str:
    """What the prompt says of the answer's form.

    Args:
        spec: What the answer may be.
        tells_choice: Whether it also says that a tool has to be called.
    """
    texts = []
    if spec.choice == "any" and tells_choice:
        names = spec.callable_names
        texts.append(CALL_PROMPT.format(which=f'the tool "{names[0]}"' if len(names) == 1 else "one of the tools"))
    if spec.tells_schema:
        texts.append(SCHEMA_PROMPT.format(schema=json.dumps(spec.schema, ensure_ascii=False)))
    return "\n\n".join(texts)


def closed(schema: Any) -> Any:
    """The schema without properties that it does not name, where it leaves that open: models tend to make some up."""
    return schema if _mentions(schema, _OPEN) else _closed(schema)


def _closed(schema: Any) -> Any:
    if isinstance(schema, list):
        return [_closed(each) for each in schema]
    if not isinstance(schema, Mapping):
        return schema
    inner = {key: value if key in ("enum", "const", "default") else _closed(value) for key, value in schema.items()}
    if isinstance(schema.get("properties"), Mapping) and "$ref" not in schema:
        inner.setdefault("additionalProperties", False)
    return inner


def _mentions(schema: Any, keywords: Sequence[str]) -> bool:
    """Whether one of these keywords is anywhere in the schema; a property of that name counts too."""
    if isinstance(schema, list):
        return any(_mentions(each, keywords) for each in schema)
    if not isinstance(schema, Mapping):
        return False
    single = isinstance(schema.get("allOf"), list) and len(schema["allOf"]) == 1  # as pydantic 1 refers to others
    found = [key for key in keywords if key in schema and not (key == "allOf" and single)]
    return bool(found) or any(_mentions(each, keywords) for each in schema.values())
