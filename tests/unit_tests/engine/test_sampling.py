"""Drawing tokens from logits."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers.generation.logits_process import (
    LogitsProcessorList,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from langchain_amulet.engine.gumbel import gumbel, pick, pick_from_all
from langchain_amulet.engine.params import SamplingParams
from langchain_amulet.engine.sampling import penalise, sample


def scores(seed: int, size: int = 40) -> torch.Tensor:
    return torch.randn(size, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)) * 3


NUM_DRAWS = 40_000
TOLERANCE = 0.01  # four standard deviations of a frequency near 1/2


def frequencies(values: torch.Tensor, sampling: SamplingParams, n: int = NUM_DRAWS) -> torch.Tensor:
    """How often each token is drawn."""
    keys = torch.randint(2**62, (n,), generator=torch.Generator().manual_seed(7)).tolist()
    tokens = sample(values.expand(n, -1), [sampling] * n, keys)
    return tokens.bincount(minlength=len(values)) / n


def test_zero_temperature_is_greedy():
    assert sample(torch.tensor([[0.0, 2.0, 1.0]]), [SamplingParams()], [999]).tolist() == [1]


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    "sampling",
    [
        SamplingParams(temperature=1.0),
        SamplingParams(temperature=0.7, top_p=0.8),
        SamplingParams(temperature=1.5, top_k=5),
        SamplingParams(temperature=1.3, top_k=7, top_p=0.9, repetition_penalty=1.4),
    ],
)
def test_draws_from_the_distribution_that_transformers_draws_from(seed, sampling):
    values, seen = scores(seed), torch.tensor([3, 4, 3])
    processors = LogitsProcessorList(
        [RepetitionPenaltyLogitsProcessor(sampling.repetition_penalty), TemperatureLogitsWarper(sampling.temperature)]
    )
    processors += [TopKLogitsWarper(sampling.top_k)] if sampling.top_k else []
    processors += [TopPLogitsWarper(sampling.top_p)] if sampling.top_p < 1 else []
    expected = processors(seen[None], values[None])[0].softmax(-1)
    penalised = penalise(values[None], [seen], [sampling.repetition_penalty])[0]
    assert (frequencies(penalised, sampling) - expected).abs().max() <= TOLERANCE


@given(seed=st.integers(0, 1000), key=st.integers(0, 2**63 - 1))
def test_never_draws_an_impossible_token(seed, key):
    values = scores(seed)
    values[values < 2] = -math.inf
    values[int(values.argmax())] = 2.0
    [token] = sample(values[None], [SamplingParams(temperature=1.0)], [key])
    assert values[token] > -math.inf


def test_top_k_beyond_the_vocabulary_keeps_all_of_it():
    drawn = frequencies(torch.zeros(4), SamplingParams(temperature=1.0, top_k=99))
    assert (drawn - 0.25).abs().max() <= TOLERANCE


def test_top_p_beyond_the_candidates_sorts_the_whole_vocabulary():
    values = torch.randn(2000, dtype=torch.float64, generator=torch.Generator().manual_seed(1)) / 10
    sampling = SamplingParams(temperature=1.0, top_p=0.9)
    expected = TopPLogitsWarper(0.9)(None, values[None])[0].softmax(-1)
    drawn = frequencies(values, sampling, 4000)
    assert set(drawn.nonzero().flatten().tolist()) <= set(expected.nonzero().flatten().tolist())
    assert (drawn - expected).abs().max() <= 5e-3


@pytest.mark.parametrize("size", [40, 2000])
def test_each_row_draws_the_same_token_alone(size):
    # Many tokens tie in bfloat16. Their order must not depend on other rows.
    rows = torch.stack([scores(seed, size).bfloat16().float() for seed in range(7)])
    sampling = [
        SamplingParams(),
        SamplingParams(temperature=1.0),
        SamplingParams(temperature=0.7, top_p=0.6),
        SamplingParams(temperature=1.5, top_k=3),
        SamplingParams(temperature=1.2, top_k=9, top_p=0.9),
        SamplingParams(temperature=2.0, top_k=99),
        SamplingParams(temperature=2.0, top_k=500),
    ]
    keys = [11, 2**40 + 3, 5, 7, 2**62, 99, 4]
    together = sample(rows, sampling, keys).tolist()
    one_by_one = [sample(row[None], [each], [key]).item() for row, each, key in zip(rows, sampling, keys, strict=True)]
    assert together == one_by_one


def test_rounding_hardly_ever_changes_a_draw():
    """As between one batch and another, where logits differ in their last bits."""
    values = torch.randn(500, 2000, generator=torch.Generator().manual_seed(2))  # flat, so that borders are many
    noise = torch.randn(500, 2000, generator=torch.Generator().manual_seed(3)) * 1e-5
    for sampling in (SamplingParams(temperature=1.2), SamplingParams(temperature=1.2, top_p=0.9)):
        before, after = (sample(each, [sampling] * 500, range(500)) for each in (values, values + noise))
        assert (before != after).sum() <= 1


def test_neighbouring_keys_and_tokens_have_unrelated_noise():
    noise = gumbel(torch.arange(400), torch.arange(400)[:, None])
    for other in (noise.roll(1, 0), noise.roll(1, 1), noise.T):
        assert torch.corrcoef(torch.stack([noise.flatten(), other.flatten()]))[0, 1].abs() < 0.02
    assert noise.mean() == pytest.approx(0.5772, abs=0.02)  # Euler's constant
    assert noise.var() == pytest.approx(math.pi**2 / 6, abs=0.05)


@pytest.mark.parametrize("spread", [0.01, 1.0, 30.0, 1e7])
@given(seed=st.integers(0, 10**6))
def test_ruling_tokens_out_changes_no_draw(spread, seed):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(4, 10_000, generator=generator) * spread
    logits[0, torch.rand(10_000, generator=generator) < 0.9] = -math.inf
    keys = torch.randint(2**62, (4, 1), generator=generator)
    assert pick_from_all(logits, keys).tolist() == pick(logits, torch.arange(10_000), keys).flatten().tolist()


def test_the_unlikeliest_token_wins_with_the_largest_noise():
    keys = torch.tensor([[_key_of_the_last_uniform_number(token_id=1)]])
    logits = torch.full((1, 10_000), -40.0)
    logits[0, :2] = torch.tensor([0.0, -30.0])
    assert pick(logits, torch.arange(10_000), keys).item() == pick_from_all(logits, keys).item() == 1


def _key_of_the_last_uniform_number(token_id: int) -> int:
    """The key for which the 52 random bits of a token are all ones: SplitMix64 backwards."""
    z = 2**52 - 1
    for num_bits, factor in ((31, 1), (27, 0x94D049BB133111EB), (30, 0xBF58476D1CE4E5B9)):
        z = z * pow(factor, -1, 2**64) % 2**64
        x = z
        for _ in range(64 // num_bits + 1):
            x = z ^ (x >> num_bits)
        z = x
    key = (z - token_id * 0x9E3779B97F4A7C15) % 2**64
    return key - 2**64 if key >= 2**63 else key


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_unsound_logits_are_drawn_so_that_the_batch_sees_them(bad):
    logits = torch.zeros(1, 10_000)
    logits[0, 7] = bad
    assert pick_from_all(logits, torch.tensor([[3]])).item() == 7


def test_penalties_in_a_batch_equal_one_by_one():
    rows = torch.stack([scores(seed) for seed in range(3)])
    seen = [torch.tensor([3, 4, 3]), torch.tensor([5]), torch.tensor([6, 7])]
    penalties = [1.3, 1.0, 0.8]
    alone = [penalise(rows[i : i + 1], seen[i : i + 1], penalties[i : i + 1])[0] for i in range(3)]
    together = penalise(rows, seen, penalties)
    torch.testing.assert_close(together, torch.stack(alone), rtol=0, atol=0)
    assert (together[0, 3] - rows[0, 3]).abs() > 0.01
