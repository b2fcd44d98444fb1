"""The plausibility and nucleus guards, as thresholds on reference log-probabilities.

A token may be chosen if its value in `reference` is at least the threshold of its row, `(..., 1)`. `reference` need not
be normalised. If several guards are on, the largest threshold applies.
"""

import math

from torch import Tensor


def plausibility_threshold(reference: Tensor, plausibility: Tensor) -> Tensor:
    """Return the threshold of r(x) ≥ β max r (Li et al. 2023, section 3.3); −inf for β = 0.

    Args:
        reference: log r, up to a constant per row, `(..., V)`.
        plausibility: β in [0, 1], `(..., 1)`.
    """
    return reference.amax(-1, keepdim=True) + plausibility.log()


def nucleus_threshold(reference: Tensor, nucleus: Tensor, temperature: Tensor) -> Tensor:
    """Return the log-probability of the least likely token of the nucleus (Holtzman et al. 2020).

    Args:
        reference: log r, up to a constant per row, `(..., V)`.
        nucleus: The probability that the most likely tokens must reach together, `(..., 1)`. 1 allows all.
        temperature: The temperature of the reference policy for that probability, `(..., 1)`.
    """
    ordered = reference.sort(-1, descending=True).values
    probs = (ordered / temperature).softmax(-1)
    mass_before = probs.cumsum(-1) - probs
    return ordered.masked_fill((mass_before >= nucleus) & (nucleus < 1), math.inf).amin(-1, keepdim=True)
