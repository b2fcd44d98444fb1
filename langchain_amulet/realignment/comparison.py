"""Compares the realigned policy at one position with the policies of single prompts, for traces."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from langchain_amulet.exceptions import InvalidParameterError
from langchain_amulet.realignment.coefficients import StreamCoefficients
from langchain_amulet.realignment.kernel import realign_streams
from langchain_amulet.realignment.mixture import normalise

_MIN_SLOPE_RANGE = 1e-3  # nats; over a smaller range of log-ratios, rounding errors would change the measured step


@dataclass(frozen=True, slots=True)
class ComparedPolicies:
    """The policies with which a trace compares the realigned one, as coefficients of S streams' log-policies.

    Raises:
        InvalidParameterError: They have different numbers of coefficients.
    """

    base: tuple[float, ...]
    """Of the caller's prompt."""
    prompted: tuple[float, ...]
    """Of plain prompting with the preferences."""
    contrast: tuple[float, ...] | None
    """Of what the answer is steered away from. `None` if that is the caller's prompt, or if there is nothing."""
    gain: tuple[float, ...]
    """1 for each stream whose coefficients sum to the gain of a mixture, 0 for the others."""

    def __post_init__(self) -> None:
        """Check the numbers of coefficients."""
        numbers = {len(values) for values in (self.base, self.prompted, self.contrast, self.gain) if values is not None}
        if len(numbers) != 1:
            msg = f"A trace compares policies of the same streams; got {sorted(numbers)} coefficients."
            raise InvalidParameterError(msg)

    def gain_of(self, coefficients: Sequence[float]) -> float:
        """Return the gain of a mixture: 0 is the caller's prompt, 1 plain prompting; beyond 1 it is steered."""
        return math.fsum(a * b for a, b in zip(self.gain, coefficients, strict=True))


class Comparison(NamedTuple):
    """Policies at one position: normalised log-probabilities in nats, each `(V,)`."""

    realigned: Tensor
    """The policy from which the token was drawn, before penalty and temperature."""
    unguarded: Tensor
    """The same mixture without guards."""
    base: Tensor
    prompted: Tensor
    contrast: Tensor | None
    kl: float
    """KL(realigned ‖ prompted) in nats."""
    gain: float
    """The gain at which the token was drawn, after the trust region."""


def compare(
    logits: Tensor,
    realigned: Tensor,
    policies: ComparedPolicies,
    coefficients: StreamCoefficients,
    *,
    is_steered: bool = True,
    allowed: Tensor | None = None,
) -> Comparison:
    """Compare the policy of one position with those of its prompts.

    Args:
        logits: Next-token logits of the streams, `(S, V)`.
        realigned: Logits or log-probabilities from which the token was drawn, `(V,)`.
        policies: What to compare with.
        coefficients: Those of the request.
        is_steered: Whether the target applied; else the mixture for parts in which style is off.
        allowed: The tokens that a grammar allowed, bool `(V,)`. `None` allows all.
    """
    target = coefficients.target if is_steered else coefficients.unsteered
    mixtures = [target, coefficients.reference, policies.base, policies.prompted]
    if policies.contrast is not None:
        mixtures.append(policies.contrast)
    unguarded, reference, base, prompted, *contrast = _mixed(logits, mixtures, allowed)
    final = normalise(realigned.to(unguarded.dtype))
    step = _step(final, unguarded, reference)
    near, far = policies.gain_of(coefficients.reference), policies.gain_of(target)
    gain = near + step * (far - near)
    return Comparison(final, unguarded, base, prompted, contrast[0] if contrast else None, _kl(final, prompted), gain)


def _mixed(logits: Tensor, mixtures: Sequence[Sequence[float]], allowed: Tensor | None) -> Tensor:
    """Return the log-probabilities of each mixture, `(M, V)`."""
    number, (_, vocab) = len(mixtures), logits.shape
    dtype = torch.promote_types(logits.dtype, torch.float32)
    coefficients = torch.tensor(mixtures, dtype=dtype, device=logits.device)
    mask = None if allowed is None else allowed.to(logits.device).expand(number, vocab)
    return realign_streams(logits.expand(number, *logits.shape), coefficients, coefficients, allowed=mask)


def _kl(log_p: Tensor, log_r: Tensor) -> float:
    """Return KL(p ‖ r) in nats; rounding may not make it negative."""
    terms = torch.where(log_p == -math.inf, 0.0, log_p.exp() * (log_p - log_r))
    return max(0.0, float(terms.sum()))


def _step(realigned: Tensor, target: Tensor, reference: Tensor) -> float:
    """Return the s of log p = (1 − s) log r + s log q − log Z, from the two tokens whose log q − log r differ most.

    It is 1 if no trust region has shortened the step, and if the possible tokens do not tell.
    """
    is_possible = (realigned > -math.inf) & (target > -math.inf) & (reference > -math.inf)
    direction = torch.where(is_possible, target - reference, math.nan)
    low = torch.where(is_possible, direction, math.inf).argmin()
    high = torch.where(is_possible, direction, -math.inf).argmax()
    width = float(direction[high] - direction[low])
    if not width >= _MIN_SLOPE_RANGE:
        return 1.0
    moved = realigned - reference
    return float(moved[high] - moved[low]) / width
