"""Mixtures of the policies of several streams in log space, with zero probabilities."""

import math

import torch
from torch import Tensor


class Mixture:
    """Evaluates log π_1 + Σ_k g_k (log π_k − log π_1), a sum over the other streams k, at several gains g.

    Args:
        first: Logits of the first stream, `(..., V)`.
        others: Logits of the K other streams, `(..., K, V)`.
        coefficient: The coefficient of the first stream in the target, 1 − Σ_k g_k, `(...)`.
        gains: The coefficients of the others in the target, `(..., K)`. A token is impossible if it is −inf in a stream
            whose coefficient is not 0.
        allowed: Tokens that may be chosen, bool `(..., V)`, or `None` for all.
    """

    def __init__(
        self, first: Tensor, others: Tensor, coefficient: Tensor, gains: Tensor, allowed: Tensor | None
    ) -> None:
        self._barrier: Tensor | None = None  # 0, or −inf for an impossible token, (..., V)
        self._keeps_policy: Tensor | None = None  # 1 per row, or 0 where the policy is uniform instead, (..., 1)
        finite, rest = first, others
        if allowed is not None or not _is_known_finite(first, others):
            # 0 in place of −inf keeps the sums finite; the barrier marks the replaced entries.
            finite, rest = (stream.nan_to_num(nan=math.nan, neginf=0.0) for stream in (first, others))
            barrier = (first - finite).maximum(_zero_where_unused(coefficient))
            for k in range(gains.shape[-1]):
                stream = (others - rest)[..., k, :]
                barrier = barrier + stream.maximum(_zero_where_unused(gains[..., k]))
            self._barrier, self._keeps_policy = _restrict(barrier, allowed)
        self._first = finite
        self._directions = (rest - finite.unsqueeze(-2)).unbind(-2)  # K of (..., V)

    def policy(self, gains: Tensor) -> Tensor:
        """Return the mixture at gains `(..., K)`, not normalised, `(..., V)`.

        A matrix product would be shorter, but autocast and TF32 round it.
        """
        mixed = self._first
        for gain, direction in zip(gains.unsqueeze(-1).unbind(-2), self._directions, strict=True):
            mixed = torch.addcmul(mixed, gain, direction)
        if self._barrier is None or self._keeps_policy is None:
            return mixed
        return mixed * self._keeps_policy + self._barrier


def reference_gains(gains: Tensor) -> Tensor:
    """Return u_k = max(g_k, 0) / max(1, Σ_j max(g_j, 0)): the nearest mixture without extrapolation, `(..., K)`."""
    positive = gains.clamp(min=0)
    return positive / positive.sum(-1, keepdim=True).clamp(min=1)


def normalise(log_probs: Tensor) -> Tensor:
    """Return the log-softmax over the last dimension; a row of only −inf stays −inf and does not become NaN."""
    is_empty = log_probs.amax(-1, keepdim=True) == -math.inf
    return log_probs.log_softmax(-1).where(~is_empty, -math.inf)


def _is_known_finite(*streams: Tensor) -> bool:
    """Whether all logits are known to be finite. `False` on a GPU, where the check would synchronise."""
    return all(stream.device.type == "cpu" and math.isfinite(stream.sum().item()) for stream in streams)


def _zero_where_unused(gain: Tensor) -> Tensor:
    """Return 0 where the gain is 0, so that the stream's −inf entries do not count; else −inf, `(..., 1)`."""
    return torch.where(gain == 0, 0.0, -math.inf).unsqueeze(-1)


def _restrict(barrier: Tensor, allowed: Tensor | None) -> tuple[Tensor, Tensor]:
    """Add the tokens that are not allowed to the barrier. A row that would lose all tokens gets all allowed ones back.

    Returns:
        The barrier, 0 or −inf, `(..., V)`; and 1 per row, or 0 where the policy is uniform over the allowed tokens,
        `(..., 1)`.
    """
    forbidden = barrier.new_zeros(())
    if allowed is not None:
        forbidden = torch.where(allowed, forbidden, -math.inf)
        barrier = barrier + forbidden
    is_empty = barrier.amax(-1, keepdim=True) == -math.inf
    lifted = forbidden + torch.where(is_empty, 0.0, -math.inf)
    return barrier.maximum(lifted), (~is_empty).to(barrier.dtype)
