"""`StreamCoefficients`: how much each prompt stream counts in the realigned policy."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from langchain_amulet.exceptions import InvalidParameterError

_TOLERANCE = 1e-6  # of a sum of coefficients


@dataclass(frozen=True, slots=True)
class StreamCoefficients:
    """The coefficients of S streams' log-policies in three mixtures. Each of them sums to 1.

        log q = Σ_s target_s log π_s − log Z,   log r = Σ_s reference_s log π_s − log Z

    A stream may have coefficients of 0: it runs, but changes no choice.

    Raises:
        InvalidParameterError: The numbers of coefficients differ, one is not finite, a sum is not 1, or the reference
            has a negative one.
    """

    target: tuple[float, ...]
    """Of the target q."""
    reference: tuple[float, ...]
    """Of the reference r, near which guards keep the result. None is negative."""
    unsteered: tuple[float, ...]
    """Of the policy that replaces q where style must not change the answer, as in tool calls."""

    def __post_init__(self) -> None:
        """Check that each mixture is a log-policy."""
        for name in ("target", "reference", "unsteered"):
            values = getattr(self, name)
            if len(values) != len(self.target) or not all(map(math.isfinite, values)):
                msg = f"{name} must have one finite coefficient per stream, {len(self.target)}; got {values}."
                raise InvalidParameterError(msg)
            if abs(sum(values) - 1) > _TOLERANCE * max([1.0, *map(abs, values)]):
                msg = f"The coefficients of {name} must sum to 1; got {values}."
                raise InvalidParameterError(msg)
        if min(self.reference) < 0:
            msg = f"The reference is a mixture without extrapolation: no coefficient below 0; got {self.reference}."
            raise InvalidParameterError(msg)

    def first(self, number: int) -> "StreamCoefficients":
        """Return the coefficients of the first streams, if those of the others are 0."""
        if number == len(self.target):
            return self
        return StreamCoefficients(self.target[:number], self.reference[:number], self.unsteered[:number])

    @classmethod
    def of_weights(cls, guidance_scale: float, weights: Sequence[float]) -> "StreamCoefficients":
        """Return the coefficients of `realign(base, prefs, guidance_scale, weights=weights)`, the base stream first.

        Where style is off, the guidance scale is limited to the range from 0 to 1.
        """
        return cls(
            with_base([guidance_scale * weight for weight in weights]),
            with_base(reference_gains([guidance_scale * weight for weight in weights])),
            with_base([min(max(guidance_scale, 0.0), 1.0) * weight for weight in weights]),
        )


def reference_gains(gains: Sequence[float]) -> list[float]:
    """Return u_k = max(g_k, 0) / max(1, Σ_j max(g_j, 0)), the gains of the nearest mixture without extrapolation.

    For lists, since plans are made before torch is imported; `mixture.reference_gains` is the same for tensors.
    """
    positive = [max(gain, 0.0) for gain in gains]
    return [gain / max(1.0, sum(positive)) for gain in positive]


def with_base(gains: Sequence[float]) -> tuple[float, ...]:
    """Return the coefficients of log π_base + Σ_k g_k (log π_k − log π_base), the base stream first."""
    rest = 1 - math.fsum(gains)
    return (0.0 if abs(rest) < _TOLERANCE else rest, *gains)
