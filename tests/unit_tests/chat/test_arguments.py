"""Call arguments, over fields, over the generation config; wrong ones are refused."""

import copy

import pytest
from pydantic import ValidationError

from langchain_amulet import ChatAmulet, PreferenceMemory, RealignmentConfig
from langchain_amulet.chat.settings import CallSettings
from langchain_amulet.engine.params import Request, SamplingParams
from langchain_amulet.exceptions import (
    ContextLengthError,
    InvalidParameterError,
    PreferenceError,
    StoreTypeError,
)
from tests.fakes.chats import (
    ALICE,
    MODEL,
    QUESTION,
    SHORT,
    TOKENIZER,
    expected_answers,
    short_llm,
    users_memory,
)


@pytest.fixture
def memory() -> PreferenceMemory:
    return users_memory()


@pytest.fixture
def llm(memory) -> ChatAmulet:
    return short_llm(memory)


@pytest.fixture(scope="module")
def answers() -> dict[str, str]:
    return expected_answers()


def test_calls_settings_replace_the_fields(llm, answers):
    assert llm.invoke(QUESTION, max_tokens=3).usage_metadata["output_tokens"] == 3
    assert llm.invoke(QUESTION, ALICE, realignment=RealignmentConfig(guidance_scale=0)).text == answers["visitor"]
    sampled = [llm.invoke(QUESTION, temperature=2.0, seed=seed).text for seed in (1, 1, 2)]
    assert sampled[0] == sampled[1] != sampled[2]
    assert llm.invoke(QUESTION, temperature=None, max_tokens=None).text == answers["visitor"]


def test_generation_config_serves_where_nothing_is_said():
    model = copy.deepcopy(MODEL)
    model.generation_config.update(do_sample=True, temperature=1.5, top_k=40, max_new_tokens=7, eos_token_id=[2, 5])
    params = CallSettings.merge({}, {}).sampling_params(model.generation_config)
    assert (params.temperature, params.top_k, params.max_tokens, params.stop_token_ids) == (
        1.5,
        40,
        7,
        frozenset({2, 5}),
    )
    overridden = CallSettings.merge({"temperature": 2}, {"temperature": 0})
    assert overridden.sampling_params(model.generation_config).temperature == 0
    model.generation_config.temperature = None
    assert CallSettings.merge({}, {}).sampling_params(model.generation_config).temperature == 1


def test_stop_strings_end_the_answer(llm, answers):
    stop = answers["alice"][4:6]
    message = llm.invoke(QUESTION, ALICE, stop=[stop])
    assert message.text == answers["alice"][: answers["alice"].index(stop)]
    assert message.response_metadata["finish_reason"] == "stop"
    assert message.usage_metadata["output_tokens"] < 12
    with_field = llm.model_copy(update={"stop": [stop]})
    assert with_field.invoke(QUESTION, ALICE).text == message.text
    assert with_field.invoke(QUESTION, ALICE, stop=[]).text == answers["alice"]


def test_end_of_turn_token_ends_the_answer(llm):
    request = Request(llm.prompt_streams(QUESTION), sampling=SamplingParams(max_tokens=12))
    tokens = list(llm.engine.submit(request))
    model = copy.deepcopy(MODEL)
    model.generation_config.eos_token_id = tokens[4]
    message = ChatAmulet(model=model, tokenizer=TOKENIZER, **SHORT).invoke(QUESTION)
    assert message.response_metadata["finish_reason"] == "stop"
    assert message.usage_metadata["output_tokens"] == tokens.index(tokens[4]) + 1


# Construction, sharing, closing


@pytest.mark.parametrize(
    ("name", "nearest"), [("temprature", "temperature"), ("max_token", "max_tokens"), ("preferences", "preference")]
)
def test_unknown_constructor_argument_warns_with_the_nearest_valid_one(name, nearest):
    with pytest.warns(UserWarning, match=f"no argument {name!r}.*Did you mean {nearest!r}"):
        ChatAmulet(**{name: None})


def test_unknown_call_argument_warns_with_the_nearest_valid_one(llm):
    with pytest.warns(UserWarning, match="no argument 'max_token'.*Did you mean 'max_tokens'"):
        llm.invoke(QUESTION, max_token=3)


@pytest.mark.parametrize(
    ("arguments", "error", "remedy"),
    [
        ({"temperature": -1.0}, ValidationError, "temperature must be at least 0"),
        ({"top_p": 2.0}, ValidationError, "where 1 turns it off"),
        ({"max_tokens": 0}, ValidationError, "max_tokens must be a whole number, at least 1"),
        ({"max_streams": 1}, ValidationError, "greater than or equal to 2"),
        ({"preference": 7}, PreferenceError, "Give a string"),
        ({"memory": 7}, StoreTypeError, "PreferenceMemory"),
        ({"realignment": 2.0}, ValidationError, "RealignmentConfig"),
        ({"stop": [""]}, ValidationError, "list of non-empty strings"),
    ],
)
def test_wrong_constructor_argument_is_refused(arguments, error, remedy):
    with pytest.raises(error, match=remedy):
        ChatAmulet(**arguments)


@pytest.mark.parametrize(
    ("arguments", "error", "remedy"),
    [
        ({"temperature": -1.0}, InvalidParameterError, "temperature must be at least 0"),
        ({"preference": 7}, PreferenceError, "Give a string"),
        ({"realignment": 0}, InvalidParameterError, "RealignmentConfig"),
        ({"stop": "END"}, InvalidParameterError, "list of non-empty strings"),
        ({"stop": [""]}, InvalidParameterError, "list of non-empty strings"),
    ],
)
def test_wrong_call_argument_is_refused(llm, arguments, error, remedy):
    with pytest.raises(error, match=remedy):
        llm.invoke(QUESTION, **arguments)


def test_prompt_longer_than_the_context_is_refused(llm):
    with pytest.raises(ContextLengthError, match="context holds 256.*Shorten the conversation"):
        llm.invoke("x" * 300)
