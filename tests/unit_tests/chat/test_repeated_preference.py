"""Preferences that prompts contain twice: which streams, and where they do not."""

import pytest
from langchain_core.messages import HumanMessage, SystemMessage

from langchain_amulet import ChatAmulet, Preference, RealignmentConfig
from langchain_amulet.exceptions import InvalidParameterError
from tests.fakes.chats import MODEL, QUESTION, TOKENIZER

BRIEF = Preference("Be brief.", opposite="Be long.")


def make(**fields) -> ChatAmulet:
    realignment = RealignmentConfig(3.0, contrast=fields.pop("contrast", "base"), repeat_preference=True)
    return ChatAmulet(model=MODEL, tokenizer=TOKENIZER, realignment=realignment, max_tokens=8, **fields)


def prompts(llm: ChatAmulet, *preferences: Preference) -> list[str]:
    return [str(TOKENIZER.decode(prompt)) for prompt in llm.prompt_streams(QUESTION, list(preferences))]


@pytest.mark.parametrize(
    ("contrast", "texts"),
    [("base", ["", "Be brief."]), ("neutral", ["Be brief.", "Answer in your usual way."]),
     ("opposite", ["Be brief.", "Be long."])],
)  # fmt: skip
def test_streams_repeat_what_they_contain_and_the_callers_prompt_nothing(contrast, texts):
    written = prompts(make(contrast=contrast), BRIEF)
    assert [prompt.count(text) if text else 0 for prompt, text in zip(written, texts, strict=True)] == [
        2 if text else 0 for text in texts
    ]


def test_repeating_equals_a_call_that_ends_with_the_preference():
    at_gain_1 = RealignmentConfig(1.0, repeat_preference=True)
    repeated = make().invoke("Why?", preference="Be brief.", realignment=at_gain_1)
    twice = make().invoke(
        "Why?\n\nBe brief.", preference="Be brief.", realignment=RealignmentConfig.classifier_free_guidance(1.0)
    )
    assert repeated.text == twice.text


TOOL = {"title": "look", "description": "Look it up.", "type": "object", "properties": {}}


@pytest.mark.parametrize(
    ("settings", "number"),
    [
        ({}, 2),
        ({"response_format": {"type": "json_object"}}, 1),
        ({"response_format": {"type": "json_object"}, "steer_structured": True}, 2),
        ({"tools": [TOOL]}, 1),
        ({"tools": [TOOL], "tool_choice": "none"}, 2),
    ],
)
def test_answers_that_may_be_structured_come_from_prompts_with_one_copy(settings, number):
    request = make()._prepare([HumanMessage(QUESTION)], None, {"preference": [BRIEF], **settings}).request
    written = [TOKENIZER.decode(prompt) for prompt in request.prompts]
    assert max(prompt.count(BRIEF.text) for prompt in written) == number


def test_a_preference_that_is_a_system_text_elsewhere_is_not_repeated():
    written = make().prompt_streams([SystemMessage(BRIEF.text), HumanMessage(QUESTION)], None)
    assert [TOKENIZER.decode(prompt).count(BRIEF.text) for prompt in written] == [1]


def test_scored_responses_follow_the_prompt_that_a_call_would_run():
    once = ChatAmulet(model=MODEL, tokenizer=TOKENIZER, realignment=RealignmentConfig.classifier_free_guidance(3.0))
    expected = once.token_logprobs(f"{QUESTION}\n\n{BRIEF.text}", "Yes.", [BRIEF])
    assert make().token_logprobs(QUESTION, "Yes.", [BRIEF]) == pytest.approx(expected)


def test_a_value_that_is_neither_true_nor_false_is_refused():
    with pytest.raises(InvalidParameterError, match="repeat_preference must be True or False, got 'yes'"):
        RealignmentConfig(repeat_preference="yes")
