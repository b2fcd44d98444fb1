"""From the scores of the next token to the token."""

import torch
from torch import Tensor

from langchain_amulet.engine.params import SamplingParams


def sample(scores: Tensor, sampling: SamplingParams, *, uniform: float, seen_ids: Tensor) -> Tensor:
    """Draw one token: penalty, temperature, top-k, top-p, then the inverse of the distribution function.

    One uniform number decides, so a seed gives the same answer whatever else is in the batch.

    Args:
        scores: Log-probabilities or logits, `(V,)`.
        sampling: How to draw.
        uniform: A uniform number in [0, 1). Unused when greedy.
        seen_ids: Tokens that the repetition penalty acts on, `(S,)`.

    Returns:
        The token id, an integer tensor `()`.
    """
    if sampling.repetition_penalty != 1:
        scores = _penalise(scores, seen_ids, sampling.repetition_penalty)
    if sampling.temperature == 0:
        return scores.argmax()
    scores = scores / sampling.temperature
    if sampling.top_k:
        scores = _keep_top_k(scores, sampling.top_k)
    if sampling.top_p < 1:
        scores = _keep_top_p(scores, sampling.top_p)
    return _draw(scores, uniform)


def _penalise(scores: Tensor, seen_ids: Tensor, penalty: float) -> Tensor:
    """Make seen tokens less likely (Keskar et al. 2019, section 4.1), as transformers does for scores below 0 too.

    https://arxiv.org/abs/1909.05858
    """
    seen = scores[seen_ids]
    return scores.scatter(0, seen_ids, torch.where(seen < 0, seen * penalty, seen / penalty))


def _keep_top_k(scores: Tensor, top_k: int) -> Tensor:
    threshold = scores.topk(min(top_k, scores.shape[-1])).values[-1]
    return scores.masked_fill(scores < threshold, -torch.inf)


def _keep_top_p(scores: Tensor, top_p: float) -> Tensor:
    """Keep the smallest set of the likeliest tokens whose probability reaches `top_p` (Holtzman et al. 2020)."""
    sorted_scores, order = scores.sort(descending=True)
    before = sorted_scores.softmax(-1).cumsum(-1) - sorted_scores.softmax(-1)  # the mass ahead of each token
    sorted_scores = sorted_scores.masked_fill(before >= top_p, -torch.inf)
    return torch.empty_like(scores).scatter(0, order, sorted_scores)


def _draw(scores: Tensor, uniform: float) -> Tensor:
    # float64, or a 49k-term cumulative sum would drop rare tokens; MPS has none.
    dtype = torch.float32 if scores.device.type == "mps" else torch.float64
    cumulative = scores.to(dtype).softmax(-1).cumsum(-1)
    # right=True never lands on a token of probability 0: its interval is empty.
    token = torch.searchsorted(cumulative, cumulative[-1] * uniform, right=True)
    return token.clamp(max=scores.shape[-1] - 1)
