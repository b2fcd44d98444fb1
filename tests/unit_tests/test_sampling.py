"""Drawing a token."""

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
from langchain_amulet.engine.sampling import sample

NOTHING_SEEN = torch.tensor([], dtype=torch.long)


def scores(seed: int, size: int = 40) -> torch.Tensor:
    return torch.randn(size, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)) * 3


def frequencies(
    values: torch.Tensor, sampling: SamplingParams, seen: torch.Tensor = NOTHING_SEEN, n: int = 2000
) -> torch.Tensor:
    """The distribution that is drawn from, by an even grid of uniform numbers: exact to 1/n per token."""
    grid = ((i + 0.5) / n for i in range(n))
    tokens = torch.stack([sample(values, sampling, uniform=u, seen_ids=seen) for u in grid])
    return tokens.bincount(minlength=len(values)) / n


def test_zero_temperature_is_greedy():
    assert sample(torch.tensor([0.0, 2.0, 1.0]), SamplingParams(), uniform=0.999, seen_ids=NOTHING_SEEN) == 1


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
    assert (frequencies(values, sampling, seen) - expected).abs().max() <= 1e-3


@given(seed=st.integers(0, 1000), uniform=st.floats(0, 1, exclude_max=True))
def test_never_draws_an_impossible_token(seed, uniform):
    values = scores(seed)
    values[values < 2] = -math.inf
    values[int(values.argmax())] = 2.0
    token = sample(values, SamplingParams(temperature=1.0), uniform=uniform, seen_ids=NOTHING_SEEN)
    assert values[token] > -math.inf


def test_top_k_beyond_the_vocabulary_keeps_all_of_it():
    assert (frequencies(torch.zeros(4), SamplingParams(temperature=1.0, top_k=99)) == 0.25).all()
