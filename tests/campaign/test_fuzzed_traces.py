"""Answers to calls of all kinds are the same with a trace, and every token of them is traced."""

from dataclasses import replace
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from langchain_amulet.exceptions import AmuletError
from langchain_amulet.realignment.config import Contrast
from langchain_amulet.trace import Trace, render_trace
from tests.fakes.figures import count
from tests.fakes.fuzzed_calls import calls
from tests.fakes.fuzzed_models import fuzzed_llm
from tests.fakes.fuzzed_runs import fuzzed
from tests.fakes.reference_answers import Outcome, differs, outcome_of

pytestmark = [
    pytest.mark.filterwarnings("ignore:These preferences need"),
    pytest.mark.filterwarnings("ignore:A part of the schema"),
]


def answer(llm, call, **arguments):
    """Return the answer to a call, or the error with which it ends."""
    try:
        return llm.invoke(call.messages, preference=call.preferences, **call.settings, **arguments)
    except AmuletError as error:
        return error


def without_trace(outcome: Outcome) -> Outcome:
    """Return an outcome without what a trace adds to the metadata."""
    if outcome.error:
        return outcome
    text, reasoning, tool_calls, invalid, metadata, usage = outcome.parts
    amulet = {name: value for name, value in metadata["amulet"].items() if not name.startswith("trace")}
    return outcome._replace(parts=(text, reasoning, tool_calls, invalid, {**metadata, "amulet": amulet}, usage))


def test_a_trace_changes_no_answer_and_tells_of_every_token(is_campaign, progress):
    llm = fuzzed_llm("qwen2")

    @fuzzed(1000 if is_campaign else 30, progress, "traced answers")
    @given(calls(), st.sampled_from(get_args(Contrast)))
    def check(call, contrast):
        realignment = replace(call.settings["realignment"], contrast=contrast)
        call = call._replace(settings={**call.settings, "realignment": realignment})
        plain, traced = (answer(llm, call, trace=each) for each in (False, True))
        assert not differs(without_trace(outcome_of(traced)), outcome_of(plain))
        if isinstance(traced, AmuletError):
            return
        tokens = Trace.of(traced).tokens
        count("tokens traced", len(tokens))
        assert len(tokens) == traced.usage_metadata["output_tokens"]
        assert all(token.kl >= 0 and 0 <= token.removed_mass <= 1 + 1e-5 for token in tokens)
        assert render_trace(Trace(tokens)).count('role="option"') == len(tokens)

    check()
