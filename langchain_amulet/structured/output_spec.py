"""What an answer may contain (text, tool calls, JSON), as read from the arguments of a call."""

import contextlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from langchain_core.utils.function_calling import convert_to_openai_tool
from pydantic import BaseModel
from pydantic.errors import PydanticUserError

from langchain_amulet.exceptions import SchemaError, ToolError
from langchain_amulet.structured.schema_limits import check_expansion, check_limits

SCHEMA_PROMPT = "Answer with JSON that follows this JSON schema, and with nothing else:\n{schema}"
"""Added to the prompt if `response_format` has a schema. `schema`: the schema as JSON."""

CALL_PROMPT = "Answer with a call of {which} now."
"""Added to the prompt if a tool must be called and the chat template does not support tools. `which`: the tools."""

ToolChoice: TypeAlias = Literal["auto", "none", "any"]
"""Whether a tool may (`"auto"`), must (`"any"`) or must not (`"none"`) be called."""

CONVERSION_ERRORS = (TypeError, ValueError, KeyError, AttributeError)
"""What LangChain raises if it cannot convert an object to a tool or a schema."""

_TOOL_NAME = re.compile(r"[\w.:/-]{1,128}")
"""The names that all tool formats can carry: within quotes, and bare before the arguments."""
_ANY_TOOL = ("any", "required")
_JSON_TYPES = frozenset(("array", "boolean", "integer", "null", "number", "object", "string"))
_FUNCTION_KEYS = frozenset(("name", "description", "strict"))
# With these keywords, another part of the schema may add properties to an object.
_COMBINING_KEYWORDS = ("allOf", "if", "not", "dependentSchemas", "patternProperties", "unevaluatedProperties")
_LITERAL_KEYWORDS = ("enum", "const", "default", "examples")  # their values are JSON, not schemas
# Their values are dicts from names to schemas.
_NAMED_SCHEMAS_KEYWORDS = ("properties", "patternProperties", "dependentSchemas", "$defs", "definitions")

GRAMMAR_FORMATS = frozenset(
    {"date", "date-time", "duration", "email", "hostname", "ipv4", "ipv6", "time", "unknown", "uri", "uuid"}
)
"""The values of `format` that llguidance enforces."""


@dataclass(frozen=True, slots=True)
class OutputSpec:
    """What an answer may contain."""

    tools: tuple[dict[str, Any], ...] = ()
    """The bound tools in OpenAI's format: `{"type": "function", "function": {"name", "description", "parameters"}}`."""
    choice: ToolChoice = "auto"
    callable_names: tuple[str, ...] = ()
    """The names of the tools that may be called; one name if the caller has chosen one tool."""
    is_parallel: bool | None = None
    """Whether an answer may contain several calls. `None`: only if calls are not forced."""
    schema: Mapping[str, Any] | None = None
    """The JSON schema that the text has to follow; `None` for free text."""
    is_schema_in_prompt: bool = False
    """Whether the prompt shows the schema to the model."""
    ignore_unsupported_keywords: bool = False
    """Whether to ignore, with a warning, parts of a schema that the grammar cannot enforce; else they are errors."""

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
    """Read what an answer may contain from the arguments of its call.

    Args:
        call: The arguments. Only `tools`, `tool_choice`, `parallel_tool_calls`, `response_format` and
            `ignore_unsupported_keywords` are used.

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
    """Convert a tool to OpenAI's format, `{"type": "function", "function": {...}}`.

    Args:
        tool: A function, pydantic class, TypedDict, LangChain tool, or a dict in the format of OpenAI or Anthropic.
        strict: Value of the function's `strict` field; `None` leaves the field out.

    Raises:
        ToolError: LangChain cannot convert `tool`, a tool format cannot carry its name, or it runs on a provider's
            servers, such as OpenAI's web search.
        SchemaError: The schema of its parameters is not a dict, or cannot be written as JSON.
    """
    if isinstance(tool, Mapping) and not is_tool(tool):
        tool = _titled_function(check_schema(tool))
    _check_class(tool)
    try:
        described = convert_to_openai_tool(tool, strict=strict)
    except CONVERSION_ERRORS as error:
        msg = f"Cannot bind {tool!r} as a tool: {error}"
        raise ToolError(msg) from error
    function = described.get("function")
    if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
        kind = described.get("type")
        msg = (
            f"A tool must be a function with a name and parameters, got type {kind!r}. Tools that run on a provider's "
            f"servers are not available to a local model."
        )
        raise ToolError(msg)
    if not _TOOL_NAME.fullmatch(function["name"]):
        msg = (
            f"A tool's name must have 1 to 128 letters, digits or characters of '_-.:/', got {function['name']!r}. "
            f"Rename the tool."
        )
        raise ToolError(msg)
    check_schema(function.get("parameters") or {})
    return described


def _check_class(tool: Any) -> None:
    """Raise `SchemaError` if LangChain would expand a pydantic class to too many parts."""
    described = getattr(tool, "args_schema", None) or tool
    if isinstance(described, type) and issubclass(described, BaseModel):
        with contextlib.suppress(PydanticUserError):  # it has no schema, which the conversion reports
            check_expansion(described.model_json_schema())


def is_tool(schema: Mapping[str, Any]) -> bool:
    """Return whether a dict describes a tool, in a format that LangChain accepts; otherwise it is a JSON schema.

    A dict with a `name` and other keywords of schemas, such as `properties`, is a schema: as a tool it would lose them.
    """
    kind = schema.get("type")
    if isinstance(kind, str) and kind not in _JSON_TYPES:
        return True  # such as {"type": "function", "function": {...}}, or a tool that runs on a provider's servers
    is_function = "name" in schema and ("parameters" in schema or schema.keys() <= _FUNCTION_KEYS)
    return is_function or "toolSpec" in schema or {"name", "input_schema"} <= schema.keys()


def _titled_function(schema: Mapping[str, Any]) -> dict[str, Any]:
    """Return an OpenAI function whose parameters are all of a JSON schema with a title.

    LangChain's own conversion drops schemas without `properties`, such as those of maps and references.
    """
    kind = schema.get("type", "object")
    if kind != "object":
        msg = (
            f"The arguments of a tool are an object, but the schema {schema.get('title')!r} has type {kind!r}. Make it "
            'a property of an object, or use with_structured_output with method="json_schema".'
        )
        raise ToolError(msg)
    name = schema.get("title") or schema.get("name")
    if not isinstance(name, str):
        msg = "A JSON schema that is used as a tool needs a title, which becomes the name of the tool. Add a title."
        raise ToolError(msg)
    function = {"name": name, **{key: schema[key] for key in ("description",) if key in schema}}
    parameters = {key: value for key, value in schema.items() if key not in ("title", "description", "name")}
    return {**function, "parameters": parameters} if parameters else function


def parse_tool_choice(choice: Any, names: Sequence[str]) -> tuple[ToolChoice, tuple[str, ...]]:
    """Return whether a tool has to be called, and the names of the tools that may be called.

    Args:
        choice: `None`, `"auto"`, `"none"`, `"any"`, `"required"`, a tool's name, a bool, or a dict in the
            format of OpenAI or Anthropic.
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
    chosen = tuple(names) if choice is True or choice in _ANY_TOOL else tuple(name for name in names if name == choice)
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
        SchemaError: It is not a dict, cannot be written as JSON, or exceeds a limit.
    """
    check_limits(schema)
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
    """Return the text to add to the prompt about the required form of the answer; may be empty.

    Args:
        spec: What the answer may contain.
        tells_choice: Whether to say that a tool must be called, if it must.
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

    Objects that set `additionalProperties` do not change, nor does a schema that combines others, for example by
    `allOf`. What is valid by the result is valid by the schema, unless branches of a `oneOf` overlap.
    """
    return schema if mentions(schema, _COMBINING_KEYWORDS) else _closed(schema)


def _closed(schema: Any) -> Any:
    if isinstance(schema, list):
        return [_closed(item) for item in schema]
    if not isinstance(schema, Mapping):
        return schema
    copy = {key: value if key in _LITERAL_KEYWORDS else _closed(value) for key, value in schema.items()}
    if isinstance(schema.get("properties"), Mapping) and "$ref" not in schema:
        copy.setdefault("additionalProperties", False)
    return copy


def without_annotations(schema: Any) -> Any:
    """Return a copy of the schema without keywords that exclude no value, and which llguidance would reject.

    These are `uniqueItems: false`, and formats that llguidance does not know, such as pydantic's `password` and `path`.
    By default, JSON Schema treats `format` as an annotation.

    References:
        JSON Schema 2020-12, section 7.2.1: https://json-schema.org/draft/2020-12/json-schema-validation
    """
    if isinstance(schema, list):
        return [without_annotations(item) for item in schema]
    if not isinstance(schema, Mapping):
        return schema
    copy: dict[str, Any] = {}
    for key, value in schema.items():
        if key in _LITERAL_KEYWORDS:
            copy[key] = value
        elif key in _NAMED_SCHEMAS_KEYWORDS and isinstance(value, Mapping):
            copy[key] = {name: without_annotations(subschema) for name, subschema in value.items()}
        elif not (key == "format" and value not in GRAMMAR_FORMATS) and not (key == "uniqueItems" and value is False):
            copy[key] = without_annotations(value)
    return copy


def mentions(schema: Any, keywords: Sequence[str]) -> bool:
    """Return whether one of the keywords, or a property of that name, occurs anywhere in the schema."""
    if isinstance(schema, list):
        return any(mentions(item, keywords) for item in schema)
    if not isinstance(schema, Mapping):
        return False
    # pydantic v1 wraps a $ref in an allOf with one item, which combines nothing.
    is_wrapper = isinstance(schema.get("allOf"), list) and len(schema["allOf"]) == 1
    matches = [key for key in keywords if key in schema and not (key == "allOf" and is_wrapper)]
    return bool(matches) or any(mentions(value, keywords) for value in schema.values())
