"""Coefficients of streams, and the mixtures that they make."""

import math
from dataclasses import astuple

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from langchain_amulet.exceptions import InvalidParameterError
from langchain_amulet.realignment import StreamCoefficients, coefficients, mixture, realign, realign_streams
from tests.fakes.policies import logits, seeds

GUARDS = [{}, {"plausibility": 0.2}, {"max_kl": 0.1}, {"plausibility": 0.05, "nucleus": 0.7, "max_kl": 0.3}]
CONTRASTED = StreamCoefficients((2.5, 0.5, -2.0), (5 / 6, 1 / 6, 0.0), (0.5, 0.5, 0.0))


def mixed(streams: torch.Tensor, values: StreamCoefficients, **keywords) -> torch.Tensor:
    target, reference = (streams.new_tensor(each) for each in (values.target, values.reference))
    return realign_streams(streams, target, reference, **keywords)


@pytest.mark.parametrize("guards", GUARDS)
@given(seed=seeds, w=st.floats(0, 8), weights=st.lists(st.floats(-2, 2), min_size=1, max_size=3))
def test_coefficients_of_weights_are_realign(guards, seed, w, weights):
    base, *prefs = logits(seed, 1 + len(weights), 30)
    values = StreamCoefficients.of_weights(w, weights)
    expected = realign(base, torch.stack(prefs), w, weights=torch.tensor(weights, dtype=torch.float64), **guards)
    torch.testing.assert_close(mixed(torch.stack([base, *prefs]), values, guards=guards), expected)


@given(gains=st.lists(st.floats(-9, 9), min_size=1, max_size=5))
def test_reference_gains_of_lists_are_those_of_tensors(gains):
    """Plans compute them before torch is imported."""
    expected = mixture.reference_gains(torch.tensor(gains, dtype=torch.float64))
    assert coefficients.reference_gains(gains) == pytest.approx(expected.tolist())


@pytest.mark.parametrize("guards", GUARDS)
def test_contrast_with_an_opposite_is_realign_from_it_with_the_prompted_policy_as_reference(guards):
    """The target p + c (p − o) is `realign(o, p, 1 + c)`; the reference p is its reference."""
    pref, opposite = logits(0, 2, 50)
    values = StreamCoefficients((3.0, -2.0), (1.0, 0.0), (1.0, 0.0))
    expected = realign(opposite, pref, 3.0, **guards)
    torch.testing.assert_close(mixed(torch.stack([pref, opposite]), values, guards=guards), expected)


@pytest.mark.parametrize("guards", GUARDS)
@given(seed=seeds, order=st.permutations(range(3)))
def test_order_of_streams_does_not_matter(guards, seed, order):
    streams = logits(seed, 3, 30)
    turned = StreamCoefficients(*(tuple(each[i] for i in order) for each in astuple(CONTRASTED)))
    torch.testing.assert_close(
        mixed(streams[list(order)], turned, guards=guards), mixed(streams, CONTRASTED, guards=guards)
    )


@pytest.mark.parametrize("guards", GUARDS)
@pytest.mark.parametrize("hole", [None, -math.inf])
@given(seed=seeds)
def test_streams_of_zero_coefficient_change_no_bit(guards, hole, seed):
    """As rows that run for a trace only, behind those that count; impossible tokens in them do not matter."""
    streams = logits(seed, 3, 30).float()
    observed = 100 * logits(seed + 1, 2, 30).float()
    if hole is not None:
        observed[0, 3:9] = hole
    more = StreamCoefficients(*((*each, 0.0, 0.0) for each in astuple(CONTRASTED)))
    with_trace = mixed(torch.cat([streams, observed]), more, guards=guards)
    assert torch.equal(with_trace, mixed(streams, CONTRASTED, guards=guards))


def test_nan_is_not_hidden_even_in_a_stream_of_zero_coefficient():
    streams = logits(0, 2, 10)
    streams[1, 3] = math.nan
    assert mixed(streams, StreamCoefficients((1.0, 0.0), (1.0, 0.0), (1.0, 0.0))).isnan().any()


def test_impossible_in_the_contrast_is_impossible():
    streams = logits(0, 3, 10)
    streams[2, 4] = -math.inf
    log_probs = mixed(streams, CONTRASTED, guards={"plausibility": 0.01})
    assert log_probs[4] == -math.inf
    assert not log_probs.isnan().any()


@given(seed=seeds, allowed=st.sets(st.integers(0, 19), min_size=1))
def test_a_grammar_leaves_its_tokens_only_and_at_least_one(seed, allowed):
    streams = logits(seed, 3, 20)
    mask = torch.zeros(20, dtype=torch.bool)
    mask[list(allowed)] = True
    log_probs = mixed(streams, CONTRASTED, allowed=mask, guards={"plausibility": 0.3})
    assert log_probs[mask].isfinite().any()
    assert (log_probs[~mask] == -math.inf).all()


@pytest.mark.parametrize(
    ("mixtures", "message"),
    [
        (((1.0, 1.0), (1.0, 0.0), (1.0, 0.0)), "target must sum to 1"),
        (((3.0, -2.0), (1.0, 0.1), (1.0, 0.0)), "reference must sum to 1"),
        (((3.0, -2.0), (2.0, -1.0), (1.0, 0.0)), "no coefficient below 0"),
        (((3.0, -2.0), (1.0, 0.0), (1.0,)), "unsteered must have one finite coefficient per stream, 2"),
        (((math.nan, 1.0), (1.0, 0.0), (1.0, 0.0)), "one finite coefficient"),
        (((), (), ()), "sum to 1"),
    ],
)
def test_coefficients_that_are_no_mixture_are_refused(mixtures, message):
    with pytest.raises(InvalidParameterError, match=message):
        StreamCoefficients(*mixtures)
