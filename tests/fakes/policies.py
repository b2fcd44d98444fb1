"""Random policies over a small vocabulary, and the equations of realignment written out."""

import torch
from hypothesis import strategies as st
from torch import Tensor

seeds = st.integers(0, 2**32 - 1)


def logits(seed: int, *shape: int, scale: float = 3.0) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)) * scale


def kl(log_p: Tensor, log_q: Tensor) -> Tensor:
    return torch.where(log_p.isneginf(), 0, log_p.exp() * (log_p - log_q)).sum(-1)


def reference_policy(base: Tensor, prefs: Tensor, w: float, weights: Tensor) -> Tensor:
    """The equation of the reference, written out: base plus the liked directions, their gains scaled to sum <= 1."""
    liked = (w * weights).clamp(min=0)
    u = liked / max(1.0, liked.sum().item())
    log_base = base.log_softmax(-1)
    return (log_base + (u[:, None] * (prefs.log_softmax(-1) - log_base)).sum(0)).log_softmax(-1)
