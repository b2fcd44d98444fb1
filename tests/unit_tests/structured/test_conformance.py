"""300 schemas with a tiny random model, with preferences and guards: answers end in time and are valid (jsonschema)."""

import asyncio
import json
from typing import Any, NamedTuple

import pytest
import torch
from jsonschema import Draft202012Validator
from langchain_core.messages import AIMessage
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedModel

from langchain_amulet import ChatAmulet, Preference, RealignmentConfig
from langchain_amulet.engine.config import EngineConfig
from langchain_amulet.engine.engine import Engine
from langchain_amulet.exceptions import AmuletError, MaxTokensError, SchemaError
from tests.fakes.chat_templates import byte_tokenizer
from tests.fakes.judge import exact, fault_of
from tests.fakes.models import GROUPED
from tests.fakes.schema_parts import INTEGER, closed, text
from tests.fakes.schemas import BAD_SCHEMAS, KINDS, NUM_PER_KIND, BadSchema, NamedSchema, corpus

QUESTION = "Tell me."
NUM_BY_DEFAULT = 30
NUM_TOOLS = 10
MOST_CUT = 0.02  # of the answers may reach max_tokens before their end
STEERING = {"guidance_scale": 3.0, "plausibility": 0.1, "max_kl": 2.0}
PREFERENCES = [Preference("Answer cheerfully."), Preference("Write like a lawyer.", -0.5)]
TOKENIZER = byte_tokenizer()
ENGINE = EngineConfig(max_rows=3 * NUM_BY_DEFAULT, max_waiting=NUM_PER_KIND * len(KINDS))


def long_context_model() -> PreTrainedModel:
    """One layer, for speed: grammars are independent of the model's depth."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = LlamaConfig(**{**GROUPED, "max_position_embeddings": 2048, "num_hidden_layers": 1})
        return AutoModelForCausalLM.from_config(config).to(torch.float32).eval()


MODEL = long_context_model()


def some_llm(**fields) -> ChatAmulet:
    fields = {"realignment": RealignmentConfig(**STEERING), "max_tokens": 512, "temperature": 1.0, **fields}
    return ChatAmulet(model=MODEL, tokenizer=TOKENIZER, preference=PREFERENCES, engine_config=ENGINE, **fields)


def response_format(schema: Any) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}}


def supported() -> list[NamedSchema]:
    return [case for case in corpus() if not case.has_unsupported_part]


def spread(cases: list[NamedSchema], num: int) -> list[NamedSchema]:
    """Return `num` cases, the same number of each kind, since they are sorted by kind."""
    return [cases[i * len(cases) // num] for i in range(num)]


# Validation


class Outcome(NamedTuple):
    name: str
    is_cut: bool
    fault: str | None
    text: str

    def __str__(self) -> str:
        return f"{self.name}: {self.fault or 'cut'}: {self.text[:200]!r}"


def judge(case: NamedSchema, message: AIMessage | BaseException) -> Outcome:
    if isinstance(message, BaseException):
        return Outcome(case.name, is_cut=False, fault=repr(message), text="")
    if message.response_metadata["finish_reason"] == "length":
        return Outcome(case.name, is_cut=True, fault=None, text=message.text)
    try:
        fault = fault_of(json.loads(message.text, parse_float=exact), case.schema)
    except ValueError as error:
        fault = f"not JSON: {error}"
    return Outcome(case.name, is_cut=False, fault=fault, text=message.text)


async def answers(cases: list[NamedSchema], *, is_steered: bool | None = None) -> list[AIMessage | BaseException]:
    """Answer in one batch. By default, preferences and guards act within the JSON of every other answer."""
    llm = some_llm()
    bound = [
        llm.bind(
            response_format=response_format(case.schema),
            steer_structured=number % 2 == 0 if is_steered is None else is_steered,
            seed=number,
        )
        for number, case in enumerate(cases)
    ]
    return await asyncio.gather(*(runnable.ainvoke(QUESTION) for runnable in bound), return_exceptions=True)


# The corpus


def test_corpus_has_300_different_schemas_of_all_kinds():
    cases = corpus()
    assert len({case.name for case in cases}) == len({json.dumps(case.schema) for case in cases}) == 300
    assert {case.kind for case in spread(cases, NUM_BY_DEFAULT)} == set(KINDS)
    assert [case.schema for case in corpus()] == [case.schema for case in cases]


def test_corpus_is_valid_json_schema():
    for case in corpus():
        Draft202012Validator.check_schema(case.schema)


# Structured output


@pytest.mark.slow
@pytest.mark.timeout(900)
async def test_answers_to_schemas_end_in_time_and_validate(is_campaign):
    cases = supported() if is_campaign else spread(supported(), NUM_BY_DEFAULT)
    outcomes = [judge(case, message) for case, message in zip(cases, await answers(cases), strict=True)]
    faults = [str(outcome) for outcome in outcomes if outcome.fault]
    cut = [str(outcome) for outcome in outcomes if outcome.is_cut]
    assert not faults, f"{len(faults)} of {len(cases)} are wrong:\n" + "\n".join(faults)
    assert len(cut) <= MOST_CUT * len(cases), f"{len(cut)} of {len(cases)} did not end:\n" + "\n".join(cut)


async def test_recursion_that_only_null_can_end_ends():
    [case] = [case for case in corpus() if case.name == "recursive: linked list"]
    [message] = await answers([case])
    assert judge(case, message).fault is None


async def test_guidance_acts_within_structure_only_if_asked_to():
    case = NamedSchema("text", "string", closed({"words": text(minLength=40, maxLength=60)}))
    steered, unsteered = [(await answers([case], is_steered=is_steered))[0] for is_steered in (True, False)]
    assert isinstance(steered, AIMessage)
    assert isinstance(unsteered, AIMessage)
    assert steered.text != unsteered.text
    assert steered.response_metadata["amulet"]["num_streams"] == len(PREFERENCES) + 1
    for message in (steered, unsteered):
        assert judge(case, message) == (case.name, False, None, message.text)


# Forced tools


def as_tool(number: int, case: NamedSchema) -> dict[str, Any]:
    function = {"name": f"tool_{number}", "description": case.name, "parameters": case.schema}
    return {"type": "function", "function": function}


async def call_forced(number: int, case: NamedSchema) -> AIMessage:
    llm = some_llm(realignment=RealignmentConfig(**{**STEERING, "plausibility": 0.5}), seed=number)
    bound = llm.bind_tools([as_tool(number, case)], tool_choice="any", steer_structured=number % 2 == 0)
    return await bound.ainvoke(QUESTION)


def fault_of_call(number: int, case: NamedSchema, message: AIMessage | BaseException) -> str | None:
    if isinstance(message, BaseException):
        return f"{case.name}: {message!r}"
    names = [call["name"] for call in message.tool_calls]
    if names != [f"tool_{number}"] or message.invalid_tool_calls:
        return f"{case.name}: calls {names}, invalid {message.invalid_tool_calls}, text {message.text[:100]!r}"
    arguments = json.loads(json.dumps(message.tool_calls[0]["args"]), parse_float=exact)
    fault = fault_of(arguments, case.schema)
    return fault and f"{case.name}: {fault}"


@pytest.mark.slow
async def test_forced_tool_is_always_called_with_valid_arguments():
    objects = [case for case in corpus() if case.schema.get("type") == "object" and not case.has_unsupported_part]
    cases = list(enumerate(spread(objects, NUM_TOOLS)))
    messages = await asyncio.gather(*(call_forced(*case) for case in cases), return_exceptions=True)
    faults = [fault_of_call(*case, message) for case, message in zip(cases, messages, strict=True)]
    assert not any(faults), "\n".join(filter(None, faults))


# Refusals


@pytest.fixture
def no_token(monkeypatch):
    """Fail the test if a request reaches the engine."""

    def submit(*_):
        pytest.fail("a request was submitted that should have been refused")

    monkeypatch.setattr(Engine, "_enqueue", submit)


@pytest.mark.usefixtures("no_token")
@pytest.mark.parametrize("bad", BAD_SCHEMAS, ids=lambda bad: bad.name)
def test_bad_schema_is_refused_before_any_token(bad: BadSchema):
    with pytest.raises(SchemaError, match=f"(?is){bad.words}"):
        some_llm().bind(response_format=response_format(bad.schema)).invoke(QUESTION)


@pytest.mark.usefixtures("no_token")
async def test_bad_schema_is_refused_in_async_calls_and_streams():
    bound = some_llm().bind(response_format=response_format({"enum": []}))
    with pytest.raises(SchemaError, match="enum|empty"):
        await bound.ainvoke(QUESTION)
    with pytest.raises(SchemaError, match="enum|empty"):
        _ = list(bound.stream(QUESTION))


@pytest.mark.usefixtures("no_token")
def test_bad_parameters_of_a_tool_are_refused_before_any_token():
    tool = as_tool(0, NamedSchema("bad", "object", closed({}, ["missing"])))
    with pytest.raises(SchemaError, match="missing"):
        some_llm().bind_tools([tool], tool_choice="any").invoke(QUESTION)


@pytest.mark.usefixtures("no_token")
def test_max_tokens_too_small_for_the_structure_is_refused():
    schema = closed({f"a_property_with_a_long_name_{i}": INTEGER for i in range(10)})
    with pytest.raises(MaxTokensError, match="max_tokens"):
        some_llm(max_tokens=8).bind(response_format=response_format(schema)).invoke(QUESTION)


@pytest.mark.parametrize("error", [SchemaError, MaxTokensError])
def test_refusals_are_value_errors(error):
    assert issubclass(error, AmuletError)
    assert issubclass(error, ValueError)


async def test_refusal_does_not_affect_other_answers():
    good, bad = NamedSchema("good", "plain", closed({"n": INTEGER})), NamedSchema("bad", "plain", {"enum": []})
    first, refused, last = await answers([good, bad, good])
    assert isinstance(refused, SchemaError)
    assert [judge(good, message).fault for message in (first, last)] == [None, None]
