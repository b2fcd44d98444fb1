"""Tools: which can be bound and called, and calls of a tiny random model, which follow the tools' schemas."""

import copy
import json
from typing import Annotated, TypedDict

import jsonschema
import pydantic.v1
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from langchain_core.messages import AIMessage
from langchain_core.tools import StructuredTool, tool
from pydantic import BaseModel, Field

from langchain_amulet import ChatAmulet
from langchain_amulet.answers.parser import AnswerParser, Delta
from langchain_amulet.exceptions import MaxTokensError, SchemaError, ToolError
from langchain_amulet.structured.output_spec import as_openai_tool, closed, output_spec, parse_tool_choice
from tests.fakes.roomy import roomy_chat, roomy_model, tokenizer_of, without_ids

QUESTION = "Why?"


def now() -> str:
    """Tell the time."""


def add(x: int, y: int = 2) -> int:
    """Add two numbers."""


class Say(BaseModel):
    """Say something."""

    text: str = Field(max_length=5)


class SayOld(pydantic.v1.BaseModel):
    """Say something."""

    text: str


class SayTyped(TypedDict):
    """Say something."""

    text: Annotated[str, ..., "What to say"]


@tool
def say_tool(text: str) -> str:
    """Say something."""
    return text


PARAMETERS = {"type": "object", "properties": {"text": {"type": "string"}}, "required": ["text"]}
NAMED = {"name": "say_dict", "description": "Say something."}
KINDS = {
    "now": now,
    "add": add,
    "Say": Say,
    "SayOld": SayOld,
    "SayTyped": SayTyped,
    "say_tool": say_tool,
    "say_structured": StructuredTool.from_function(lambda text: text, name="say_structured", description="Say."),
    "say_openai": {"type": "function", "function": {**NAMED, "name": "say_openai", "parameters": PARAMETERS}},
    "say_anthropic": {**NAMED, "name": "say_anthropic", "input_schema": PARAMETERS},
    "say_bare": {**NAMED, "name": "say_bare", "parameters": PARAMETERS},
    "ping": {"type": "function", "function": {"name": "ping"}},
}
TOOLS = [now, add, Say]
NAMES = ("now", "add", "Say")


@pytest.fixture(scope="module")
def llm() -> ChatAmulet:
    return roomy_chat("qwen2.5", max_tokens=70)


def check_calls(message: AIMessage, tools=TOOLS, names=NAMES) -> None:
    """Check that there are calls, that all are of these tools, and that all arguments follow the tools' schemas."""
    schemas = {
        described["function"]["name"]: described["function"].get("parameters", {})
        for described in map(as_openai_tool, tools)
    }
    assert message.tool_calls
    assert message.invalid_tool_calls == []
    for call in message.tool_calls:
        assert call["name"] in names
        jsonschema.validate(call["args"], schemas[call["name"]])


def eager_chat(family: str, marker: str, **fields) -> ChatAmulet:
    """Return a chat model that begins a call wherever it is allowed to."""
    tokenizer, model = tokenizer_of(family), copy.deepcopy(roomy_model())
    bias = torch.zeros(model.config.vocab_size, dtype=torch.float64)
    bias[tokenizer.convert_tokens_to_ids(marker)] = 1000.0
    model.lm_head.register_forward_hook(lambda _module, _inputs, logits: logits + bias)
    return ChatAmulet(model=model, tokenizer=tokenizer, **fields)


# Binding and choosing tools


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        (None, ("auto", NAMES)),
        ("auto", ("auto", NAMES)),
        (False, ("auto", NAMES)),
        ({"type": "auto"}, ("auto", NAMES)),
        ("none", ("none", ())),
        ({"type": "none"}, ("none", ())),
        ("any", ("any", NAMES)),
        ("required", ("any", NAMES)),
        (True, ("any", NAMES)),
        ({"type": "any"}, ("any", NAMES)),
        ("add", ("any", ("add",))),
        ({"type": "function", "function": {"name": "add"}}, ("any", ("add",))),
        ({"type": "tool", "name": "add"}, ("any", ("add",))),
    ],
)
def test_every_form_of_tool_choice_is_read(choice, expected):
    assert parse_tool_choice(choice, NAMES) == expected


@pytest.mark.parametrize(
    "choice", ["subtract", "ADD", {"type": "function", "function": {"name": "subtract"}}, {"type": "tool"}]
)
def test_choice_that_names_no_bound_tool_is_refused_with_the_bound_ones(llm, choice):
    with pytest.raises(ToolError, match=r"names no bound tool.*\['Say', 'add', 'now'\].*'auto', 'none' or 'any'"):
        llm.bind_tools(TOOLS, tool_choice=choice)


def test_forced_call_without_tools_is_refused(llm):
    with pytest.raises(ToolError, match=r"Use one of \[\]"):
        llm.invoke(QUESTION, tool_choice="any")


def test_tools_with_the_same_name_are_refused(llm):
    with pytest.raises(ToolError, match="must be unique.*'Say', 'Say'.*Rename"):
        llm.bind_tools([Say, {**NAMED, "name": "Say", "parameters": PARAMETERS}]).invoke(QUESTION)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [(3, "Cannot bind 3"), ({"type": "web_search_preview"}, "got type 'web_search_preview'")],
)
def test_tool_that_cannot_be_bound_is_refused(llm, wrong, words):
    with pytest.raises(ToolError, match=words):
        llm.bind_tools([wrong])


@pytest.mark.parametrize("name", ["a\\b", "x<|im_end|>y", 'a"b', "a b", "a\n", "", "a" * 129, "a[ARGS]"])
def test_name_that_a_tool_format_cannot_carry_is_refused_when_the_tool_is_bound(llm, name):
    with pytest.raises(ToolError, match="must have 1 to 128 letters.*Rename the tool"):
        llm.bind_tools([{**NAMED, "name": name, "parameters": PARAMETERS}])


@pytest.mark.parametrize("family", ["qwen2.5", "llama3.1", "mistral", "mistral v11"])
@pytest.mark.parametrize("name", ["server.search", "mcp:a/b-c_d", "天气", "é"])
def test_names_with_other_letters_and_marks_come_back_as_they_are(family, name):
    bound = roomy_chat(family, max_tokens=70).bind_tools([{**NAMED, "name": name, "parameters": {}}], tool_choice=name)
    assert [call["name"] for call in bound.invoke(QUESTION).tool_calls] == [name]


@pytest.mark.parametrize("name", KINDS)
def test_every_kind_of_tool_is_called_as_its_schema_says(llm, name):
    message = llm.bind_tools([now, KINDS[name]] if name != "now" else [now], tool_choice=name).invoke(QUESTION)
    check_calls(message, [KINDS[name]], [name])


def test_bound_tools_are_in_the_form_of_openai(llm):
    bound = llm.bind_tools([add], strict=True)
    described = bound.kwargs["tools"][0]["function"]
    assert (described["name"], described["description"], described["strict"]) == ("add", "Add two numbers.", True)
    assert described["parameters"]["required"] == ["x", "y"]
    assert "tool_choice" not in bound.kwargs


# Response formats


@pytest.mark.parametrize(
    ("response_format", "schema", "is_in_prompt"),
    [
        (None, None, False),
        ("text", None, False),
        ({"type": "text"}, None, False),
        ({"type": "json_object"}, {"type": "object"}, False),
        ({"type": "json_object", "schema": PARAMETERS}, PARAMETERS, False),
        ({"type": "json_schema", "json_schema": {"name": "say", "schema": PARAMETERS}}, PARAMETERS, True),
    ],
)
def test_every_form_of_response_format_is_read(response_format, schema, is_in_prompt):
    spec = output_spec({"response_format": response_format})
    assert (spec.schema, spec.is_schema_in_prompt) == (schema, is_in_prompt)


@pytest.mark.parametrize(
    ("response_format", "words"),
    [
        ("json", "with_structured_output"),
        ({"type": "xml"}, "response_format must be"),
        ({"type": "json_schema"}, "response_format must be"),
        ({"type": "json_schema", "json_schema": {"name": "x"}}, "got NoneType"),
        ({"type": "json_schema", "json_schema": {"schema": Say}}, "can be written as JSON"),
        ({"type": "json_object", "schema": [1]}, "got list"),
        (Say, "with_structured_output"),
    ],
)
def test_invalid_response_format_is_refused(llm, response_format, words):
    with pytest.raises(SchemaError, match=words):
        llm.invoke(QUESTION, response_format=response_format)


# Closed schemas

keys = st.sampled_from(["a", "b", "c"])
leaves = st.sampled_from([{"type": "integer"}, {"type": "string"}, {}, {"type": "null"}, {"const": 1}, True])


def objects(inner):
    return st.fixed_dictionaries(
        {"type": st.just("object"), "properties": st.dictionaries(keys, inner, max_size=3)},
        optional={
            "required": st.lists(keys, max_size=2, unique=True),
            "additionalProperties": inner,
            "patternProperties": st.dictionaries(st.just("^a"), inner, max_size=1),
        },
    )


schemas = st.recursive(
    leaves | st.just({"$ref": "#/$defs/d"}),
    lambda inner: (
        objects(inner)
        | st.builds(lambda items: {"type": "array", "items": items}, inner)
        | st.builds(
            lambda kind, schemas: {kind: schemas},
            st.sampled_from(["anyOf", "allOf"]),
            st.lists(inner, min_size=1, max_size=2),
        )
        | st.builds(lambda schema: {"not": schema}, inner)
    ),
    max_leaves=6,
)
instances = st.recursive(
    st.sampled_from([1, "x", None]),
    lambda inner: st.dictionaries(st.sampled_from("abcd"), inner, max_size=3) | st.lists(inner, max_size=2),
    max_leaves=5,
)


@given(schema=objects(schemas), definition=objects(leaves), instance=instances)
def test_instance_of_the_closed_schema_is_an_instance_of_the_schema(schema, definition, instance):
    schema = {"$defs": {"d": definition}, **schema}
    before = copy.deepcopy(schema)
    narrow = closed(schema)
    assert schema == before
    if jsonschema.Draft202012Validator(narrow).is_valid(instance):
        jsonschema.Draft202012Validator(schema).validate(instance)


def test_closed_schema_allows_named_properties_only():
    inner = {"type": "object", "properties": {"b": {"type": "integer"}}}
    validator = jsonschema.Draft202012Validator(closed({"type": "object", "properties": {"a": inner}}))
    assert validator.is_valid({"a": {"b": 1}})
    assert not validator.is_valid({"a": {"b": 1, "c": 1}})
    assert not validator.is_valid({"x": 1})


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "object"},
        {"type": "object", "properties": {"a": {}}, "additionalProperties": {"type": "string"}},
        {"allOf": [{"properties": {"a": {}}}, {"properties": {"b": {}}}]},
        {"properties": {"a": {}}, "patternProperties": {"^x": {}}},
        {"const": {"properties": {}}},
    ],
)
def test_schema_that_combines_others_or_sets_additional_properties_is_not_changed(schema):
    assert closed(schema) == schema


# Calls of a tiny random model


@pytest.mark.parametrize("family", ["smollm2", "thinking", "llama3.1", "mistral", "qwen3.5"])
def test_forced_call_of_every_family_is_one_call_and_nothing_else(family):
    message = roomy_chat(family).bind_tools(TOOLS, tool_choice="any").invoke(QUESTION)
    check_calls(message)
    assert (len(message.tool_calls), message.text) == (1, "")
    assert message.response_metadata["finish_reason"] == "tool_calls"


@pytest.mark.parametrize("choice", ["any", True, "add", {"type": "function", "function": {"name": "now"}}])
def test_forced_call_is_of_a_chosen_tool(llm, choice):
    names = {"add": ["add"]}.get(choice, NAMES) if not isinstance(choice, dict) else ["now"]
    check_calls(llm.bind_tools(TOOLS, tool_choice=choice).invoke(QUESTION, temperature=1.0, seed=7), names=names)


async def test_invoke_stream_and_batch_give_the_same_call(llm):
    bound = llm.bind_tools(TOOLS, tool_choice="Say")
    expected = without_ids(bound.invoke(QUESTION))
    chunks = list(bound.stream(QUESTION))
    assert without_ids(sum(chunks[1:], start=chunks[0])) == expected
    assert without_ids(await bound.ainvoke(QUESTION)) == expected
    streamed = [chunk async for chunk in bound.astream(QUESTION)]
    assert without_ids(sum(streamed[1:], start=streamed[0])) == expected
    assert [without_ids(message) for message in bound.batch([QUESTION] * 2)] == [expected] * 2
    assert len([chunk for chunk in chunks if chunk.tool_call_chunks]) > 3, "arguments stream while they are written"
    assert sum(bool(piece["name"]) for chunk in chunks for piece in chunk.tool_call_chunks) == 1


def test_several_calls_are_all_valid_and_have_ids_that_every_template_accepts():
    several = roomy_chat("mistral", max_tokens=160).bind_tools([now], tool_choice="any", parallel_tool_calls=True)
    message = several.invoke(QUESTION, preference=None)
    check_calls(message, [now], ["now"])
    ids = [call["id"] for call in message.tool_calls]
    assert len({*ids}) == len(ids) > 1
    assert all(len(call_id) == 9 and call_id.isalnum() for call_id in ids)


@pytest.mark.parametrize("is_parallel", [False, None])
def test_forced_answer_is_one_call_unless_several_are_asked_for(is_parallel):
    bound = roomy_chat("mistral", max_tokens=160).bind_tools([now], tool_choice="any", parallel_tool_calls=is_parallel)
    assert len(bound.invoke(QUESTION, preference=None).tool_calls) == 1


def test_tools_that_must_not_be_called_are_not_in_the_prompt(llm):
    message = llm.bind_tools(TOOLS, tool_choice="none").invoke(QUESTION, max_tokens=20)
    assert (message.tool_calls, message.invalid_tool_calls) == ([], [])
    assert without_ids(message) == without_ids(llm.invoke(QUESTION, max_tokens=20))


@pytest.mark.parametrize(("family", "marker"), [("qwen3", "<tool_call>"), ("mistral v11", "[TOOL_CALLS]")])
def test_calls_that_are_not_forced_follow_the_schemas(family, marker):
    bound = eager_chat(family, marker, max_tokens=100).bind_tools([now, Say])
    message = bound.invoke(QUESTION)
    check_calls(message, [now, Say], ["now", "Say"])
    assert len(message.tool_calls) > 1
    chunks = list(bound.stream(QUESTION))
    assert without_ids(sum(chunks[1:], start=chunks[0])) == without_ids(message)


def test_calls_in_an_unknown_format_are_not_constrained():
    message = eager_chat("qwen3.5", "<tool_call>", max_tokens=6).bind_tools(TOOLS).invoke(QUESTION)
    assert message.text == "<tool_call>" * 6


def test_call_that_exceeds_max_tokens_is_refused(llm):
    with pytest.raises(MaxTokensError, match="shortest tool call .* Raise max_tokens"):
        llm.bind_tools(TOOLS, tool_choice="add").invoke(QUESTION, max_tokens=8)


def test_tool_with_a_schema_without_instances_is_refused(llm):
    loop = {"type": "object", "properties": {"a": {"$ref": "#"}}, "required": ["a"]}
    for choice in ("any", "auto"):
        with pytest.raises(SchemaError, match=r"of the tools \['loop'\] cannot be followed"):
            llm.bind_tools([{"name": "loop", "description": "", "parameters": loop}], tool_choice=choice).invoke("x")


def test_preferences_do_not_act_on_calls_unless_asked_to(llm):
    bound = llm.bind_tools(TOOLS, tool_choice="Say")
    plain, steered = (bound.invoke(QUESTION, steer_structured=steered) for steered in (False, True))
    assert plain.response_metadata["amulet"] == {"guidance_scale": 1.0, "num_streams": 1}
    assert steered.response_metadata["amulet"]["num_streams"] == 2
    check_calls(steered, names=["Say"])


def test_call_and_result_are_in_the_prompt_of_the_next_turn(llm):
    called = llm.bind_tools(TOOLS, tool_choice="now").invoke(QUESTION)
    history = [
        ("human", QUESTION),
        called,
        {"role": "tool", "content": "Noon.", "tool_call_id": called.tool_calls[0]["id"]},
    ]
    answer = llm.bind_tools(TOOLS).invoke(history, max_tokens=5)
    prompt = tokenizer_of("qwen2.5").decode(llm.prompt_streams(history)[0])
    assert answer.usage_metadata["output_tokens"] == 5
    assert json.dumps({"name": "now", "arguments": {}}) in prompt
    assert "<tool_response>\nNoon.\n</tool_response>" in prompt


@pytest.mark.parametrize("is_streamed", [False, True])
def test_call_of_a_tool_that_is_not_bound_is_invalid_and_says_so(llm, monkeypatch, is_streamed):
    whole = AnswerParser.finish
    wrong = '<tool_call>\n{"name": "temperature", "arguments": {}}\n</tool_call>'
    monkeypatch.setattr(AnswerParser, "push", lambda _parser, _text: Delta())
    monkeypatch.setattr(AnswerParser, "finish", lambda parser, _text: whole(parser, wrong))
    bound = llm.bind_tools(TOOLS)
    chunks = [*bound.stream(QUESTION, max_tokens=2)] if is_streamed else [bound.invoke(QUESTION, max_tokens=2)]
    message = sum(chunks[1:], start=chunks[0])
    [call] = message.invalid_tool_calls
    error = message.response_metadata["tool_errors"][call["id"]]
    assert (call["name"], message.tool_calls) == ("temperature", [])
    assert "'temperature', which is not bound" in error
    assert call["error"] == (None if is_streamed else error)
