"""The comparison of the realigned policy with those of single prompts, at one position."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from langchain_amulet.exceptions import InvalidParameterError
from langchain_amulet.realignment import StreamCoefficients, realign_streams
from langchain_amulet.realignment.comparison import ComparedPolicies, Comparison, compare
from tests.fakes.policies import logits, seeds

VOCAB = 30
# Streams: a preference, its opposite, the caller's prompt
POLICIES = ComparedPolicies((0.0, 0.0, 1.0), (1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (1.0, 0.0, 0.0))
STEERED = StreamCoefficients((3.0, -2.0, 0.0), (1.0, 0.0, 0.0), (1.0, 0.0, 0.0))


def compared(streams, coefficients=STEERED, *, allowed=None, **guards) -> Comparison:
    values = {name: torch.tensor(value, dtype=streams.dtype) for name, value in guards.items()}
    target, reference = (
        torch.tensor(each, dtype=streams.dtype) for each in (coefficients.target, coefficients.reference)
    )
    realigned = realign_streams(streams, target, reference, allowed=allowed, guards=values)
    return compare(streams, realigned, POLICIES, coefficients, allowed=allowed)


@given(seed=seeds)
def test_each_policy_is_that_of_its_prompt(seed):
    streams = logits(seed, 3, VOCAB)
    result = compared(streams)
    for policy, stream in zip((result.prompted, result.contrast, result.base), streams, strict=True):
        torch.testing.assert_close(policy, stream.log_softmax(-1))
    torch.testing.assert_close(result.unguarded, (3 * streams[0] - 2 * streams[1]).log_softmax(-1))


@given(seed=seeds)
def test_the_divergence_is_that_from_the_prompted_policy(seed):
    result = compared(logits(seed, 3, VOCAB), plausibility=0.1)
    possible = result.realigned > -torch.inf
    p, log_p, log_r = (each[possible] for each in (result.realigned.exp(), result.realigned, result.prompted))
    assert result.kl == pytest.approx(float((p * (log_p - log_r)).sum()))


@given(seed=seeds, max_kl=st.floats(0.01, 5))
def test_the_trust_region_bounds_the_divergence_and_lowers_the_gain(seed, max_kl):
    streams = logits(seed, 3, VOCAB)
    result, free = compared(streams, max_kl=max_kl), compared(streams)
    assert result.kl <= max_kl + 1e-4
    assert free.gain == pytest.approx(3.0)
    assert 1.0 <= result.gain <= 3.0 + 1e-6
    if free.kl > max_kl + 1e-4:
        mixed = result.gain * streams[0] + (1 - result.gain) * streams[1]
        torch.testing.assert_close(result.realigned, mixed.log_softmax(-1), atol=1e-4, rtol=1e-4)


def test_the_gain_is_that_of_the_mixture_where_style_is_off():
    streams = logits(0, 3, VOCAB)
    result = compare(streams, streams[0], POLICIES, STEERED, is_steered=False)
    assert (result.gain, result.kl) == (1.0, 0.0)
    torch.testing.assert_close(result.unguarded, streams[0].log_softmax(-1))


def test_the_gain_is_the_target_s_where_one_token_is_possible():
    allowed = torch.arange(VOCAB) == 7
    result = compared(logits(0, 3, VOCAB), allowed=allowed, max_kl=0.1)
    assert (result.gain, result.kl) == (3.0, 0.0)


def test_the_policies_are_restricted_to_the_allowed_tokens():
    allowed = torch.arange(VOCAB) < 5
    result = compared(logits(0, 3, VOCAB), allowed=allowed)
    for policy in (result.base, result.prompted, result.unguarded):
        torch.testing.assert_close(policy[:5].exp().sum(), torch.tensor(1.0, dtype=torch.float64))
        assert policy[5:].isneginf().all()


def test_policies_of_different_streams_are_refused():
    with pytest.raises(InvalidParameterError, match=r"same streams; got \[1, 2\] coefficients"):
        ComparedPolicies((1.0,), (1.0, 0.0), None, (1.0,))
