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

from langchain_amulet.engine.params import SamplingParams
from langchain_amulet.engine.sampling import _gumbel, penalise, sample


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
    penalised = penalise(values, seen, sampling.repetition_penalty)
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
    noise = _gumbel(torch.arange(400), torch.arange(400)[:, None])
    for other in (noise.roll(1, 0), noise.roll(1, 1), noise.T):
        assert torch.corrcoef(torch.stack([noise.flatten(), other.flatten()]))[0, 1].abs() < 0.02
    assert noise.mean() == pytest.approx(0.5772, abs=0.02)  # Euler's constant
    assert noise.var() == pytest.approx(math.pi**2 / 6, abs=0.05)
