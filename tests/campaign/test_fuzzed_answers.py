"""Answers to calls of all kinds, asked at once, equal the plain, slow decoding of each alone."""

import asyncio
import threading
from functools import cache

import pytest
from hypothesis import given
from hypothesis import strategies as st
from langchain_core.messages import HumanMessage

from langchain_amulet import ChatAmulet
from tests.fakes.chat_templates import DEFAULT_SYSTEM_TEXTS
from tests.fakes.figures import count, is_full
from tests.fakes.fuzzed_calls import Call, calls, texts
from tests.fakes.fuzzed_models import KINDS, RECURRENT, fuzzed_llm, pressed, tokenizer_of
from tests.fakes.fuzzed_runs import ended, fault_of, fuzzed, rests, run_all, tight_limit
from tests.fakes.reference_answers import (
    FLOAT32_TOLERANCE,
    TOLERANCE,
    expected_message,
    expected_outcome,
    plain_text,
    rendered_streams,
)
from tests.fakes.reference_decoding import decode

pytestmark = [
    pytest.mark.filterwarnings("ignore:These preferences need"),
    pytest.mark.filterwarnings("ignore:A part of the schema"),
]
FEW_KINDS = ("llama", "gemma3", "gpt_neox")  # outside a campaign
PROBE = Call([HumanMessage("Why?")], {"max_tokens": 4}, [])


@cache
def planner(kind: str) -> ChatAmulet:
    """Return a model that says what calls would run."""
    return fuzzed_llm(kind)


def check_all(kind: str, asked: list[Call], *, is_pressed: bool) -> None:
    """Ask all at once, and one after that; compare each answer with its own reference."""
    asked = [*asked, *asked[:1], PROBE]  # the first call again meets its own rows
    limit = tight_limit(planner(kind), asked) if is_pressed else None
    threads = {*threading.enumerate()}
    llm = fuzzed_llm(kind, pressed(kind, limit) if limit else None)
    max_cached = None if kind == RECURRENT else limit
    tolerance = FLOAT32_TOLERANCE if kind == RECURRENT else TOLERANCE  # Mamba's scan is float32
    expected = [expected_outcome(llm, call, max_cached) for call in asked]
    results = asyncio.run(run_all(llm, asked))
    rests(llm.engine)
    results += asyncio.run(run_all(llm, [PROBE]))
    count("tokens reused", llm.engine.stats.num_reused_tokens)
    count("rows lost and read again", llm.engine.stats.num_preemptions)
    ended(llm.engine, threads)
    faults = [
        f"{call}: {fault}"
        for call, got, want in zip([*asked, PROBE], results, [*expected, expected[-1]], strict=True)
        for result in got
        if (fault := fault_of(result, want, tolerance))
    ]
    assert not faults, "\n".join(faults)


def pytest_generate_tests(metafunc):
    if "kind" in metafunc.fixturenames:
        metafunc.parametrize("kind", KINDS if is_full(metafunc.config) else FEW_KINDS)


def test_answers_asked_at_once_equal_those_decoded_alone(kind, is_campaign, progress):
    @fuzzed(300 if is_campaign else 3, progress, f"answers of {kind}")
    @given(st.lists(calls(), min_size=1, max_size=5), st.booleans())
    def check(asked, is_pressed):
        check_all(kind, asked, is_pressed=is_pressed)

    check()


def test_answers_of_recurrent_models_equal_those_decoded_alone(is_campaign, progress):
    @fuzzed(100 if is_campaign else 2, progress, "answers of a recurrent model")
    @given(st.lists(calls(max_tokens=4, is_plain=True), min_size=1, max_size=3), st.booleans())
    def check(asked, is_pressed):
        check_all(RECURRENT, asked, is_pressed=is_pressed)

    check()


def test_prompts_and_texts_of_plain_calls_follow_from_the_template_alone(is_campaign, progress):
    kinds = {"llama": "smollm2", "qwen2": "qwen2.5"}
    llms = {kind: fuzzed_llm(kind) for kind in kinds}

    @fuzzed(2000 if is_campaign else 10, progress, "plain prompts and texts")
    @given(st.sampled_from([*kinds]), calls(is_plain=True, all_texts=texts))
    def check(kind, call):
        call = call._replace(settings={**call.settings, "max_streams": 9})
        arguments = {**call.settings, "preference": call.preferences}
        stops = arguments.pop("stop", None)
        request = llms[kind]._prepare(call.messages, stops, arguments).request
        count("prompts compared")
        expected = rendered_streams(tokenizer_of(kind), DEFAULT_SYSTEM_TEXTS[kinds[kind]], call)
        assert [list(prompt) for prompt in request.prompts] == expected
        message = expected_message(llms[kind], call)
        token_ids = decode(llms[kind].load().model, request).token_ids
        text, num_tokens, is_stopped = plain_text(tokenizer_of(kind), token_ids, stops or ())
        assert (message.text, message.usage_metadata["output_tokens"]) == (text, num_tokens)
        assert message.response_metadata["finish_reason"] == "stop" or not is_stopped

    check()
