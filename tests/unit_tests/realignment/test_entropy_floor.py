"""The entropy floor flattens the realigned policy, and changes nothing else about it."""

import math

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from langchain_amulet.realignment import realign
from langchain_amulet.realignment.entropy_floor import above_entropy_floor
from tests.fakes.policies import kl, logits, seeds

shares = st.floats(0, 1)
scales = st.floats(1, 10)
# Plausible tokens are few at 0.3, where only they are searched, and all at 0
betas = st.sampled_from([0.0, 0.3])


def entropy(log_p):
    return -torch.where(log_p.isneginf(), 0, log_p.exp() * log_p).sum(-1)


def reference_of(pref, result):
    """The prompted policy over the tokens that are possible in a result."""
    return torch.where(result.isneginf(), -math.inf, pref).log_softmax(-1)


@given(seed=seeds, w=scales, share=shares, beta=betas)
def test_the_entropy_is_at_least_this_share_of_the_references(seed, w, share, beta):
    base, pref = logits(seed, 2, 50)
    without = realign(base, pref, w, plausibility=beta)
    result = realign(base, pref, w, plausibility=beta, entropy_floor=share)
    floor = share * entropy(reference_of(pref, without))
    assert entropy(result) >= floor - 1e-4
    assert entropy(result).item() == pytest.approx(max(floor.item(), entropy(without).item()), abs=2e-3)


@given(seed=seeds, w=scales, max_kl=st.floats(0.01, 3))
def test_the_floor_holds_in_float32_too(seed, w, max_kl):
    base, pref = logits(seed, 2, 2000).float()
    result = realign(base, pref, w, entropy_floor=1.0).double()
    assert entropy(result) >= entropy(pref.double().log_softmax(-1)) - 1e-4
    bounded = realign(base, pref, w, entropy_floor=1.0, max_kl=max_kl).double()
    assert kl(bounded, pref.double().log_softmax(-1)) <= max_kl + 1e-4


@given(seed=seeds, w=scales, share=shares, beta=betas)
def test_the_order_of_tokens_stays_and_impossible_ones_stay_impossible(seed, w, share, beta):
    base, pref = logits(seed, 2, 50)
    without = realign(base, pref, w, plausibility=beta)
    result = realign(base, pref, w, plausibility=beta, entropy_floor=share)
    assert result.argmax() == without.argmax()
    assert (result[without.argsort(descending=True)].exp().diff() <= 1e-12).all()
    assert torch.equal(result.isneginf(), without.isneginf())


@given(seed=seeds, w=scales, beta=betas)
def test_a_larger_share_is_a_flatter_policy(seed, w, beta):
    base, pref = logits(seed, 2, 50)
    results = [realign(base, pref, w, plausibility=beta, entropy_floor=share) for share in (0.0, 0.3, 0.6, 1.0)]
    assert (entropy(torch.stack(results)).diff() >= -1e-9).all()


@given(seed=seeds, w=scales, share=shares, beta=betas)
def test_a_policy_above_the_floor_stays_as_it_is(seed, w, share, beta):
    base, pref = logits(seed, 2, 50)
    result = realign(base, pref, w, plausibility=beta, entropy_floor=share)
    again = above_entropy_floor(result, pref, torch.tensor([share], dtype=result.dtype))
    torch.testing.assert_close(again.log_softmax(-1), result)


@given(seed=seeds, w=st.floats(0, 1), beta=betas)
def test_nothing_is_flattened_up_to_scale_one(seed, w, beta):
    base, pref = logits(seed, 2, 500).float()
    result = realign(base, pref, w, plausibility=beta, entropy_floor=1.0)
    torch.testing.assert_close(result, realign(base, pref, w, plausibility=beta))


@given(seed=seeds, w=scales, beta=betas, max_kl=st.floats(0, 2))
def test_the_trust_region_bounds_what_the_floor_leaves(seed, w, beta, max_kl):
    base, pref = logits(seed, 2, 50)
    flat = realign(base, pref, w, plausibility=beta, entropy_floor=1.0)
    result = realign(base, pref, w, plausibility=beta, entropy_floor=1.0, max_kl=max_kl)
    reference = reference_of(pref, flat)
    assert kl(result, reference).item() == pytest.approx(min(max_kl, kl(flat, reference).item()), abs=2e-3)
    assert kl(result, reference) <= max_kl + 1e-9


@given(seed=seeds, w=scales)
def test_rows_of_one_batch_do_not_mix(seed, w):
    base, pref = logits(seed, 2, 3, 50)
    every = torch.tensor([0.0, 0.5, 1.0], dtype=torch.float64)
    batched = realign(base, pref, w, entropy_floor=every)
    single = [realign(b, p, w, entropy_floor=s) for b, p, s in zip(base, pref, every.tolist(), strict=True)]
    torch.testing.assert_close(batched, torch.stack(single))
    torch.testing.assert_close(batched[0], realign(base[0], pref[0], w))


@given(seed=seeds, w=scales, share=shares)
def test_searching_few_tokens_equals_searching_all(seed, w, share):
    base, pref = logits(seed, 2, 4, 50)
    few = realign(base, pref, w, plausibility=0.3, entropy_floor=share)
    assume(few.isfinite().sum(-1).max() <= 12)  # a quarter of the vocabulary
    # A row of which every token is possible has the whole batch searched in full.
    full_row = torch.zeros(1, 50, dtype=torch.float64)
    base, pref = torch.cat([base, full_row]), torch.cat([pref, full_row])
    torch.testing.assert_close(realign(base, pref, w, plausibility=0.3, entropy_floor=share)[:4], few)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_rows_without_tokens_stay_so_and_nan_is_not_hidden(dtype):
    target = torch.stack([torch.full((8,), value, dtype=dtype) for value in (-math.inf, math.nan, 0.0)])
    reference = torch.zeros(3, 8, dtype=dtype)
    result = above_entropy_floor(target, reference, torch.ones(3, 1, dtype=dtype))
    assert result.dtype == dtype
    assert result[0].isneginf().all()
    assert not result[1].isfinite().any()
    torch.testing.assert_close(result[2].log_softmax(-1), torch.zeros(8, dtype=dtype).log_softmax(-1))
