"""What a text tells of preferences: by how much each makes it more likely."""

import math
from collections.abc import Sequence

from torch import Tensor

from langchain_amulet.exceptions import NumericalError
from langchain_amulet.preferences import Preference, StreamPlan


def single_streams(preferences: Sequence[str | Preference]) -> StreamPlan:
    """The base stream, and one stream for each preference by itself."""
    texts = [each.text if isinstance(each, Preference) else each for each in preferences]
    return StreamPlan(((), *((text,) for text in texts)), ())


def mean_gains(logprobs: Tensor) -> list[float]:
    """Per stream after the first, the mean over tokens of its log-probability less that of the first.

    Args:
        logprobs: `(streams, tokens)`, in nats.

    Raises:
        NumericalError: One of them is not finite.
    """
    gains: list[float] = (logprobs[1:].double() - logprobs[:1].double()).mean(dim=-1).tolist()
    if not all(map(math.isfinite, gains)):
        msg = "The model gives a token of this text no finite probability. Load it with dtype float32 or bfloat16."
        raise NumericalError(msg)
    return gains
