"""Traces of the engine: what each token was drawn from, without any change of the tokens."""

import math
from dataclasses import replace

import pytest
import torch

from langchain_amulet.engine.engine import Engine
from langchain_amulet.engine.params import Request, SamplingParams
from langchain_amulet.engine.runners.batched import TransformersRunner
from langchain_amulet.engine.tracing import TracedToken
from langchain_amulet.exceptions import InvalidParameterError
from langchain_amulet.realignment import RealignmentConfig, StreamCoefficients
from langchain_amulet.realignment.comparison import ComparedPolicies
from tests.fakes.models import VOCAB_SIZE, tiny_model

BASE = [1, 17, 33, 58, 90, 101, 7, 12]
PREF = [1, 17, 33, 44, 45, 46, 201, 58, 90, 101, 7, 12]
OPPOSITE = [1, 17, 33, 44, 88, 46, 201, 58, 90, 101, 7, 12]
STEERED = StreamCoefficients((3.0, -2.0), (1.0, 0.0), (1.0, 0.0))
TRACED = StreamCoefficients((3.0, -2.0, 0.0), (1.0, 0.0, 0.0), (1.0, 0.0, 0.0))
POLICIES = ComparedPolicies((0.0, 0.0, 1.0), (1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (1.0, 0.0, 0.0))
GUARDED = RealignmentConfig(plausibility=0.3)
PAPER = RealignmentConfig.paper()
SAMPLED = {"temperature": 1.0, "seed": 3}


@pytest.fixture(scope="module")
def engine() -> Engine:
    return Engine(TransformersRunner(tiny_model(dtype=torch.float32)))


def request(realignment=GUARDED, *, is_traced=True, **sampling) -> Request:
    return Request(
        [PREF, OPPOSITE, BASE] if is_traced else [PREF, OPPOSITE],
        coefficients=TRACED if is_traced else STEERED,
        realignment=realignment,
        sampling=SamplingParams(**{"max_tokens": 24, **sampling}),
        trace=POLICIES if is_traced else None,
    )


def trace_of(engine: Engine, each: Request) -> list[TracedToken]:
    generation = engine.submit(each)
    list(generation)
    return generation.traces


@pytest.mark.parametrize("realignment", [GUARDED, PAPER, RealignmentConfig(max_kl=0.2, nucleus=0.9)])
@pytest.mark.parametrize("sampling", [{}, SAMPLED, {**SAMPLED, "top_p": 0.8, "repetition_penalty": 1.3}])
def test_a_trace_changes_no_token(engine, realignment, sampling):
    traced = list(engine.submit(request(realignment, **sampling)))
    assert traced == list(engine.submit(request(realignment, is_traced=False, **sampling)))


def test_a_trace_has_an_entry_for_every_token(engine):
    generation = engine.submit(request())
    tokens = list(generation)
    assert [each.token_id for each in generation.traces] == tokens
    assert [each.candidates[0].token_id for each in generation.traces] == tokens


def test_an_untraced_answer_beside_a_traced_one_has_no_trace(engine):
    plain, traced = engine.submit(request(is_traced=False)), engine.submit(request())
    assert list(plain) == list(traced)
    assert (plain.traces, len(traced.traces)) == ([], 24)


def test_probabilities_are_those_of_the_log_probabilities(engine):
    generation = engine.submit(replace(request(), logprobs=0))
    list(generation)
    for traced, entry in zip(generation.traces, generation.logprobs, strict=True):
        assert math.log(traced.candidates[0].realigned) == pytest.approx(entry.logprob, abs=1e-4)


def test_the_choices_are_those_of_each_prompt_alone(engine):
    first = trace_of(engine, request(**SAMPLED))[0]
    alone = [
        next(engine.submit(Request([prompt], sampling=SamplingParams(max_tokens=1, **SAMPLED))))
        for prompt in (BASE, PREF)
    ]
    assert [first.base_choice, first.prompted_choice] == alone


def test_the_guards_have_removed_what_was_possible_without_them(engine):
    traces = trace_of(engine, request())
    removed = [each for trace in traces for each in trace.candidates if not each.realigned and each.unguarded > 0.01]
    assert removed
    assert all(
        trace.removed_mass >= sum(each.unguarded for each in trace.candidates if not each.realigned) - 1e-5
        for trace in traces
    )
    assert any(trace.unguarded_choice != trace.token_id for trace in traces)


def test_without_guards_nothing_is_removed(engine):
    for trace in trace_of(engine, request(PAPER)):
        assert (trace.num_removed, trace.removed_mass) == (0, 0.0)
        assert trace.unguarded_choice == trace.token_id


def test_a_single_stream_is_traced_as_it_is(engine):
    one = StreamCoefficients((1.0,), (1.0,), (1.0,))
    policies = ComparedPolicies((1.0,), (1.0,), None, (0.0,))
    for trace in trace_of(
        engine, Request([BASE], coefficients=one, sampling=SamplingParams(max_tokens=5), trace=policies)
    ):
        assert (trace.kl, trace.gain) == (0.0, 0.0)
        assert trace.token_id == trace.base_choice == trace.prompted_choice == trace.unguarded_choice


def test_a_trace_of_other_streams_is_refused():
    with pytest.raises(InvalidParameterError, match="A trace of 2 streams needs policies of 2 coefficients; got 3"):
        Request([PREF, OPPOSITE], coefficients=STEERED, trace=POLICIES)


class UnsteeredGuide:
    """Allows even tokens only, and turns steering off."""

    is_steered = False
    is_complete = False

    def allowed(self, _num_left):
        return torch.arange(VOCAB_SIZE) % 2 == 0

    def opening(self):
        return None

    def forced(self):
        return []

    def accept(self, token_id, _num_left):
        return token_id


def test_a_guided_token_is_traced_among_those_that_were_allowed(engine):
    traces = trace_of(engine, replace(request(), guide=lambda _: UnsteeredGuide()))
    for trace in traces:
        choices = (trace.token_id, trace.base_choice, trace.prompted_choice, trace.unguarded_choice)
        assert all(token_id % 2 == 0 for token_id in choices)
        assert trace.removed_mass == 0, "what the guide forbids is not removed by guards"


def test_the_gain_is_at_most_one_where_the_guide_turns_steering_off(engine):
    traces = trace_of(engine, replace(request(), guide=lambda _: UnsteeredGuide()))
    assert {trace.gain for trace in traces} == {1.0}
    assert all(trace.unguarded_choice == trace.token_id for trace in traces)
    assert all(trace.kl < 1e-5 for trace in traces)
    assert any(trace.base_choice != trace.token_id for trace in traces)
