"""No part of a schema is lost on its way from `with_structured_output` and `bind_tools` to the grammar."""

import re

import pytest
from jsonschema import Draft7Validator, Draft202012Validator
from jsonschema_specifications import REGISTRY  # type: ignore[import-untyped]  # has no types

from langchain_amulet.exceptions import MaxTokensError, SchemaError, ToolError
from langchain_amulet.structured.output_spec import as_openai_tool, check_schema
from langchain_amulet.structured.structured_output import json_schema_of
from tests.fakes.roomy import roomy_chat

DRAFTS = [Draft7Validator.META_SCHEMA, Draft202012Validator.META_SCHEMA]
VOCABULARIES = [REGISTRY.contents(uri) for uri in REGISTRY if "2020-12/meta/" in uri]
KEYWORDS = sorted({keyword for schema in (*DRAFTS, *VOCABULARIES) for keyword in schema.get("properties", {})})
INTEGERS = {"title": "numbers", "type": "array", "items": {"type": "integer"}, "maxItems": 3}
COUNTS = {"title": "counts", "type": "object", "additionalProperties": {"type": "integer"}, "maxProperties": 2}


def test_keywords_are_those_of_the_specification():
    assert {"items", "additionalProperties", "patternProperties", "$ref", "contains", "if", "pattern"} < {*KEYWORDS}
    assert len(KEYWORDS) > 50


@pytest.mark.parametrize("keyword", KEYWORDS)
def test_schema_with_any_keyword_reaches_the_grammar_whole(keyword):
    schema = {"title": "counts", "type": "object", keyword: {"x": 1} if keyword not in ("title", "type") else "object"}
    assert json_schema_of(schema) == schema


@pytest.mark.parametrize("keyword", [word for word in KEYWORDS if word not in ("title", "type", "description")])
def test_schema_with_any_keyword_reaches_a_tool_whole(keyword):
    rest = {"type": "object", keyword: {"x": 1}}
    described = as_openai_tool({"title": "counts", "description": "Counts.", **rest})
    assert described["function"] == {"name": "counts", "description": "Counts.", "parameters": rest}


def test_schema_with_a_name_is_not_taken_for_a_tool_without_parameters():
    schema = {"name": "counts", "type": "object", "properties": {"a": {"type": "integer"}}}
    assert json_schema_of(schema)["properties"] == schema["properties"]
    assert as_openai_tool(schema)["function"]["parameters"]["properties"] == schema["properties"]


@pytest.mark.parametrize(
    "tool",
    [
        {"name": "f", "parameters": {"type": "object", "properties": {"a": {}}}},
        {"name": "f", "input_schema": {"type": "object", "properties": {"a": {}}}},
        {"toolSpec": {"name": "f", "inputSchema": {"json": {"type": "object", "properties": {"a": {}}}}}},
        {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {"a": {}}}}},
    ],
)
def test_tools_in_every_format_give_the_schema_of_their_arguments(tool):
    assert json_schema_of(tool) == {"title": "f", "type": "object", "properties": {"a": {}}}


@pytest.mark.parametrize("tool", [{"name": "f", "description": "F."}, {"title": "f", "description": "F."}])
def test_tool_without_parameters_stays_one(tool):
    assert as_openai_tool(tool)["function"] == {"name": "f", "description": "F."}


def test_answer_to_a_schema_without_properties_follows_it():
    numbers = roomy_chat().with_structured_output(INTEGERS).invoke("Why?")
    assert len(numbers) <= 3
    assert all(isinstance(number, int) for number in numbers)


@pytest.mark.parametrize("method", ["json_schema", "json_mode", "function_calling"])
def test_answer_to_a_map_follows_it(method):
    counts = roomy_chat().with_structured_output(COUNTS, method=method).invoke("Why?")
    assert len(counts) <= 2
    assert all(isinstance(count, int) for count in counts.values())


def test_schema_that_is_not_an_object_is_no_tool():
    with pytest.raises(ToolError, match="type 'array'.*method=\"json_schema\""):
        as_openai_tool(INTEGERS)
    with pytest.raises(SchemaError, match="type 'array'.*method=\"json_schema\""):
        roomy_chat().with_structured_output(INTEGERS, method="function_calling")


@pytest.mark.parametrize("schema", [{"title": 3, "type": "object"}, {"type": "object"}, {"type": ["object"]}])
def test_schema_without_a_title_is_no_tool(schema):
    with pytest.raises(ToolError):
        as_openai_tool(schema)


def nested(depth: int) -> dict:
    schema: dict = {"type": "integer"}
    for _ in range(depth):
        schema = {"type": "object", "properties": {"a": schema}, "required": ["a"]}
    return schema


@pytest.mark.parametrize("depth", [63, 163, 3000])
def test_schema_that_is_too_deep_is_refused_with_the_remedy(depth):
    with pytest.raises(SchemaError, match=r"up to 126 dicts and lists.*\$ref"):
        roomy_chat().with_structured_output({"title": "deep", **nested(depth)}).invoke("Why?")
    with pytest.raises(SchemaError, match=r"up to 126 dicts and lists.*\$ref"):
        as_openai_tool({"title": "deep", **nested(depth)}, strict=True)


def test_schema_that_contains_itself_is_refused():
    schema = nested(1)
    schema["properties"]["b"] = schema
    with pytest.raises(SchemaError, match="up to 126"):
        check_schema(schema)


def test_deepest_schema_is_compiled():
    with pytest.raises(MaxTokensError):  # raised once the grammar is compiled
        roomy_chat().with_structured_output({"title": "deep", **nested(62)}, method="json_mode").invoke("Why?")


def test_object_with_too_many_properties_is_refused_with_the_remedy():
    wide = {f"property_{number}": {"type": "integer"} for number in range(501)}
    with pytest.raises(SchemaError, match="has 501 properties; up to 500.*Divide it"):
        check_schema({"type": "object", "properties": wide})
    wide.popitem()
    assert check_schema({"type": "object", "properties": wide})


def test_counted_properties_have_a_lower_limit():
    wide = {f"property_{number}": {"type": "integer"} for number in range(101)}
    with pytest.raises(SchemaError, match="has 101 properties; up to 100.*minProperties"):
        check_schema({"type": "object", "properties": wide, "minProperties": 1})
    assert check_schema({"type": "object", "properties": wide})


@pytest.mark.parametrize("pattern", ["^(?!a)b$", "(", "[z-a]"])
def test_pattern_that_is_not_understood_is_refused_in_one_line_with_the_reason(pattern):
    schema = {"title": "word", "type": "string", "pattern": pattern}
    with pytest.raises(SchemaError, match=f"the pattern {re.escape(repr(pattern))} is not understood: .+") as caught:
        roomy_chat().with_structured_output(schema).invoke("Why?")
    assert "\n" not in str(caught.value)


def test_answer_to_an_object_with_many_optional_properties_follows_it():
    most = {f"property_{number}": {"type": "integer"} for number in range(500)}
    schema = {"title": "wide", "type": "object", "properties": most}
    answer = roomy_chat().with_structured_output(schema, method="json_mode").invoke("Why?")
    assert answer.keys() <= most.keys()


def test_schema_may_have_any_number_of_definitions():
    assert check_schema({"$defs": {f"part_{number}": {"type": "integer"} for number in range(5000)}})
