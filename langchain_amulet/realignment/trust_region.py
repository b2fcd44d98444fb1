"""The trust region: bounds the KL divergence of the realigned policy from the reference."""

import math

import torch
from torch import Tensor

from langchain_amulet.realignment.mixture import normalise

_PRECISION = 2**20  # 1 / the error of the step s
_FULL_ROUNDS = 20  # of bisection, over the whole vocabulary
_MAX_SPARSE_SHARE = 0.25  # of the vocabulary; above it, gathering the possible tokens costs more than it saves
_SPARSE_ROUNDS = 4  # of 32 sections each: over few tokens, the number of operations costs more than their size


def within_trust_region(target: Tensor, reference: Tensor, max_kl: Tensor) -> Tensor:
    """Return the point p_s with the largest s ≤ 1 for which KL(p_s ‖ r) ≤ max_kl. The KL grows with s.

        log p_s = (1 − s) log r + s log q − log Z,   r and q renormalised over the tokens that are possible under q

    Args:
        target: log q, up to a constant per row, `(..., V)`; −inf for tokens that may not be chosen.
        reference: log r, up to a constant per row, `(..., V)`.
        max_kl: In nats, `(..., 1)`. Infinity allows s = 1.

    Returns:
        log p_s, up to a constant per row, `(..., V)`.
    """
    token_ids = _possible_token_ids(target)
    log_q = target if token_ids is None else target.gather(-1, token_ids)
    log_r = reference if token_ids is None else reference.gather(-1, token_ids)
    impossible = log_q.isneginf()
    log_r = normalise(log_r.masked_fill(impossible, -math.inf))
    direction = (normalise(log_q) - log_r).masked_fill(impossible, 0)

    s = _largest_step(log_r, direction, max_kl, rounds=_FULL_ROUNDS if token_ids is None else _SPARSE_ROUNDS)
    within = log_r + s * direction
    return within if token_ids is None else torch.full_like(target, -math.inf).scatter(-1, token_ids, within)


def _largest_step(log_r: Tensor, direction: Tensor, max_kl: Tensor, *, rounds: int) -> Tensor:
    """Return the largest s ≤ 1 with KL(p_s ‖ r) ≤ max_kl, `(..., 1)`. Each round divides the interval into sections."""

    def is_within(s: Tensor) -> Tensor:  # (..., P) to bool (..., P)
        unnormalised = log_r.unsqueeze(-2) + s.unsqueeze(-1) * direction.unsqueeze(-2)  # (..., P, V)
        mean_direction = (unnormalised.softmax(-1) * direction.unsqueeze(-2)).sum(-1)
        # KL(p_s ‖ r) = s E_{p_s}[log q − log r] − log Z
        return s * mean_direction - unnormalised.logsumexp(-1) <= max_kl

    num_sections = round(_PRECISION ** (1 / rounds))
    s = torch.zeros_like(log_r[..., :1])
    points = torch.arange(1, num_sections, device=s.device, dtype=s.dtype)
    for step in range(1, rounds + 1):
        width = num_sections**-step
        s = s + width * is_within(s + width * points).sum(-1, keepdim=True)
    return torch.where(is_within(torch.ones_like(s)), 1, s)


def _possible_token_ids(target: Tensor) -> Tensor | None:
    """Return the ids of the possible tokens if they are few; else `None`. On a GPU, counting would synchronise."""
    if target.device.type != "cpu":
        return None
    num_possible = max(1, int((target > -math.inf).sum(-1).max()))
    return target.topk(num_possible).indices if num_possible <= target.shape[-1] * _MAX_SPARSE_SHARE else None
