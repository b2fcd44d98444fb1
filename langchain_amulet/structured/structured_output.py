"""Implements `with_structured_output`: runnables that return objects of a schema."""

from collections.abc import Mapping
from operator import itemgetter
from typing import Any, Literal, TypeAlias, get_args

from langchain_core.language_models import BaseChatModel, LanguageModelInput
from langchain_core.output_parsers import BaseOutputParser, JsonOutputParser, PydanticOutputParser
from langchain_core.output_parsers.openai_tools import JsonOutputKeyToolsParser, PydanticToolsParser
from langchain_core.runnables import Runnable, RunnableMap, RunnablePassthrough
from langchain_core.utils.function_calling import convert_to_json_schema
from langchain_core.utils.pydantic import is_basemodel_subclass, is_pydantic_v1_subclass

from langchain_amulet.exceptions import SchemaError, ToolError
from langchain_amulet.structured.output_spec import CONVERSION_ERRORS, as_openai_tool, check_schema, is_tool

Method: TypeAlias = Literal["json_schema", "function_calling", "json_mode"]
"""How the schema reaches the model; see `structured`."""


def structured(
    model: BaseChatModel,
    schema: Any,
    *,
    method: Method = "json_schema",
    include_raw: bool = False,
    strict: bool | None = None,
    **kwargs: Any,
) -> Runnable[LanguageModelInput, Any]:
    """Return a runnable that answers with an object of the schema.

    Args:
        model: A `ChatAmulet`.
        schema: A pydantic class of either version, a TypedDict, a tool, or a JSON schema with a title.
        method: `"json_schema"` shows the schema in the prompt; `"json_mode"` leaves that to the caller;
            `"function_calling"` has the model call a tool.
        include_raw: Whether to return a dict with `raw`, `parsed` and `parsing_error` rather than the object.
        strict: Value of the tool's `strict` field. The answer follows the schema in any case.
        kwargs: Other arguments of the model's calls, such as `ignore_unsupported_keywords=True`.

    Raises:
        SchemaError: `method` is unknown, or `schema` is not a schema.
    """
    if method not in get_args(Method):
        msg = f"method must be one of {get_args(Method)}; got {method!r}."
        raise SchemaError(msg)
    tracing = {"ls_structured_output_format": {"kwargs": {"method": method, "strict": strict}, "schema": schema}}
    parser: Any
    if method == "function_calling":
        name = _tool_name(schema)
        llm = model.bind_tools([schema], tool_choice=name, strict=strict, **tracing, **kwargs)
        parser = _tool_parser(schema, name)
    else:
        llm = model.bind(response_format=_response_format(schema, method), **tracing, **kwargs)
        parser = _json_parser(schema)
    return _with_raw(llm, parser) if include_raw else llm | parser


def _tool_name(schema: Any) -> str:
    try:
        name: str = as_openai_tool(schema)["function"]["name"]
    except ToolError as error:
        raise SchemaError(str(error) if isinstance(schema, Mapping) else _not_a_schema(schema, error)) from error
    return name


def _response_format(schema: Any, method: Method) -> dict[str, Any]:
    json_schema = json_schema_of(schema)
    if method == "json_mode":
        return {"type": "json_object", "schema": json_schema}
    return {"type": "json_schema", "json_schema": {"name": json_schema.get("title", "answer"), "schema": json_schema}}


def json_schema_of(schema: Any) -> dict[str, Any]:
    """Return the JSON schema of a pydantic class of either version, a TypedDict or a tool; a JSON schema is copied.

    Raises:
        SchemaError: `schema` is none of these.
    """
    if isinstance(schema, type) and is_basemodel_subclass(schema):
        model: Any = schema
        json_schema: dict[str, Any] = model.schema() if is_pydantic_v1_subclass(schema) else model.model_json_schema()
        return json_schema
    if isinstance(schema, Mapping) and not is_tool(schema):
        return dict(check_schema(schema))
    try:
        return convert_to_json_schema(schema)
    except CONVERSION_ERRORS as error:
        raise SchemaError(_not_a_schema(schema, error)) from error


def _not_a_schema(schema: Any, error: Exception) -> str:
    return f"{schema!r} is not a schema. Use a pydantic class, a TypedDict or a JSON schema with a title. {error}"


def _tool_parser(schema: Any, name: str) -> BaseOutputParser[Any]:
    if isinstance(schema, type) and is_basemodel_subclass(schema):
        return PydanticToolsParser(tools=[schema], first_tool_only=True)
    return JsonOutputKeyToolsParser(key_name=name, first_tool_only=True)


def _json_parser(schema: Any) -> BaseOutputParser[Any]:
    if isinstance(schema, type) and is_basemodel_subclass(schema):
        return PydanticOutputParser(pydantic_object=schema)
    return JsonOutputParser()


def _with_raw(llm: Runnable[LanguageModelInput, Any], parser: Any) -> Runnable[LanguageModelInput, Any]:
    """Return a runnable that answers with `{"raw": message, "parsed": object, "parsing_error": error}`."""
    success = RunnablePassthrough.assign(parsed=itemgetter("raw") | parser, parsing_error=lambda _: None)
    failure = RunnablePassthrough.assign(parsed=lambda _: None)
    return RunnableMap(raw=llm) | success.with_fallbacks([failure], exception_key="parsing_error")
