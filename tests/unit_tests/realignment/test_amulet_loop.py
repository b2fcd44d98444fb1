"""The closed form of Amulet's loop against the loop itself."""

import math

import pytest
from hypothesis import given, reject
from hypothesis import strategies as st
from torch import Tensor, zeros_like

from langchain_amulet.exceptions import InvalidParameterError
from langchain_amulet.realignment import guidance_scale, realign
from tests.fakes.policies import logits, seeds

PAPER = {"alpha": 2.0, "lam": 2.0, "eta": 10.0, "num_iterations": 60}


def literal_loop(base: Tensor, pref: Tensor, *, alpha: float, lam: float, eta: float, num_iterations: int) -> Tensor:
    """Algorithm 1 of the paper, iteration by iteration, as its authors' code runs it."""
    log_base, log_pref = base.log_softmax(-1), pref.log_softmax(-1)
    log_p, sum_of_utilities = log_pref, zeros_like(log_pref)
    for t in range(1, num_iterations + 1):
        sum_of_utilities = sum_of_utilities + alpha * (log_p - log_base)
        numerator = lam * log_pref + sum_of_utilities / t + log_p / (eta * t)
        log_p = (numerator / (lam + 1 / (eta * t))).log_softmax(-1)
    return log_p


@given(
    seed=seeds,
    vocab=st.integers(2, 300),
    spread=st.sampled_from([1e-3, 1.0, 30.0, 1e3, 1e5]),
    offset=st.sampled_from([0.0, 1e3]),
    alpha=st.floats(0, 10),
    lam=st.floats(0.1, 10),
    eta=st.floats(0.1, 50),
    num_iterations=st.integers(0, 100),
)
def test_closed_form_equals_the_papers_loop(seed, vocab, spread, offset, alpha, lam, eta, num_iterations):
    parameters = {"alpha": alpha, "lam": lam, "eta": eta, "num_iterations": num_iterations}
    try:
        w = guidance_scale(**parameters)
    except InvalidParameterError:
        reject()
    base, pref = logits(seed, 2, vocab, scale=spread) + offset
    expected = literal_loop(base, pref, **parameters)
    tolerance = 1e-12 * max(1.0, expected.abs().max().item())
    assert (realign(base, pref, w) - expected).abs().max().item() <= tolerance


@pytest.mark.parametrize(
    ("num_iterations", "expected"),
    [(0, 1.0), (1, 1 + 20 / 21), (4, 3.0507), (20, 4.566514), (60, 5.648699), (100, 6.156211)],
)
def test_guidance_scale_at_known_points(num_iterations, expected):
    w = guidance_scale(alpha=2, lam=2, eta=10, num_iterations=num_iterations)
    assert w == pytest.approx(expected, abs=1e-4 if num_iterations == 4 else 1e-6)


def test_guidance_scale_tends_to_harmonic_numbers_for_a_large_learning_rate():
    w = guidance_scale(alpha=2, lam=2, eta=1e12, num_iterations=60)
    assert w == pytest.approx(1 + sum(1 / t for t in range(1, 61)), rel=1e-9)


@pytest.mark.parametrize(
    ("change", "remedy"),
    [
        ({"alpha": 10.0}, "lower alpha to at most lam"),
        ({"alpha": -1.0}, "alpha must be at least 0"),
        ({"alpha": math.nan}, "alpha must be a finite number"),
        ({"lam": math.inf}, "lam must be a finite number"),
        ({"eta": 0.0}, "eta is a learning rate"),
        ({"num_iterations": -1}, "whole number from 0"),
        ({"num_iterations": 2.5}, "whole number from 0"),
    ],
)
def test_guidance_scale_refuses_with_the_parameter_to_change(change, remedy):
    with pytest.raises(InvalidParameterError, match=remedy):
        guidance_scale(**{**PAPER, **change})
