"""Answers that are steered away from a neutral instruction or an opposite, from the call to the message."""

import asyncio
from dataclasses import astuple
from typing import Any

import pytest
import torch
from langchain_core.messages import HumanMessage

from langchain_amulet import ChatAmulet, EngineConfig, Preference, RealignmentConfig
from langchain_amulet.engine.params import Request, SamplingParams
from langchain_amulet.exceptions import InvalidParameterError
from langchain_amulet.realignment import StreamCoefficients
from langchain_amulet.stream_plan import NEUTRAL_INSTRUCTION
from tests.fakes.chat_templates import byte_tokenizer
from tests.fakes.chats import BRIEF, CHEERFUL, MODEL, QUESTION, TOKENIZER
from tests.fakes.engines import wait_until
from tests.fakes.models import tiny_model
from tests.fakes.roomy import roomy_model

LONG = "Ramble on."
PREFERENCE = Preference(BRIEF, opposite=LONG)
TWO = [PREFERENCE, Preference(CHEERFUL, 0.5, opposite="Groan.")]
SCHEMA = {"title": "Answer", "type": "object", "properties": {"text": {"type": "string"}}, "required": ["text"]}


def chat(contrast="opposite", scale: float = 3.0, plausibility: float = 0.0, **fields) -> ChatAmulet:
    realignment = RealignmentConfig(scale, plausibility=plausibility, contrast=contrast)
    settings = {"model": MODEL, "tokenizer": TOKENIZER, "max_tokens": 12, "temperature": 0, "realignment": realignment}
    return ChatAmulet(**{**settings, **fields})


def prompts(llm: ChatAmulet, preference) -> list[str]:
    return [str(TOKENIZER.decode(ids)) for ids in llm.prompt_streams(QUESTION, preference)]


def own_prompt(llm: ChatAmulet) -> list[int]:
    [ids] = llm.prompt_streams(QUESTION, None)
    return ids


# Which prompts run


def test_streams_of_an_opposite_contain_the_preference_and_the_opposite():
    preferred, contrasted = prompts(chat(), PREFERENCE)
    assert (BRIEF in preferred, LONG in preferred) == (True, False)
    assert (BRIEF in contrasted, LONG in contrasted) == (False, True)


def test_streams_of_a_neutral_contrast_contain_the_preference_and_the_neutral_instruction():
    llm = chat("neutral")
    preferred, contrasted = prompts(llm, PREFERENCE)
    assert contrasted == preferred.replace(BRIEF, NEUTRAL_INSTRUCTION)


@pytest.mark.parametrize("opposite", ["", "<|im_end|>", " <|im_start|> "])
def test_opposite_of_control_tokens_alone_is_none(opposite):
    preference = Preference(BRIEF, opposite=opposite)
    assert prompts(chat(), preference) == prompts(chat("base"), preference)
    dislike = Preference(BRIEF, -1.0, opposite=opposite)
    assert prompts(chat(), dislike) == prompts(chat("base"), dislike)


def test_control_tokens_are_removed_from_opposites():
    dirty = Preference(BRIEF, opposite=f"<|im_end|>{LONG}<|im_start|>")
    assert prompts(chat(), dirty) == prompts(chat(), PREFERENCE)


# What is answered


@pytest.mark.parametrize("contrast", ["base", "neutral", "opposite"])
@pytest.mark.parametrize("architecture", ["llama", "qwen2"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_answer_equals_transformers_guidance_with_the_contrast_as_negative_prompt(contrast, architecture, dtype):
    model: Any = tiny_model(architecture, seed=5, dtype=dtype)
    llm = chat(contrast, model=model, max_tokens=24)
    streams = llm.prompt_streams(QUESTION, PREFERENCE)
    pref, away = streams[::-1] if contrast == "base" else streams
    output = model.generate(
        torch.tensor([pref]),
        guidance_scale=3.0,
        negative_prompt_ids=torch.tensor([away]),
        max_new_tokens=24,
        do_sample=False,
    )
    expected = TOKENIZER.decode(output[0, len(pref) :], skip_special_tokens=True)
    assert llm.invoke(QUESTION, preference=PREFERENCE).text == expected


def test_contrasts_differ_and_only_beyond_gain_one():
    def answers(scale: float) -> set[str]:
        llms = [chat(contrast, scale, max_tokens=24) for contrast in ("base", "neutral", "opposite")]
        return {llm.invoke(QUESTION, preference=PREFERENCE).text for llm in llms}

    assert (len(answers(3.0)), len(answers(1.0)), len(answers(0.6))) == (3, 1, 1)


async def test_answers_of_all_contrasts_at_once_equal_those_one_by_one():
    calls = [
        {"preference": preference, "realignment": RealignmentConfig(3.0, plausibility=beta, contrast=contrast)}
        for contrast in ("base", "neutral", "opposite")
        for preference in (PREFERENCE, TWO, Preference(BRIEF, -0.5, opposite=LONG), None)
        for beta in (0.0, 0.1)
    ]
    llm = chat(repetition_penalty=1.2)
    together = await asyncio.gather(*(llm.ainvoke(QUESTION, **call) for call in calls))
    assert [each.text for each in together] == [llm.invoke(QUESTION, **call).text for call in calls]


def test_structured_answers_are_those_of_plain_prompting():
    settings = {"response_format": {"type": "json_schema", "json_schema": {"name": "answer", "schema": SCHEMA}}}
    llm = chat(model=roomy_model(), preference=TWO, max_tokens=60)
    default, steered = (llm.invoke(QUESTION, steer_structured=each, **settings) for each in (False, True))
    prompted = llm.invoke(QUESTION, preference=[BRIEF, CHEERFUL], realignment=RealignmentConfig(1.0), **settings)
    assert default.text == prompted.text != steered.text
    assert default.response_metadata["amulet"] == prompted.response_metadata["amulet"]


def test_streams_of_zero_coefficient_change_no_token():
    model = tiny_model("qwen2", seed=5, dtype=torch.float32)
    llm = chat(model=model, max_tokens=30, plausibility=0.1)
    request = llm._prepare([HumanMessage(QUESTION)], None, {"preference": PREFERENCE}).request
    watched = Request(
        [*request.prompts, own_prompt(llm)],
        coefficients=StreamCoefficients(*((*each, 0.0) for each in astuple(request.mixture))),
        realignment=request.realignment,
        sampling=request.sampling,
    )
    assert list(llm.engine.submit(watched)) == list(llm.engine.submit(request))


# What is reported


@pytest.mark.parametrize("scale", [1.0, 3.0])
def test_usage_tells_the_callers_own_prompt_apart_from_the_streams(scale):
    llm = chat(scale=scale)
    usage = llm.invoke(QUESTION, preference=PREFERENCE).usage_metadata
    streams = llm.prompt_streams(QUESTION, PREFERENCE)
    assert usage["input_tokens"] == len(own_prompt(llm))
    assert usage["input_token_details"] == {"preference_streams": sum(map(len, streams))}


def test_metadata_tells_a_contrast_other_than_the_base_where_streams_are_combined():
    told = chat(plausibility=0.1).invoke(QUESTION, preference=PREFERENCE).response_metadata["amulet"]
    assert told == {"guidance_scale": 3.0, "num_streams": 2, "contrast": "opposite", "plausibility": 0.1}
    for llm, preference in ((chat("base"), PREFERENCE), (chat(), None), (chat(scale=1.0), PREFERENCE)):
        assert "contrast" not in llm.invoke(QUESTION, preference=preference).response_metadata["amulet"]


# Settings, caches and privacy


def test_cache_keys_and_saved_copies_contain_the_contrast():
    keys = {chat(contrast)._get_llm_string() for contrast in ("base", "neutral", "opposite")}
    assert len(keys) == 3
    copied = chat(realignment={"guidance_scale": 3.0, "contrast": "opposite"})
    assert copied.realignment == RealignmentConfig(3.0, contrast="opposite")


@pytest.mark.parametrize("contrast", ["opposites", None, 1, []])
def test_unknown_contrast_is_refused(contrast):
    with pytest.raises(InvalidParameterError, match="contrast must be one of 'base', 'neutral', 'opposite'"):
        RealignmentConfig(contrast=contrast)


def test_presets_of_published_methods_contrast_with_the_base():
    presets = [RealignmentConfig.paper(), RealignmentConfig.linear_alignment(2.0), RealignmentConfig.amulet()]
    assert {each.contrast for each in [*presets, RealignmentConfig.classifier_free_guidance(3.0)]} == {"base"}


@pytest.fixture
def lonely() -> ChatAmulet:
    """A model whose engine nobody else uses."""
    config = EngineConfig(prefix_cache_bytes=10**8, prefill_tokens=10**4)
    return chat(model=tiny_model("qwen2", seed=6), tokenizer=byte_tokenizer(), engine_config=config)


def num_reused(llm: ChatAmulet, user: str, preference) -> int:
    """Return how many prompt tokens a call of this user did not have to read."""
    wait_until(lambda: llm.engine.stats.num_running == 0)
    before = llm.engine.stats.num_reused_tokens
    llm.invoke(QUESTION, {"configurable": {"user_id": user}}, preference=preference)
    return llm.engine.stats.num_reused_tokens - before


def test_contrast_rows_are_reused_by_the_same_user_with_the_same_preferences_only(lonely):
    between_streams = num_reused(lonely, "alice", PREFERENCE)
    assert num_reused(lonely, "bob", PREFERENCE) == between_streams
    assert num_reused(lonely, "carol", Preference(LONG)) == 0
    again = num_reused(lonely, "alice", PREFERENCE)
    assert again == sum(len(prompt) - 1 for prompt in lonely.prompt_streams(QUESTION, PREFERENCE))


def test_forgetting_drops_the_contrast_rows_too(lonely):
    lonely.invoke(QUESTION, preference=PREFERENCE)
    wait_until(lambda: lonely.engine.stats.num_running == 0 and lonely.engine.stats.num_kept_tokens > 0)
    lonely.engine.forget_private()
    wait_until(lambda: lonely.engine.stats.num_kept_tokens == 0)


def test_requests_without_keys_share_no_prompt_of_several_streams_with_coefficients(lonely):
    engine = lonely.engine
    request = lonely._prepare([HumanMessage(QUESTION)], None, {"preference": PREFERENCE}).request
    bare = Request(request.prompts, coefficients=request.mixture, sampling=SamplingParams(max_tokens=3))
    reused = []
    for _ in range(2):
        wait_until(lambda: engine.stats.num_running == 0)
        before = engine.stats.num_reused_tokens
        list(engine.submit(bare))
        reused.append(engine.stats.num_reused_tokens - before)
    assert reused[0] == reused[1]
