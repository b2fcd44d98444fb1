"""Range checks for the parameters of realignment."""

import math

from langchain_amulet.exceptions import InvalidParameterError

MAX_GUIDANCE_SCALE = 1e4
"""Above this, float32 cannot resolve the differences of log-probabilities that steering depends on."""
MIN_POSITIVE = 1e-6
"""The lowest temperature and nucleus: a smaller divisor may overflow, a smaller mass may leave no token."""


def check_range(name: str, value: float, *, low: float, high: float = math.inf, remedy: str = "") -> None:
    """Raise `InvalidParameterError` if a value is not a finite number from `low` to `high`."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        msg = f"{name} must be a finite number, got {value!r}. {remedy}".rstrip()
        raise InvalidParameterError(msg)
    if not low <= value <= high:
        bounds = f"at least {low:g}" if high == math.inf else f"from {low:g} to {high:g}"
        msg = f"{name} must be {bounds}, got {value!r}. {remedy}".rstrip()
        raise InvalidParameterError(msg)
