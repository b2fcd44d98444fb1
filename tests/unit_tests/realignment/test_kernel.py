"""The equation of realignment for one and for several preferences, hard zeros, shapes and dtypes."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from langchain_amulet.exceptions import InvalidParameterError, ShapeMismatchError
from langchain_amulet.realignment import realign
from tests.fakes.policies import logits, seeds

scales = st.floats(-10, 10)
GUARDS = {"plausibility": 0.05, "max_kl": 0.5, "entropy_floor": 0.9}


def test_scale_zero_is_the_base_policy_and_scale_one_the_prompted():
    base, pref = logits(0, 2, 3, 50)
    torch.testing.assert_close(realign(base, pref, 0.0), base.log_softmax(-1))
    torch.testing.assert_close(realign(base, pref, 1.0), pref.log_softmax(-1))


@given(seed=seeds, w=scales, shift=st.floats(-1e3, 1e3))
def test_result_is_normalised_and_shift_invariant(seed, w, shift):
    base, pref = logits(seed, 2, 4, 60)
    log_probs = realign(base, pref, w, **GUARDS)
    torch.testing.assert_close(log_probs.exp().sum(-1), torch.ones(4, dtype=torch.float64))
    torch.testing.assert_close(realign(base + shift, pref - shift, w, **GUARDS), log_probs)


@given(seed=seeds, shape=st.lists(st.integers(1, 3), max_size=3))
def test_any_leading_shape_equals_row_by_row(seed, shape):
    base, pref = logits(seed, 2, *shape, 20)
    scale = logits(seed + 1, *shape, scale=1.0).abs()
    batched = realign(base, pref, scale, **GUARDS)
    rows = zip(base.reshape(-1, 20), pref.reshape(-1, 20), scale.reshape(-1), strict=True)
    single = torch.stack([realign(b, p, s.item(), **GUARDS) for b, p, s in rows])
    torch.testing.assert_close(batched.reshape(-1, 20), single)


def test_computes_in_float32_and_keeps_float64():
    base, pref = logits(0, 2, 40)
    assert realign(base, pref, 2.0).dtype == torch.float64
    assert realign(base.bfloat16(), pref.bfloat16(), 2.0).dtype == torch.float32
    exact = realign(base.bfloat16().double(), pref.bfloat16().double(), 5.65)
    torch.testing.assert_close(realign(base.bfloat16(), pref.bfloat16(), 5.65).double(), exact, atol=1e-4, rtol=1e-5)


# K streams


@given(seed=seeds, w=st.floats(0, 8), weights=st.lists(st.floats(-2, 2), min_size=1, max_size=4))
def test_streams_add_their_weighted_directions(seed, w, weights):
    base, *prefs = logits(seed, 1 + len(weights), 30).log_softmax(-1)
    expected = base.clone()
    for pref, v in zip(prefs, weights, strict=True):
        expected += w * v * (pref - base)
    actual = realign(base, torch.stack(prefs), w, weights=torch.tensor(weights, dtype=torch.float64))
    torch.testing.assert_close(actual, expected.log_softmax(-1))


@given(seed=seeds, w=scales)
def test_two_equal_streams_of_half_weight_are_one(seed, w):
    base, pref = logits(seed, 2, 30)
    halves = torch.tensor([0.5, 0.5], dtype=torch.float64)
    torch.testing.assert_close(realign(base, torch.stack([pref, pref]), w, weights=halves), realign(base, pref, w))


def test_negative_weight_lowers_what_a_positive_one_raises():
    base = torch.zeros(3)
    pref = torch.tensor([2.0, 0.0, 0.0])
    liked, disliked = (realign(base, pref[None], 1.5, weights=torch.tensor([v])) for v in (1.0, -1.0))
    assert liked[0] > base.log_softmax(-1)[0] > disliked[0]


# Hard zeros


def test_impossible_in_a_stream_that_counts_is_impossible():
    base = torch.tensor([-math.inf, 0.0, 0.0, 0.0])
    pref = torch.tensor([0.0, -math.inf, 0.0, 0.0])
    result = realign(base, pref, 3.0)
    assert result.isneginf().tolist() == [True, True, False, False]


@pytest.mark.parametrize("w", [0.0, 1.0])
def test_impossible_in_a_stream_of_zero_gain_does_not_count(w):
    base = torch.tensor([-math.inf, 1.0, 0.0])
    pref = torch.tensor([0.5, -math.inf, 0.0])
    expected = (base if w == 0 else pref).log_softmax(-1)
    torch.testing.assert_close(realign(base, pref, w), expected)


def test_stream_of_zero_weight_does_not_count():
    base, pref = torch.tensor([1.0, 2.0, 3.0]), torch.tensor([[0.0, 1.0, 1.0], [-math.inf, 5.0, -math.inf]])
    result = realign(base, pref, 2.0, weights=torch.tensor([1.0, 0.0]))
    torch.testing.assert_close(result, realign(base, pref[0], 2.0))


nuclei = st.sampled_from([None, 1e-6, 0.5, 1.0])


@given(
    seed=seeds,
    w=scales,
    beta=st.floats(0, 1),
    nucleus=nuclei,
    token=st.integers(0, 19),
    dead=st.sets(st.integers(0, 19), max_size=19),
)
def test_a_forced_token_survives_everything(seed, w, beta, nucleus, token, dead):
    base, pref = logits(seed, 2, 20)
    base[list(dead)] = pref[list(dead)] = -math.inf
    allowed = torch.arange(20) == token
    result = realign(base, pref, w, allowed=allowed, plausibility=beta, max_kl=0.0, nucleus=nucleus, entropy_floor=1.0)
    assert result[token] == 0
    assert result[~allowed].isneginf().all()


@given(
    seed=seeds,
    w=scales,
    dead_base=st.sets(st.integers(0, 9), max_size=9),
    dead_pref=st.sets(st.integers(0, 9), max_size=9),
    nucleus=nuclei,
)
def test_never_nan_and_always_a_token_where_one_is_allowed(seed, w, dead_base, dead_pref, nucleus):
    base, pref = logits(seed, 2, 10)
    base[list(dead_base)] = -math.inf
    pref[list(dead_pref)] = -math.inf
    allowed = logits(seed + 1, 10) > 0
    guards = {"plausibility": 0.3, "max_kl": 0.2, "nucleus": nucleus, "entropy_floor": 0.9}
    result = realign(base, pref, w, allowed=allowed, **guards)
    assert not result.isnan().any()
    assert result[~allowed].isneginf().all()
    assert bool(result.isfinite().any()) == bool(allowed.any())


def test_row_that_would_lose_all_its_tokens_is_uniform_over_the_allowed_ones():
    base, pref = torch.tensor([-math.inf, 0.0, 1.0, 2.0]), torch.tensor([0.0, -math.inf, 1.0, 2.0])
    result = realign(base, pref, 3.0, allowed=torch.tensor([True, True, False, False]), plausibility=0.1)
    assert result.exp().tolist() == pytest.approx([0.5, 0.5, 0, 0])


def test_nan_logits_are_not_hidden():
    result = realign(torch.full((4,), math.nan), torch.zeros(4), 2.0, plausibility=0.1, entropy_floor=1.0)
    assert not result.isfinite().any()


# Shapes and ranges


@pytest.mark.parametrize(
    ("pref", "keywords"),
    [
        ((2, 9), {}),
        ((2, 3, 10), {}),
        ((2, 3, 10), {"weights": torch.ones(2, 4)}),
        ((2, 10), {"allowed": torch.ones(10, dtype=torch.bool)}),
        ((2, 10), {"guidance_scale": torch.ones(3)}),
        ((2, 10), {"max_kl": torch.ones(2, 1)}),
    ],
)
def test_shapes_that_do_not_fit_are_named(pref, keywords):
    with pytest.raises(ShapeMismatchError, match="with base_logits"):
        realign(torch.zeros(2, 10), torch.zeros(pref), **{"guidance_scale": 2.0, **keywords})


@pytest.mark.parametrize(
    "numbers",
    [
        {"guidance_scale": math.inf},
        {"guidance_scale": 2e4},
        {"plausibility": -0.1},
        {"plausibility": 2.0},
        {"nucleus": 0.0},
        {"nucleus_temperature": 0.0},
        {"max_kl": -1.0},
        {"max_kl": math.nan},
        {"entropy_floor": 1.5},
        {"entropy_floor": -0.1},
    ],
)
def test_numbers_out_of_range_are_refused(numbers):
    with pytest.raises(InvalidParameterError, match=next(iter(numbers))):
        realign(torch.zeros(3), torch.zeros(3), **{"guidance_scale": 2.0, **numbers})


def test_autocast_does_not_round():
    base, pref = logits(0, 2, 40).float()
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(realign(base, pref, 5.65), realign(base.double(), pref.double(), 5.65).float())
