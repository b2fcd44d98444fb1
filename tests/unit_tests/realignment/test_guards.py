"""Plausibility, nucleus and trust region keep the result near the reference policy."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import TopPLogitsWarper

from langchain_amulet.realignment import realign
from tests.fakes.policies import kl, logits, reference_policy, seeds


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


@given(seed=seeds, w=st.floats(1, 10), max_kl=st.floats(0.01, 3))
def test_kl_stays_within_the_budget_in_float32_too(seed, w, max_kl):
    base, pref = logits(seed, 2, 2000).float()
    assert kl(realign(base, pref, w, max_kl=max_kl).double(), pref.double().log_softmax(-1)) <= max_kl + 1e-4
