"""The entropy floor: keeps the realigned policy from being surer of its choice than the reference is."""

import math

import torch
from torch import Tensor

from langchain_amulet.realignment.line_search import largest_step, possible_token_ids
from langchain_amulet.realignment.mixture import normalise

_TOLERANCE = 1e-5  # nats; rounding in float32 must not flatten a policy that is at the floor


def above_entropy_floor(target: Tensor, reference: Tensor, share: Tensor) -> Tensor:
    """Return the policy q^τ / Z with the largest τ ≤ 1 for which H(q^τ / Z) ≥ ρ H(r).

    Amplifying a preference also makes the policy peaked, and drawing from a peaked policy ends in loops. This undoes
    the second and keeps the first: the order of the tokens stays, so greedy choices do too. H is the entropy in nats,
    and r is renormalised over the tokens that are possible under q. H falls with τ, since d/dτ H = −τ Var(log q), the
    variance under q^τ / Z. At τ = 0 the policy is uniform and H(r) is at most its entropy, so there is such a τ.

    Args:
        target: log q, up to a constant per row, `(..., V)`; −inf for tokens that may not be chosen.
        reference: log r, up to a constant per row, `(..., V)`.
        share: ρ in [0, 1], `(..., 1)`. 0 changes nothing.

    Returns:
        log q^τ, up to a constant per row, `(..., V)`.
    """
    token_ids = possible_token_ids(target)
    log_q = target if token_ids is None else target.gather(-1, token_ids)
    log_r = reference if token_ids is None else reference.gather(-1, token_ids)
    impossible = log_q.isneginf()
    log_q = normalise(log_q).masked_fill(impossible, 0)
    log_r = normalise(log_r.masked_fill(impossible, -math.inf)).masked_fill(impossible, 0)
    barrier = torch.zeros_like(log_q).masked_fill(impossible, -math.inf)
    floor = share * _entropy(log_r, barrier).unsqueeze(-1) - _TOLERANCE

    def is_within(tau: Tensor) -> Tensor:  # (..., P) to bool (..., P)
        return _entropy(tau.unsqueeze(-1) * log_q.unsqueeze(-2), barrier.unsqueeze(-2)) >= floor

    flattened = largest_step(is_within, log_q, is_sparse=token_ids is not None) * log_q + barrier
    return flattened if token_ids is None else torch.full_like(target, -math.inf).scatter(-1, token_ids, flattened)


def _entropy(log_weights: Tensor, barrier: Tensor) -> Tensor:
    """Return the entropy of softmax(log_weights + barrier) in nats, `(...)`; NaN if no token is possible.

    Args:
        log_weights: Finite, also where the barrier is −inf, `(..., V)`.
        barrier: 0 for possible tokens and −inf for others, broadcast to `log_weights`.
    """
    weights = log_weights + barrier
    return weights.logsumexp(-1) - (weights.softmax(-1) * log_weights).sum(-1)
