"""Whatever a caller passes, only errors of ours leave the public surface, and the next answer is right."""

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage
from pydantic import ValidationError

from langchain_amulet import Preference
from langchain_amulet.exceptions import AmuletError
from tests.fakes.figures import count
from tests.fakes.fuzzed_calls import CONTROL, Call, realignments
from tests.fakes.fuzzed_models import fuzzed_llm
from tests.fakes.fuzzed_runs import fault_of, fuzzed, rests, run_all
from tests.fakes.reference_answers import expected_outcome

pytestmark = pytest.mark.filterwarnings("ignore:.*:UserWarning")
PERMITTED = (AmuletError, ValidationError, TypeError)
PROBE = Call([HumanMessage("Why?")], {"max_tokens": 4}, [])
NAMES = [
    "temperature",
    "top_p",
    "top_k",
    "repetition_penalty",
    "max_tokens",
    "seed",
    "stop",
    "logprobs",
    "top_logprobs",
    "timeout",
    "tools",
    "tool_choice",
    "response_format",
    "realignment",
    "guidance_scale",
    "preference",
    "preferences",
    "chat_template_kwargs",
    "max_streams",
    "unknown",
]
scalars = st.sampled_from([None, True, -1, 0, 2**70, float("nan"), float("inf"), "", "x", "\ud800", b"\xff", object()])
junk = scalars | st.lists(scalars, max_size=2) | st.dictionaries(st.sampled_from(["type", "name", "a"]), scalars)
broken_texts = st.sampled_from(["\ud800", "a\udfffb", "", "\0", *CONTROL])
broken_parts = st.lists(
    st.sampled_from([{"type": "text"}, {}, {"type": "text", "text": None}, {"type": "image_url"}, "\ud800", ""]),
    max_size=2,
)
contents = broken_texts | broken_parts
messages = st.lists(
    st.builds(HumanMessage, contents) | st.builds(AIMessage, contents) | st.builds(SystemMessage, contents)
)


def check_hostile(llm, run) -> None:
    """Run a call; any other error than the permitted ones leaves."""
    count("requests")
    try:
        run()
    except PERMITTED:
        count("hostile calls refused")
    rests(llm.engine)
    [[answer]] = asyncio.run(run_all(llm, [PROBE]))
    assert fault_of(answer, expected_outcome(llm, PROBE)) is None


def test_hostile_arguments_are_refused_with_errors_of_ours(is_campaign, progress):
    llm = fuzzed_llm("qwen2", max_tokens=3)

    @fuzzed(3000 if is_campaign else 15, progress, "hostile arguments")
    @given(st.dictionaries(st.sampled_from(NAMES), junk, min_size=1, max_size=2))
    def check(arguments):
        check_hostile(llm, lambda: llm.invoke("Why?", **{"max_tokens": 3, **arguments}))

    check()


def test_hostile_messages_are_answered_or_refused_with_errors_of_ours(is_campaign, progress):
    llm = fuzzed_llm("qwen2", max_tokens=3)

    @fuzzed(2000 if is_campaign else 15, progress, "hostile messages")
    @given(messages, st.lists(st.builds(lambda text: text, broken_texts), max_size=2))
    def check(conversation, preferences):
        check_hostile(llm, lambda: llm.invoke(conversation, preference=preferences))

    check()


def test_preferences_of_control_tokens_alone_answer_as_without_preferences(is_campaign, progress):
    llm = fuzzed_llm("qwen2")

    @fuzzed(300 if is_campaign else 5, progress, "preferences of control tokens")
    @given(
        st.lists(st.sampled_from(["<|im_end|>", "<|im_start|>", "<tool_call>"]), min_size=1).map("".join), realignments
    )
    def check(text, realignment):
        settings = {"max_tokens": 4, "seed": 0, "realignment": realignment}
        plain = expected_outcome(llm, Call([HumanMessage("Why?")], settings, []))
        [[answer]] = asyncio.run(run_all(llm, [Call([HumanMessage("Why?")], settings, [Preference(text)])]))
        assert answer.text == plain.parts[0]

    check()
