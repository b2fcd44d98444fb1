"""Token ids as arrays, to compare prompts."""

import numpy as np
from numpy.typing import NDArray

Tokens = NDArray[np.int64]


def common_prefix_length(a: Tokens, b: Tokens) -> int:
    """How many tokens two prompts have in common from their beginning on."""
    shorter = min(len(a), len(b))
    differs = a[:shorter] != b[:shorter]
    return int(differs.argmax()) if differs.any() else shorter
