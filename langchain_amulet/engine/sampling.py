"""From the scores of the next token to the token, for several requests at once."""

from collections.abc import Sequence

import torch
from torch import Tensor

from langchain_amulet.engine.params import SamplingParams

_NUM_CANDIDATES = 512  # top-p looks at so many of the likeliest tokens before it sorts the whole vocabulary


def penalise(scores: Tensor, seen_ids: Tensor, penalty: float) -> Tensor:
    """Make seen tokens less likely (Keskar et al. 2019, section 4.1), as transformers does for scores below 0 too.

    Args:
        scores: Log-probabilities or logits, `(V,)`.
        seen_ids: Tokens that become less likely, `(S,)`.
        penalty: Above 1; 1 changes nothing.

    References:
        https://arxiv.org/abs/1909.05858
    """
    seen = scores[seen_ids]
    return scores.scatter(0, seen_ids, torch.where(seen < 0, seen * penalty, seen / penalty))


def sample(scores: Tensor, sampling: Sequence[SamplingParams], uniforms: Sequence[float]) -> Tensor:
    """Draw one token per row: temperature, top-k, top-p, then the inverse of the distribution function.

    One uniform number decides, so a seed gives the same answer whatever else is in the batch.

    Args:
        scores: Log-probabilities or logits, `(B, V)`.
        sampling: How to draw in each row.
        uniforms: One uniform number in [0, 1) per row; greedy rows do not use theirs.

    Returns:
        Token ids, `(B,)`.
    """
    tokens = scores.argmax(-1)
    drawn = [row for row, each in enumerate(sampling) if each.temperature > 0]
    if not drawn:
        return tokens
    chosen = [sampling[row] for row in drawn]
    scores = scores[drawn] / _column([each.temperature for each in chosen], scores)
    if any(each.top_k for each in chosen):
        scores = _keep_top_k(scores, [each.top_k or scores.shape[-1] for each in chosen])
    if any(each.top_p < 1 for each in chosen):
        scores = _keep_top_p(scores, _column([each.top_p for each in chosen], scores))
    tokens[drawn] = _draw(scores, [uniforms[row] for row in drawn])
    return tokens


def _column(values: Sequence[float], like: Tensor) -> Tensor:
    return torch.tensor(values, dtype=like.dtype, device=like.device).unsqueeze(-1)


def _keep_top_k(scores: Tensor, top_k: Sequence[int]) -> Tensor:
    vocab_size = scores.shape[-1]
    limited = [min(k, vocab_size) for k in top_k if k < vocab_size]
    if not limited:
        return scores
    likeliest = scores.topk(max(limited)).values
    last = torch.tensor([min(k, max(limited)) - 1 for k in top_k], device=scores.device).unsqueeze(-1)
    is_off = torch.tensor([k >= vocab_size for k in top_k], device=scores.device).unsqueeze(-1)
    return scores.masked_fill((scores < likeliest.gather(-1, last)) & ~is_off, -torch.inf)


def _keep_top_p(scores: Tensor, top_p: Tensor) -> Tensor:
    """Keep the smallest set of the likeliest tokens whose probability reaches `top_p` (Holtzman et al. 2020)."""
    log_z = scores.logsumexp(-1, keepdim=True)
    likeliest, order = scores.topk(min(_NUM_CANDIDATES, scores.shape[-1]))
    probs = (likeliest - log_z).exp()
    # Off the CPU, looking whether the candidates suffice would wait for the device, and sorting is quick.
    if scores.device.type != "cpu" or bool((probs.sum(-1, keepdim=True) < top_p).any()):
        likeliest, order = scores.sort(descending=True)
        probs = (likeliest - log_z).exp()
    before = probs.cumsum(-1) - probs  # the mass ahead of each token
    kept = likeliest.masked_fill(before >= top_p, -torch.inf)
    nucleus = torch.full_like(scores, -torch.inf).scatter(-1, order, kept)
    return torch.where(top_p < 1, nucleus, scores)


def _draw(scores: Tensor, uniforms: Sequence[float]) -> Tensor:
    # float64, or a 49k-term cumulative sum would drop rare tokens; MPS has none.
    dtype = torch.float32 if scores.device.type == "mps" else torch.float64
    cumulative = scores.to(dtype).softmax(-1).cumsum(-1)
    # right=True never lands on a token of probability 0: its interval is empty.
    tokens = torch.searchsorted(cumulative, cumulative[:, -1:] * _column(uniforms, cumulative), right=True)
    return tokens.squeeze(-1).clamp(max=scores.shape[-1] - 1)
