"""Settings of calls: each is listed once, and merged once per call."""

import traceback
from dataclasses import fields

import pytest
from langchain_core.language_models import BaseChatModel

from langchain_amulet import ChatAmulet
from langchain_amulet.chat.settings import CALL_ARGUMENTS, CallSettings, answer_settings
from langchain_amulet.engine.params import SamplingParams
from langchain_amulet.exceptions import InvalidParameterError
from langchain_amulet.personalization import resolved
from langchain_amulet.preferences import as_preferences
from tests.fakes.chat_templates import byte_tokenizer
from tests.fakes.models import tiny_model

NO_CALL_SETTINGS = {
    "model",
    "tokenizer",
    "model_kwargs",
    "engine_config",
    "quantization",
    "pack_weights",
    "memory",
    "on_store_error",
    "streaming",
}
CALL_ONLY = {"tools", "tool_choice", "parallel_tool_calls", "response_format", "stream"}


@pytest.fixture(scope="module")
def llm() -> ChatAmulet:
    return ChatAmulet(model=tiny_model(), tokenizer=byte_tokenizer(), max_tokens=4)


def test_fields_of_the_model_and_call_arguments_agree():
    own = ChatAmulet.model_fields.keys() - BaseChatModel.model_fields.keys()
    assert own - NO_CALL_SETTINGS == CALL_ARGUMENTS - CALL_ONLY


def test_each_sampling_parameter_is_a_call_argument_by_itself():
    assert {each.name for each in fields(SamplingParams)} - {"stop_token_ids"} <= CALL_ARGUMENTS


def test_call_argument_overrides_the_field_and_none_does_not():
    settings = CallSettings.merge({"timeout": 1.0, "seed": 3}, {"timeout": 2.0, "seed": None})
    assert (settings.timeout, settings.sampling) == (2.0, {"seed": 3})


def test_stop_strings_of_the_model_are_not_named_like_those_of_a_call():
    settings = answer_settings(dict(ChatAmulet(stop=["END"])))
    assert (settings["default_stop"], "stop" in settings, "timeout" in settings) == (["END"], False, False)


@pytest.mark.parametrize(
    ("name", "wrong", "remedy"),
    [
        ("preference_template", 5, "must contain"),
        ("chat_template_kwargs", 5, "must be a Mapping, got int"),
        ("steer_structured", "no", "must be a bool, got str"),
        ("sanitize_control_tokens", "no", "must be a bool, got str"),
        ("ignore_unsupported_keywords", "no", "must be a bool, got str"),
        ("max_streams", 1, "at least 2"),
    ],
)
def test_arguments_of_the_wrong_type_are_refused(name, wrong, remedy):
    with pytest.raises(InvalidParameterError, match=f"{name} {remedy}|{name} .*{remedy}"):
        CallSettings.merge({}, {name: wrong})


def test_settings_are_merged_once_per_call(llm, monkeypatch):
    merged = []
    merge = CallSettings.merge
    monkeypatch.setattr(CallSettings, "merge", lambda *args: merged.append(args) or merge(*args))
    llm.invoke("Hi", preference="Be brief.", temperature=0.5)
    assert len(merged) == 1


def test_preferences_are_converted_once_per_call(llm, monkeypatch):
    converted = []
    monkeypatch.setattr(resolved, "as_preferences", lambda value: converted.append(value) or as_preferences(value))
    llm.invoke("Hi", preference="Be brief.")
    assert [value for value in converted if value] == ["Be brief."]


def test_max_streams_and_template_may_be_set_per_call(llm):
    shouted = llm.invoke("Hi", preference="Be brief.", preference_template="{preferences} NOW!")
    assert (
        shouted.usage_metadata["input_token_details"]["preference_streams"]
        > (llm.invoke("Hi", preference="Be brief.").usage_metadata["input_token_details"]["preference_streams"])
    )


def test_settings_that_were_refused_can_be_shown():
    with pytest.raises(InvalidParameterError) as refused:
        CallSettings.merge({}, {"stop": [1]})
    frames = [frame.f_locals for frame, _ in traceback.walk_tb(refused.tb)]
    [settings] = {
        id(local["self"]): local["self"] for local in frames if isinstance(local.get("self"), CallSettings)
    }.values()
    assert "stop=[1]" in repr(settings)
