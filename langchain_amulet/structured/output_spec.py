"""Reads what a caller requires of an answer: tool calls, or JSON of a schema."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from langchain_core.utils.function_calling import convert_to_openai_tool

from langchain_amulet.exceptions import SchemaError, ToolError

SCHEMA_PROMPT = "Answer with JSON that follows this JSON schema, and with nothing else:\n{schema}"
"""Part of the prompt if `response_format` has a schema. `schema`: the schema as JSON."""

CALL_PROMPT = "Answer with a call of {which} now."
"""Part of the prompt if a tool has to be called and the chat template does not support tools. `which`: the tools."""

ToolChoice: TypeAlias = Literal["auto", "none", "any"]

_ANY = ("any", "required")
# With these keywords, another part of the schema may add properties to an object.
_COMBINING = ("allOf", "if", "not", "dependentSchemas", "patternProperties", "unevaluatedProperties")
_LITERAL = ("enum", "const", "default", "examples")  # hold JSON, not schemas
_BY_NAME = ("properties", "patternProperties", "dependentSchemas", "$defs", "definitions")  # hold schemas by name

GRAMMAR_FORMATS = frozenset(
    {"date", "date-time", "duration", "email", "hostname", "ipv4", "ipv6", "time", "unknown", "uri", "uuid"}
)
"""The values of `format` that llguidance enforces."""


@dataclass(frozen=True, slots=True)
class OutputSpec:
    """What an answer may contain."""

    tools: tuple[dict[str, Any], ...] = ()
    """In OpenAI's form: `{"type": "function", "function": {"name", "description", "parameters"}}`."""
    choice: ToolChoice = "auto"
    """Whether a tool may (`"auto"`), must (`"any"`) or must not (`"none"`) be called."""
    callable_names: tuple[str, ...] = ()
    """The names of the tools that may be called; one name if the caller has chosen one tool."""
    is_parallel: bool | None = None
    """Whether an answer may hold several calls. `None`: several, but one if the whole answer is constrained."""
    schema: Mapping[str, Any] | None = None
    """The JSON schema that the text has to follow; `None` for free text."""
    is_schema_in_prompt: bool = False
    """Whether the prompt shows the schema to the model."""
    ignore_unsupported_keywords: bool = False
    """Whether parts of a schema that the grammar cannot enforce are ignored, with a warning, rather than refused."""

    @property
    def may_call(self) -> bool:
        """Whether the answer may call tools."""
        return bool(self.tools) and self.choice != "none"

    @property
    def is_structure(self) -> bool:
        """Whether the whole answer is constrained, from its first token to its last."""
        return self.choice == "any" or self.schema is not None

    @property
    def schemas(self) -> list[Mapping[str, Any]]:
        """The schema of the text, and those of the callable tools' arguments."""
        return [*([] if self.schema is None else [self.schema]), *map(self.parameters, self.callable_names)]

    def parameters(self, name: str) -> dict[str, Any]:
        """Return the JSON schema of one tool's arguments."""
        function = next(tool["function"] for tool in self.tools if tool["function"]["name"] == name)
        return function.get("parameters") or {"type": "object", "properties": {}}


def output_spec(call: Mapping[str, Any]) -> OutputSpec:
    """Read the arguments of a call that determine what the answer may contain.

    Args:
        call: Of its items, `tools`, `tool_choice`, `parallel_tool_calls`, `response_format` and
            `ignore_unsupported_keywords` are read.

    Raises:
        ToolError: A tool is invalid, two tools have the same name, or `tool_choice` names no tool.
        SchemaError: The response format or a schema is invalid.
    """
    tools = tuple(as_openai_tool(tool) for tool in call.get("tools") or ())
    names = tuple(tool["function"]["name"] for tool in tools)
    if len({*names}) < len(names):
        msg = f"Tool names must be unique; got {sorted(names)}. Rename a tool."
        raise ToolError(msg)
    choice, callable_names = parse_tool_choice(call.get("tool_choice"), names)
    schema, is_schema_in_prompt = _parse_response_format(call.get("response_format"))
    return OutputSpec(
        tools=tools,
        choice=choice,
        callable_names=callable_names,
        is_parallel=call.get("parallel_tool_calls"),
        schema=schema,
        is_schema_in_prompt=is_schema_in_prompt,
        ignore_unsupported_keywords=bool(call.get("ignore_unsupported_keywords")),
    )


def as_openai_tool(tool: Any, *, strict: bool | None = None) -> dict[str, Any]:
    """Convert a tool to OpenAI's form, `{"type": "function", "function": {...}}`.

    Args:
        tool: A function, pydantic class, TypedDict, LangChain tool, or a dict as OpenAI or Anthropic write tools.
        strict: Value of the function's `strict` field; `None` leaves the field out.

    Raises:
        ToolError: LangChain cannot convert `tool`, or it is not a function, such as a web search of OpenAI's servers.
        SchemaError: The schema of its parameters is not a dict, or cannot be written as JSON.
    """
    try:
        described = convert_to_openai_tool(tool, strict=strict)
    except (TypeError, ValueError) as error:
        msg = f"Cannot bind {tool!r} as a tool: {error}"
        raise ToolError(msg) from error
    function = described.get("function")
    if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
        kind = described.get("type")
        msg = (
            f"A tool must be a function with a name and parameters. Tools of type {kind!r} run on a provider's servers."
        )
        raise ToolError(msg)
    check_schema(function.get("parameters") or {})
    return described


def parse_tool_choice(choice: Any, names: Sequence[str]) -> tuple[ToolChoice, tuple[str, ...]]:
    """Return whether a tool has to be called, and the names of the tools that may be called.

    Args:
        choice: `None`, `"auto"`, `"none"`, `"any"`, `"required"`, a tool's name, a bool, or a dict in OpenAI's or
            Anthropic's form.
        names: The names of the bound tools.

    Raises:
        ToolError: `choice` is none of these values and names no bound tool.
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
        msg = f"tool_choice {choice!r} names no bound tool. Use one of {sorted(names)}, or 'auto', 'none' or 'any'."
        raise ToolError(msg)
    return "any", chosen


def _parse_response_format(response_format: Any) -> tuple[Mapping[str, Any] | None, bool]:
    """Return the schema of a response format, and whether the prompt shows it to the model."""
    kind = response_format.get("type") if isinstance(response_format, Mapping) else response_format
    if kind in (None, "text"):
        return None, False
    if kind == "json_object":
        fields = response_format if isinstance(response_format, Mapping) else {}
        return check_schema(fields.get("schema", {"type": "object"})), False
    described = response_format.get("json_schema") if isinstance(response_format, Mapping) else None
    if kind == "json_schema" and isinstance(described, Mapping):
        return check_schema(described.get("schema")), True
    msg = (
        "response_format must be {'type': 'json_schema', 'json_schema': {'name': ..., 'schema': ...}}, "
        f"{{'type': 'json_object'}} or {{'type': 'text'}}; got {response_format!r}. "
        "For pydantic models, use with_structured_output."
    )
    raise SchemaError(msg)


def check_schema(schema: Any) -> Mapping[str, Any]:
    """Return the schema if it is a dict that can be written as JSON.

    Raises:
        SchemaError: It is not a dict, or cannot be written as JSON.
    """
    try:
        json.dumps(schema, allow_nan=False)
    except (TypeError, ValueError) as error:
        msg = f"A JSON schema must be a dict that can be written as JSON: {error}."
        raise SchemaError(msg) from error
    if not isinstance(schema, Mapping):
        kind = type(schema).__name__
        msg = f"A JSON schema must be a dict such as {{'type': 'object', 'properties': ...}}; got {kind}."
        raise SchemaError(msg)
    return schema


def instructions(spec: OutputSpec, *, tells_choice: bool) -> str:
    """Return the part of the prompt that describes the required form of the answer; empty if there is none.

    Args:
        spec: What the answer may contain.
        tells_choice: Whether to say that a tool has to be called.
    """
    texts = []
    if spec.choice == "any" and tells_choice:
        names = spec.callable_names
        texts.append(CALL_PROMPT.format(which=f'the tool "{names[0]}"' if len(names) == 1 else "one of the tools"))
    if spec.is_schema_in_prompt:
        texts.append(SCHEMA_PROMPT.format(schema=json.dumps(spec.schema, ensure_ascii=False)))
    return "\n\n".join(texts)


def closed(schema: Any) -> Any:
    """Return a copy of the schema whose objects allow named properties only, because models tend to invent others.

    Objects that set `additionalProperties` stay as they are, and so does a schema that combines others, such as with
    `allOf`. Every instance of the result is an instance of the schema, unless branches of a `oneOf` overlap.
    """
    return schema if mentions(schema, _COMBINING) else _closed(schema)


def _closed(schema: Any) -> Any:
    if isinstance(schema, list):
        return [_closed(item) for item in schema]
    if not isinstance(schema, Mapping):
        return schema
    inner = {key: value if key in _LITERAL else _closed(value) for key, value in schema.items()}
    if isinstance(schema.get("properties"), Mapping) and "$ref" not in schema:
        inner.setdefault("additionalProperties", False)
    return inner


def without_annotations(schema: Any) -> Any:
    """Return a copy of the schema without keywords that forbid nothing.

    These are `uniqueItems: false`, and formats that the grammar does not know, such as pydantic's `password` and
    `path`. JSON Schema treats a `format` as an annotation by default, so that valid JSON stays valid without it.

    References:
        JSON Schema 2020-12, section 7.2.1: https://json-schema.org/draft/2020-12/json-schema-validation
    """
    if isinstance(schema, list):
        return [without_annotations(item) for item in schema]
    if not isinstance(schema, Mapping):
        return schema
    kept: dict[str, Any] = {}
    for key, value in schema.items():
        if key in _LITERAL:
            kept[key] = value
        elif key in _BY_NAME and isinstance(value, Mapping):
            kept[key] = {name: without_annotations(subschema) for name, subschema in value.items()}
        elif not (key == "format" and value not in GRAMMAR_FORMATS) and not (key == "uniqueItems" and value is False):
            kept[key] = without_annotations(value)
    return kept


def mentions(schema: Any, keywords: Sequence[str]) -> bool:
    """Return whether one of the keywords occurs anywhere in the schema; a property of that name counts too."""
    if isinstance(schema, list):
        return any(mentions(item, keywords) for item in schema)
    if not isinstance(schema, Mapping):
        return False
    single = isinstance(schema.get("allOf"), list) and len(schema["allOf"]) == 1  # pydantic v1 wraps a $ref in it
    matches = [key for key in keywords if key in schema and not (key == "allOf" and single)]
    return bool(matches) or any(mentions(value, keywords) for value in schema.values())
