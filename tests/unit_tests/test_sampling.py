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
from langchain_amulet.engine.sampling import penalise, sample


def scores(seed: int, size: int = 40) -> torch.Tensor:
    return torch.randn(size, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)) * 3


def frequencies(values: torch.Tensor, sampling: SamplingParams, n: int = 2000) -> torch.Tensor:
    """The distribution that is drawn from, by an even grid of uniform numbers: exact to 1/n per token."""
    grid = [(i + 0.5) / n for i in range(n)]
    tokens = sample(values.expand(n, -1), [sampling] * n, grid)
    return tokens.bincount(minlength=len(values)) / n


def test_zero_temperature_is_greedy():
    assert sample(torch.tensor([[0.0, 2.0, 1.0]]), [SamplingParams()], [0.999]).tolist() == [1]


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
    assert (frequencies(penalised, sampling) - expected).abs().max() <= 1e-3


@given(seed=st.integers(0, 1000), uniform=st.floats(0, 1, exclude_max=True))
def test_never_draws_an_impossible_token(seed, uniform):
    values = scores(seed)
    values[values < 2] = -math.inf
    values[int(values.argmax())] = 2.0
    [token] = sample(values[None], [SamplingParams(temperature=1.0)], [uniform])
    assert values[token] > -math.inf


def test_top_k_beyond_the_vocabulary_keeps_all_of_it():
    assert (frequencies(torch.zeros(4), SamplingParams(temperature=1.0, top_k=99)) == 0.25).all()


def test_top_p_beyond_the_candidates_sorts_the_whole_vocabulary():
    values = torch.randn(2000, dtype=torch.float64, generator=torch.Generator().manual_seed(1)) / 10
    sampling = SamplingParams(temperature=1.0, top_p=0.9)
    expected = TopPLogitsWarper(0.9)(None, values[None])[0].softmax(-1)
    drawn = sample(values.expand(2000, -1), [sampling] * 2000, [(i + 0.5) / 2000 for i in range(2000)])
    assert set(drawn.tolist()) <= set(expected.nonzero().flatten().tolist())
    assert (drawn.bincount(minlength=2000) / 2000 - expected).abs().max() <= 1e-3


@pytest.mark.parametrize("size", [40, 2000])
def test_each_row_is_drawn_as_if_it_were_alone(size):
    # Many tokens tie in bfloat16, and which of them come first must not depend on other rows.
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
    uniforms = [0.1, 0.3, 0.5, 0.7, 0.9, 0.99, 0.4]
    together = sample(rows, sampling, uniforms).tolist()
    one_by_one = [
        sample(row[None], [each], [uniform]).item() for row, each, uniform in zip(rows, sampling, uniforms, strict=True)
    ]
    assert together == one_by_one
