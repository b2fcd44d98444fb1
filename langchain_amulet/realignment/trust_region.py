"""The trust region: bounds the KL divergence of the realigned policy from the reference."""

import math

import torch
from torch import Tensor

from langchain_amulet.realignment.line_search import largest_step, possible_token_ids
from langchain_amulet.realignment.mixture import normalise


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
    token_ids = possible_token_ids(target)
    log_q = target if token_ids is None else target.gather(-1, token_ids)
    log_r = reference if token_ids is None else reference.gather(-1, token_ids)
    impossible = log_q.isneginf()
    log_r = normalise(log_r.masked_fill(impossible, -math.inf))
    direction = (normalise(log_q) - log_r).masked_fill(impossible, 0)

    def is_within(s: Tensor) -> Tensor:  # (..., P) to bool (..., P)
        unnormalised = log_r.unsqueeze(-2) + s.unsqueeze(-1) * direction.unsqueeze(-2)  # (..., P, V)
        mean_direction = (unnormalised.softmax(-1) * direction.unsqueeze(-2)).sum(-1)
        # KL(p_s ‖ r) = s E_{p_s}[log q − log r] − log Z
        return s * mean_direction - unnormalised.logsumexp(-1) <= max_kl

    s = largest_step(is_within, log_r, is_sparse=token_ids is not None)
    within = log_r + s * direction
    return within if token_ids is None else torch.full_like(target, -math.inf).scatter(-1, token_ids, within)
