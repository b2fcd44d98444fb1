"""What a text tells of preferences: by how much each makes it more likely."""

from collections.abc import Sequence

from torch import Tensor

from langchain_amulet.preferences import Preference, StreamPlan


def single_streams(preferences: Sequence[str | Preference]) -> StreamPlan:
    """The base stream, and one stream for each preference by itself."""
    texts = [each.text if isinstance(each, Preference) else each for each in preferences]
    return StreamPlan(((), *((text,) for text in texts)), ())


def mean_gains(logprobs: Tensor) -> list[float]:
    """Per stream after the first, the mean over tokens of its log-probability less that of the first.

    Args:
        logprobs: `(streams, tokens)`, in nats.
    """
    gains: list[float] = (logprobs[1:].double() - logprobs[:1].double()).mean(dim=-1).tolist()
    return gains
