"""The largest step at which a condition holds, for all rows at once and without waiting for the device."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

_PRECISION = 2**20  # 1 / the error of the step
_FULL_ROUNDS = 20  # of bisection, over the whole vocabulary
_MAX_SPARSE_SHARE = 0.25  # of the vocabulary; above it, gathering the possible tokens costs more than it saves
_SPARSE_ROUNDS = 4  # of 32 sections each: over few tokens, the number of operations costs more than their size


def largest_step(is_within: Callable[[Tensor], Tensor], like: Tensor, *, is_sparse: bool) -> Tensor:
    """Return the largest s in [0, 1] at which a condition holds, `(..., 1)`; 0 if it holds nowhere else.

    Args:
        is_within: Takes P steps, `(..., P)`, and returns whether the condition holds at each, bool `(..., P)`. If it
            holds at a step, it must hold at all smaller ones.
        like: The tokens of each row, `(..., V)`.
        is_sparse: Whether V is small.
    """
    rounds = _SPARSE_ROUNDS if is_sparse else _FULL_ROUNDS
    num_sections = round(_PRECISION ** (1 / rounds))
    s = torch.zeros_like(like[..., :1])
    points = torch.arange(1, num_sections, device=s.device, dtype=s.dtype)
    for step in range(1, rounds + 1):
        width = num_sections**-step
        s = s + width * is_within(s + width * points).sum(-1, keepdim=True)
    return torch.where(is_within(torch.ones_like(s)), 1, s)


def possible_token_ids(target: Tensor) -> Tensor | None:
    """Return the ids of the possible tokens if they are few; else `None`. On a GPU, counting would synchronise."""
    if target.device.type != "cpu":
        return None
    num_possible = max(1, int((target > -math.inf).sum(-1).max()))
    return target.topk(num_possible).indices if num_possible <= target.shape[-1] * _MAX_SPARSE_SHARE else None
