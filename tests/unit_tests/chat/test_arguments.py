"""Call arguments, over fields, over the generation config; wrong ones are refused."""

import copy
from pathlib import Path

import pytest
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.load import dumps
from langchain_core.messages import HumanMessage
from langchain_core.runnables import ConfigurableField
from pydantic import ValidationError

from langchain_amulet import ChatAmulet, PreferenceMemory, RealignmentConfig, caller_warnings
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
    BRIEF,
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


@pytest.mark.parametrize(("name", "nearest"), [("temprature", "temperature"), ("max_token", "max_tokens")])
def test_unknown_constructor_argument_warns_with_the_nearest_valid_one(name, nearest):
    with pytest.warns(UserWarning, match=f"no argument {name!r}.*Did you mean {nearest!r}"):
        ChatAmulet(**{name: None})


def test_unknown_call_argument_warns_with_the_nearest_valid_one(llm):
    with pytest.warns(UserWarning, match="no argument 'max_token'.*Did you mean 'max_tokens'") as warned:
        llm.invoke(QUESTION, max_token=3)
    assert [warning.filename for warning in warned] == [__file__]


def test_warning_names_the_line_that_binds(llm):
    with pytest.warns(UserWarning, match="no argument 'max_token'") as warned:
        bound = llm.bind(stop=["x"]).bind(max_token=3)
    assert [warning.filename for warning in warned] == [__file__]
    assert bound.kwargs == {"stop": ["x"]}


def test_warning_names_code_beside_the_package_whose_path_begins_like_it():
    path = f"{Path(caller_warnings.__file__).parent}_demo/app.py"
    with pytest.warns(UserWarning, match="Beware") as warned:
        eval(compile("warn_caller('Beware')", path, "eval"), {"warn_caller": caller_warnings.warn_caller})  # noqa: S307
    assert warned[0].filename == path


@pytest.mark.parametrize("name", ["preferences", "prefrence", "user_preference"])
def test_misspelt_preference_is_an_error(llm, name):
    calls = [llm.invoke, llm.bind().invoke, lambda question, **given: llm.bind(**given).invoke(question)]
    calls += [lambda _, **given: llm.with_structured_output({"type": "object", "title": "x"}, **given)]
    calls += [
        lambda _, **given: llm.bind_tools([], **given),
        lambda question, **given: [*llm.stream(question, **given)],
    ]
    for call in calls:
        with pytest.raises(InvalidParameterError, match=f"no argument {name!r}. Did you mean 'preference'"):
            call(QUESTION, **{name: BRIEF})
    with pytest.raises(ValidationError, match="Did you mean 'preference'"):
        ChatAmulet(**{name: BRIEF})


class Recorder(BaseCallbackHandler):
    """Keeps what a callback is told about the start of a call."""

    def __init__(self) -> None:
        self.seen: list[str] = []

    def on_chat_model_start(self, *args, **kwargs):
        self.seen.append(repr((args, kwargs)))


@pytest.mark.filterwarnings("ignore:.*no argument 'instructions'")
async def test_unknown_argument_reaches_neither_callbacks_nor_cache_keys(llm, cache):
    recorder, given = Recorder(), {"instructions": BRIEF}
    config, model = {"callbacks": [recorder]}, llm.model_copy(update={"cache": cache})
    model.invoke(QUESTION, config, **given)
    list(model.stream(QUESTION, config, **given))
    await model.ainvoke(QUESTION, config, **given)
    model.bind(**given).invoke(QUESTION, config)
    model.batch([QUESTION], config, **given)
    model.generate([[HumanMessage(QUESTION)]], **given)
    [event async for event in model.astream_events(QUESTION, config, version="v2", include_names=["x"], **given)]
    assert len(recorder.seen) == 6
    assert BRIEF not in repr(recorder.seen) + repr(cache._cache)


def test_langchains_own_arguments_pass(llm, answers):
    named = {"run_name": "x", "tags": ["x"], "metadata": {"x": 1}, "ls_structured_output_format": None}
    assert llm.generate([[HumanMessage(QUESTION)]], **named).generations[0][0].text == answers["visitor"]


def test_preference_bound_to_a_configured_model_is_opaque_and_counts(llm, answers):
    fields = llm.configurable_fields(temperature=ConfigurableField(id="temperature"))
    for configured in (fields, fields.with_config(tags=["x"]), llm.with_config(tags=["x"]), llm.bind(stop=["x"])):
        bound = configured.bind(preference=BRIEF)
        assert BRIEF not in repr(bound)
        assert BRIEF not in dumps(bound)
        assert bound.invoke(QUESTION).text == answers["alice"]


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
        ({"top_logprobs": -3}, ValidationError, "whole number from 0 to 20"),
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
        ({"logprobs": True, "top_logprobs": 21}, InvalidParameterError, "whole number from 0 to 20; got 21"),
        ({"top_logprobs": True}, InvalidParameterError, "whole number from 0 to 20"),
    ],
)
def test_wrong_call_argument_is_refused(llm, arguments, error, remedy):
    with pytest.raises(error, match=remedy):
        llm.invoke(QUESTION, **arguments)


def test_prompt_longer_than_the_context_is_refused(llm):
    with pytest.raises(ContextLengthError, match="context holds 256.*Shorten the conversation"):
        llm.invoke("x" * 300)
