"""The closed form against the paper's loop, the limits, the guards and the hard zeros."""

import math

import pytest
import torch
from hypothesis import given, reject
from hypothesis import strategies as st
from torch import Tensor
from transformers import TopPLogitsWarper

from langchain_amulet.exceptions import InvalidParameterError, ShapeMismatchError
from langchain_amulet.realignment import RealignmentConfig, guidance_scale, realign

PAPER = {"alpha": 2.0, "lam": 2.0, "eta": 10.0, "num_iterations": 60}


def literal_loop(base: Tensor, pref: Tensor, *, alpha: float, lam: float, eta: float, num_iterations: int) -> Tensor:
    """Algorithm 1 of the paper, iteration by iteration, as its authors' code runs it."""
    log_base, log_pref = base.log_softmax(-1), pref.log_softmax(-1)
    log_p, sum_of_utilities = log_pref, torch.zeros_like(log_pref)
    for t in range(1, num_iterations + 1):
        sum_of_utilities = sum_of_utilities + alpha * (log_p - log_base)
        numerator = lam * log_pref + sum_of_utilities / t + log_p / (eta * t)
        log_p = (numerator / (lam + 1 / (eta * t))).log_softmax(-1)
    return log_p


def kl(log_p: Tensor, log_q: Tensor) -> Tensor:
    return torch.where(log_p.isneginf(), 0, log_p.exp() * (log_p - log_q)).sum(-1)


def logits(seed: int, *shape: int, scale: float = 3.0) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)) * scale


seeds = st.integers(0, 2**32 - 1)
scales = st.floats(-10, 10)


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


def test_scale_zero_is_the_base_policy_and_scale_one_the_prompted():
    base, pref = logits(0, 2, 3, 50)
    torch.testing.assert_close(realign(base, pref, 0.0), base.log_softmax(-1))
    torch.testing.assert_close(realign(base, pref, 1.0), pref.log_softmax(-1))


@given(seed=seeds, w=scales, shift=st.floats(-1e3, 1e3))
def test_result_is_normalised_and_shift_invariant(seed, w, shift):
    base, pref = logits(seed, 2, 4, 60)
    log_probs = realign(base, pref, w, plausibility=0.05, max_kl=0.5)
    torch.testing.assert_close(log_probs.exp().sum(-1), torch.ones(4, dtype=torch.float64))
    torch.testing.assert_close(realign(base + shift, pref - shift, w, plausibility=0.05, max_kl=0.5), log_probs)


@given(seed=seeds, shape=st.lists(st.integers(1, 3), max_size=3))
def test_any_leading_shape_equals_row_by_row(seed, shape):
    base, pref = logits(seed, 2, *shape, 20)
    scale = logits(seed + 1, *shape, scale=1.0).abs()
    batched = realign(base, pref, scale, plausibility=0.1, max_kl=0.3)
    rows = zip(base.reshape(-1, 20), pref.reshape(-1, 20), scale.reshape(-1), strict=True)
    single = torch.stack([realign(b, p, s.item(), plausibility=0.1, max_kl=0.3) for b, p, s in rows])
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
    result = realign(base, pref, w, allowed=allowed, plausibility=beta, max_kl=0.0, nucleus=nucleus)
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
    result = realign(base, pref, w, allowed=allowed, plausibility=0.3, max_kl=0.2, nucleus=nucleus)
    assert not result.isnan().any()
    assert result[~allowed].isneginf().all()
    assert bool(result.isfinite().any()) == bool(allowed.any())


def test_row_that_would_lose_all_its_tokens_is_uniform_over_the_allowed_ones():
    base, pref = torch.tensor([-math.inf, 0.0, 1.0, 2.0]), torch.tensor([0.0, -math.inf, 1.0, 2.0])
    result = realign(base, pref, 3.0, allowed=torch.tensor([True, True, False, False]), plausibility=0.1)
    assert result.exp().tolist() == pytest.approx([0.5, 0.5, 0, 0])


def test_nan_logits_are_not_hidden():
    result = realign(torch.full((4,), math.nan), torch.zeros(4), 2.0, plausibility=0.1)
    assert not result.isfinite().any()


# Guards


def reference_policy(base: Tensor, prefs: Tensor, w: float, weights: Tensor) -> Tensor:
    """The equation of the reference, written out: base plus the liked directions, their gains scaled to sum <= 1."""
    liked = (w * weights).clamp(min=0)
    u = liked / max(1.0, liked.sum().item())
    log_base = base.log_softmax(-1)
    return (log_base + (u[:, None] * (prefs.log_softmax(-1) - log_base)).sum(0)).log_softmax(-1)


@given(
    seed=seeds, w=st.floats(0, 10), beta=st.floats(0.001, 1), weights=st.lists(st.floats(-2, 2), min_size=1, max_size=3)
)
def test_never_outside_the_plausible_set(seed, w, beta, weights):
    v = torch.tensor(weights, dtype=torch.float64)
    base, prefs = logits(seed, 50), logits(seed + 1, len(weights), 50)
    reference = reference_policy(base, prefs, w, v)
    result = realign(base, prefs, w, weights=v, plausibility=beta)
    implausible = reference < reference.max() + math.log(beta) - 1e-9
    assert result[implausible].isneginf().all()
    assert result.isfinite().any()


@given(
    seed=seeds,
    w=st.floats(0, 10),
    max_kl=st.floats(0, 3),
    beta=st.sampled_from([0.0, 0.1]),
    weights=st.lists(st.floats(-2, 2), min_size=1, max_size=3),
)
def test_kl_never_above_the_budget_and_as_close_to_it_as_the_target_allows(seed, w, max_kl, beta, weights):
    v = torch.tensor(weights, dtype=torch.float64)
    base, prefs = logits(seed, 50), logits(seed + 1, len(weights), 50)
    unguarded = realign(base, prefs, w, weights=v, plausibility=beta)
    result = realign(base, prefs, w, weights=v, plausibility=beta, max_kl=max_kl)
    reference = reference_policy(base, prefs, w, v).masked_fill(unguarded.isneginf(), -math.inf).log_softmax(-1)
    spent, wanted = kl(result, reference).item(), kl(unguarded, reference).item()
    assert spent <= max_kl + 1e-9
    assert spent == pytest.approx(min(max_kl, wanted), abs=2e-3)


@given(seed=seeds, w=st.floats(1, 10), max_kl=st.floats(0.01, 2))
def test_trust_region_is_a_smaller_scale_for_one_preference(seed, w, max_kl):
    base, pref = logits(seed, 2, 50)
    result = realign(base, pref, w, max_kl=max_kl)
    log_pref, direction = pref.log_softmax(-1), pref.log_softmax(-1) - base.log_softmax(-1)
    # Solve log p = log pref + x d + const for x by least squares, then check that it fits exactly and lies in [0, w - 1].
    centred = direction - direction.mean()
    x = ((result - log_pref) @ centred / (centred @ centred)).item()
    assert -1e-6 <= x <= w - 1 + 1e-6
    torch.testing.assert_close(result, (log_pref + x * direction).log_softmax(-1), atol=1e-6, rtol=1e-6)


@given(seed=seeds, w=st.floats(0, 1))
def test_trust_region_has_nothing_to_guard_up_to_scale_one(seed, w):
    base, pref = logits(seed, 2, 50)
    torch.testing.assert_close(realign(base, pref, w, max_kl=0.0), realign(base, pref, w))


def test_infinite_budget_in_one_row_is_no_guard_for_it():
    base, pref = logits(3, 2, 2, 50)
    result = realign(base, pref, 6.0, max_kl=torch.tensor([math.inf, 0.0], dtype=torch.float64))
    torch.testing.assert_close(result[0], realign(base[0], pref[0], 6.0))
    torch.testing.assert_close(result[1], pref[1].log_softmax(-1))


def test_full_plausibility_leaves_only_the_references_favourite():
    base, pref = logits(4, 2, 50)
    assert realign(base, pref, 6.0, plausibility=1.0).isfinite().nonzero().tolist() == [[int(pref.argmax())]]


@given(
    seed=seeds,
    w=st.floats(0, 10),
    nucleus=st.floats(0.01, 0.99),
    temperature=st.floats(0.2, 2),
    beta=st.sampled_from([0, 0.1]),
)
def test_nucleus_is_that_of_transformers_under_the_reference_policy(seed, w, nucleus, temperature, beta):
    base, pref = logits(seed, 2, 50)
    result = realign(base, pref, w, plausibility=beta, nucleus=nucleus, nucleus_temperature=temperature)
    reference = reference_policy(base, pref[None], w, torch.ones(1, dtype=torch.float64))
    kept = TopPLogitsWarper(nucleus)(None, (reference / temperature)[None])[0].isfinite()
    unguarded = realign(base, pref, w, plausibility=beta)
    due = torch.where(kept, unguarded, -math.inf).log_softmax(-1)
    torch.testing.assert_close(result, due)


@given(seed=seeds, w=st.floats(1, 10), nucleus=st.floats(0.1, 0.9), max_kl=st.floats(0.01, 2))
def test_trust_region_stays_within_the_nucleus(seed, w, nucleus, max_kl):
    base, pref = logits(seed, 2, 50)
    in_nucleus = realign(base, pref, w, nucleus=nucleus)
    result = realign(base, pref, w, nucleus=nucleus, max_kl=max_kl)
    assert result[in_nucleus.isneginf()].isneginf().all()
    reference = torch.where(in_nucleus.isneginf(), -math.inf, pref).log_softmax(-1)
    assert kl(result, reference) <= max_kl + 1e-9


def test_nucleus_of_all_in_one_row_is_no_guard_for_it():
    base, pref = logits(3, 2, 2, 50)
    result = realign(base, pref, 6.0, nucleus=torch.tensor([1.0, 0.5], dtype=torch.float64))
    torch.testing.assert_close(result[0], realign(base[0], pref[0], 6.0))
    torch.testing.assert_close(result[1], realign(base[1], pref[1], 6.0, nucleus=0.5))
    assert result[1].isneginf().any()


# Shapes and configuration


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
    ],
)
def test_numbers_out_of_range_are_refused(numbers):
    with pytest.raises(InvalidParameterError, match=next(iter(numbers))):
        realign(torch.zeros(3), torch.zeros(3), **{"guidance_scale": 2.0, **numbers})


def test_autocast_does_not_round():
    base, pref = logits(0, 2, 40).float()
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(realign(base, pref, 5.65), realign(base.double(), pref.double(), 5.65).float())


@given(seed=seeds, w=st.floats(1, 10), max_kl=st.floats(0.01, 3))
def test_kl_stays_within_the_budget_in_float32_too(seed, w, max_kl):
    base, pref = logits(seed, 2, 2000).float()
    assert kl(realign(base, pref, w, max_kl=max_kl).double(), pref.double().log_softmax(-1)) <= max_kl + 1e-4


def test_presets_are_points_on_one_scale():
    assert RealignmentConfig() == RealignmentConfig(guidance_scale=2.0, plausibility=0.1, max_kl=None)
    assert RealignmentConfig.paper().guidance_scale == pytest.approx(5.648699, abs=1e-6)
    assert RealignmentConfig.paper() == RealignmentConfig.amulet(plausibility=0.0)
    assert RealignmentConfig.amulet(num_iterations=0).guidance_scale == 1
    assert RealignmentConfig.linear_alignment(2.0) == RealignmentConfig.classifier_free_guidance(3.0)
    assert RealignmentConfig.linear_alignment(2.0).plausibility == 0
    authors = RealignmentConfig.linear_alignment(5.0, nucleus=0.8, nucleus_temperature=0.5)
    assert (authors.guidance_scale, authors.nucleus, authors.nucleus_temperature) == (6.0, 0.8, 0.5)


@pytest.mark.parametrize(
    ("values", "remedy"),
    [
        ({"guidance_scale": -1.0}, "Preference of negative weight"),
        ({"guidance_scale": 1e5}, "from 0 to 10000"),
        ({"guidance_scale": math.nan}, "finite number"),
        ({"guidance_scale": "2"}, "finite number"),
        ({"plausibility": 1.5}, "Use 0 to turn it off"),
        ({"max_kl": -0.1}, "use None to turn it off"),
        ({"nucleus": 0.0}, "Use None to turn it off"),
        ({"nucleus": 1.5}, "Use None to turn it off"),
        ({"nucleus_temperature": 0.0}, "nucleus_temperature"),
    ],
)
def test_config_refuses_what_no_realignment_can_use(values, remedy):
    with pytest.raises(InvalidParameterError, match=remedy):
        RealignmentConfig(**values)
