"""Token ids as arrays, for comparisons."""

import numpy as np
from numpy.typing import NDArray

Tokens = NDArray[np.int64]


def common_prefix_length(a: Tokens, b: Tokens) -> int:
    """Return the length of the common prefix."""
    shorter = min(len(a), len(b))
    differs = a[:shorter] != b[:shorter]
    return int(differs.argmax()) if differs.any() else shorter
