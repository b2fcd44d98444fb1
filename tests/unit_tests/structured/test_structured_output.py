"""Structured output: every method, kind of schema and kind of call gives objects that follow the schema."""

import json
from typing import Annotated, Literal, TypedDict, cast

import jsonschema
import pydantic.v1
import pytest
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.messages import AIMessage
from langchain_core.output_parsers import JsonOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import Runnable
from pydantic import BaseModel, Field

from langchain_amulet import ChatAmulet
from langchain_amulet.exceptions import MaxTokensError, SchemaError
from langchain_amulet.structured.output_spec import SCHEMA_PROMPT, as_openai_tool
from langchain_amulet.structured.structured_output import json_schema_of
from tests.fakes.roomy import PREFERENCE, roomy_chat, tokenizer_of

QUESTION = "Tell me."
METHODS = ("json_schema", "function_calling", "json_mode")


class Joke(BaseModel):
    """A joke."""

    setup: str = Field(max_length=8)
    rating: Literal["good", "bad"]
    laughs: int | None = Field(default=None, ge=0, le=9)


class OldJoke(pydantic.v1.BaseModel):
    """A joke."""

    setup: str = pydantic.v1.Field(max_length=8)
    laughs: Literal[1, 2] = 1


class TypedJoke(TypedDict):
    """A joke."""

    setup: Annotated[Literal["Why?", "Who?"], ..., "How it begins"]
    is_good: bool


DICT = {
    "title": "joke",
    "description": "A joke.",
    "type": "object",
    "properties": {
        "setup": {"type": "string", "maxLength": 8},
        "tags": {"type": "array", "items": {"enum": ["a", "b"]}},
    },
    "required": ["setup", "tags"],
}
RECURSIVE = {
    "title": "tree",
    "description": "A tree.",
    "$defs": {
        "node": {
            "type": "object",
            "properties": {
                "leaf": {"type": "boolean"},
                "children": {"type": "array", "items": {"$ref": "#/$defs/node"}, "maxItems": 2},
            },
            "required": ["leaf", "children"],
        }
    },
    "type": "object",
    "properties": {"root": {"$ref": "#/$defs/node"}},
    "required": ["root"],
}
SCHEMAS = {"pydantic": Joke, "pydantic 1": OldJoke, "TypedDict": TypedJoke, "JSON schema": DICT, "recursive": RECURSIVE}


@pytest.fixture(scope="module")
def llm() -> ChatAmulet:
    return roomy_chat("qwen2.5", max_tokens=80)


def check(answer, schema) -> None:
    """Check that the answer is an instance of the class, or a dict that follows the schema."""
    if isinstance(schema, type) and issubclass(schema, BaseModel | pydantic.v1.BaseModel):
        assert isinstance(answer, schema)
    else:
        assert isinstance(answer, dict)
        jsonschema.validate(answer, json_schema_of(schema))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("schema", SCHEMAS)
def test_every_method_gives_an_object_of_every_kind_of_schema(llm, schema, method):
    check(llm.with_structured_output(SCHEMAS[schema], method=method).invoke(QUESTION), SCHEMAS[schema])


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("strict", [True, False])
def test_every_method_accepts_strict(llm, method, strict):
    check(llm.with_structured_output(TypedJoke, method=method, strict=strict).invoke(QUESTION), TypedJoke)


@pytest.mark.parametrize("method", METHODS)
async def test_invoke_stream_and_batch_give_the_same_object(llm, method):
    runnable = llm.with_structured_output(Joke, method=method)
    expected = runnable.invoke(QUESTION)
    assert await runnable.ainvoke(QUESTION) == expected
    assert [*runnable.stream(QUESTION)][-1] == expected
    assert [chunk async for chunk in runnable.astream(QUESTION)][-1] == expected
    assert runnable.batch([QUESTION]) == [expected]


@pytest.mark.parametrize("method", METHODS)
def test_include_raw_gives_the_message_and_the_object(llm, method):
    answer = llm.with_structured_output(DICT, method=method, include_raw=True).invoke(QUESTION)
    assert answer.keys() == {"raw", "parsed", "parsing_error"}
    assert answer["parsing_error"] is None
    check(answer["parsed"], DICT)
    assert isinstance(answer["raw"], AIMessage)
    finish = {"function_calling": "tool_calls"}.get(method, "stop")
    # An answer of exactly max_tokens tokens holds a complete object too.
    assert answer["raw"].response_metadata["finish_reason"] in {finish, "length"}
    written = answer["raw"].tool_calls[0]["args"] if answer["raw"].tool_calls else json.loads(answer["raw"].text)
    assert written == answer["parsed"]


class Picky(BaseModel):
    """Its validator refuses every object; the JSON schema does not show that."""

    number: int

    @pydantic.field_validator("number")
    @classmethod
    def refuse(cls, value: int) -> int:
        msg = f"{value} is not accepted"
        raise ValueError(msg)


@pytest.mark.parametrize("method", METHODS)
def test_object_that_its_class_refuses_is_an_error_or_a_parsing_error(llm, method):
    raw = llm.with_structured_output(Picky, method=method, include_raw=True).invoke(QUESTION, max_tokens=90)
    assert raw["parsed"] is None
    assert "is not accepted" in str(raw["parsing_error"])
    with pytest.raises(ValueError, match="is not accepted"):
        llm.with_structured_output(Picky, method=method).invoke(QUESTION, max_tokens=90)


def test_unknown_method_is_refused_with_the_known_ones(llm):
    with pytest.raises(SchemaError, match="'json_schema', 'function_calling', 'json_mode'.*got 'grammar'"):
        llm.with_structured_output(Joke, method="grammar")


@pytest.mark.parametrize("schema", [None, 3, "joke", int])
@pytest.mark.parametrize("method", ["json_schema", "json_mode", "function_calling"])
def test_invalid_schema_is_refused(llm, method, schema):
    with pytest.raises(SchemaError, match="a pydantic class, a TypedDict or a JSON schema"):
        llm.with_structured_output(schema, method=method)


def test_schema_without_instances_is_refused_before_the_first_token(llm):
    endless = {"title": "x", "type": "object", "properties": {"x": {"$ref": "#"}}, "required": ["x"]}
    with pytest.raises(SchemaError, match="of the response format 'x' cannot be followed"):
        llm.with_structured_output(endless).invoke(QUESTION)


def test_object_that_exceeds_max_tokens_is_refused(llm):
    with pytest.raises(MaxTokensError, match="Raise max_tokens"):
        llm.with_structured_output(Joke).invoke(QUESTION, max_tokens=10)


@pytest.mark.parametrize("max_tokens", [32, 33, 40, 57])
def test_long_strings_end_within_max_tokens(llm, max_tokens):
    schema = {
        "type": "object",
        "properties": {"a": {"type": "string"}, "b": {"type": "string"}},
        "required": ["a", "b"],
    }
    answer = llm.with_structured_output({"title": "pair", **schema}).invoke(QUESTION, max_tokens=max_tokens)
    jsonschema.validate(answer, schema)


# The prompt


class Prompts(BaseCallbackHandler):
    """Records the arguments of model calls."""

    def __init__(self) -> None:
        self.options: list[dict] = []

    def on_chat_model_start(self, *_args, **kwargs):
        self.options.append(kwargs["options"])


def prompt_of(llm: ChatAmulet, runnable: Runnable, monkeypatch) -> str:
    """Return the base prompt of a call."""
    prompts = []
    submit = type(llm.engine).submit
    monkeypatch.setattr(
        type(llm.engine),
        "submit",
        lambda self, request: prompts.append(request.prompts) or submit(self, request),
    )
    runnable.invoke(QUESTION, preference=None)
    return cast("str", tokenizer_of("qwen2.5").decode(prompts[0][0]))


def test_schema_is_in_the_prompt_except_in_json_mode(llm, monkeypatch):
    prompts = {
        method: prompt_of(llm, llm.with_structured_output(DICT, method=method), monkeypatch) for method in METHODS
    }
    assert SCHEMA_PROMPT.format(schema=json.dumps(DICT)) in prompts["json_schema"]
    assert '"setup"' not in prompts["json_mode"]
    assert json.dumps(as_openai_tool(DICT)["function"]) in prompts["function_calling"]


@pytest.mark.parametrize("method", METHODS)
def test_traces_hold_the_method_and_the_schema(llm, method):
    prompts = Prompts()
    llm.with_structured_output(Joke, method=method).invoke(QUESTION, {"callbacks": [prompts]})
    traced = prompts.options[0]["ls_structured_output_format"]
    assert traced["kwargs"]["method"] == method
    assert traced["schema"]["title"] == "Joke"


# Within chains and agents


def test_chain_ends_in_objects(llm):
    chain = ChatPromptTemplate.from_template("Tell a joke about {topic}.") | llm.with_structured_output(Joke)
    check(chain.invoke({"topic": "cats"}), Joke)


def test_json_object_format_gives_any_object_or_one_of_a_schema(llm):
    free = llm.bind(response_format={"type": "json_object"}) | JsonOutputParser()
    assert isinstance(free.invoke(QUESTION), dict)
    constrained = llm.bind(response_format={"type": "json_object", "schema": DICT}) | JsonOutputParser()
    check(constrained.invoke(QUESTION), DICT)


RESPONSE_FORMAT = {"type": "json_schema", "json_schema": {"name": "joke", "strict": True, "schema": DICT}}


def look_up(word: str) -> str:
    """Look a word up."""


@pytest.mark.parametrize("family", ["smollm2", "qwen2.5", "llama3.1"])
@pytest.mark.parametrize("seed", [0, 1])
def test_tools_beside_a_response_format_give_a_call_or_an_object(family, seed):
    """Agents call with both if they have tools and a response format."""
    bound = roomy_chat(family, max_tokens=80).bind_tools([look_up], strict=True, response_format=RESPONSE_FORMAT)
    message = bound.invoke(QUESTION, temperature=1.0, seed=seed)
    assert message.invalid_tool_calls == []
    if message.tool_calls:
        assert message.text == ""
        assert [(call["name"], set(call["args"])) for call in message.tool_calls] == [("look_up", {"word"})]
    else:
        check(json.loads(message.text), DICT)


def test_choice_decides_between_tools_and_a_response_format(llm):
    options = {"response_format": RESPONSE_FORMAT}
    assert llm.bind_tools([look_up], tool_choice="any", **options).invoke(QUESTION).tool_calls
    check(json.loads(llm.bind_tools([look_up], tool_choice="none", **options).invoke(QUESTION).text), DICT)


def test_preference_is_in_the_prompt_and_the_object_follows_the_schema(llm):
    raw = llm.with_structured_output(Joke, include_raw=True).invoke(QUESTION, preference=PREFERENCE)
    check(raw["parsed"], Joke)
    assert raw["raw"].response_metadata["amulet"] == {"guidance_scale": 1.0, "num_streams": 1}
    steered = llm.with_structured_output(Joke, include_raw=True, steer_structured=True).invoke(QUESTION)
    check(steered["parsed"], Joke)
    assert steered["raw"].response_metadata["amulet"]["guidance_scale"] == 3.0


@pytest.mark.parametrize("method", METHODS)
def test_object_follows_reasoning_that_the_prompt_has_opened(method):
    runnable = roomy_chat("thinking", max_tokens=90).with_structured_output(Joke, method=method, include_raw=True)
    answer = runnable.invoke(QUESTION)
    assert answer["parsing_error"] is None
    check(answer["parsed"], Joke)
    assert "<think>" not in answer["raw"].text
