"""What a model would be prompted with, and how likely it finds a text."""

import math
from collections.abc import Sequence
from concurrent.futures import Future

from langchain_core.messages import BaseMessage
from torch import Tensor

from langchain_amulet.chat.call import render
from langchain_amulet.chat.settings import CallSettings
from langchain_amulet.exceptions import NumericalError
from langchain_amulet.models.registry import LoadedModel
from langchain_amulet.personalization.resolved import ResolvedPreferences
from langchain_amulet.preferences import Preference, StreamPlan, plan_streams

BASE_STREAM = StreamPlan(((),), ())


def prompts_of(
    loaded: LoadedModel, messages: Sequence[BaseMessage], resolved: ResolvedPreferences, settings: CallSettings
) -> list[list[int]]:
    """The token ids of the prompts that a call would run, the base stream first."""
    scale = settings.effective_realignment.guidance_scale
    plan = plan_streams(resolved.preferences, scale, max_streams=settings.max_streams)
    return render(loaded, messages, plan, settings)


def score_response(
    loaded: LoadedModel,
    messages: Sequence[BaseMessage],
    response: str,
    preferences: Sequence[str | Preference],
    settings: CallSettings,
) -> "Future[Tensor]":
    """Score a response without preferences, and with each preference by itself.

    Returns:
        A future of log-probabilities in nats, `(1 + preferences, tokens)`.
    """
    texts = [each.text if isinstance(each, Preference) else each for each in preferences]
    prompts = render(loaded, messages, StreamPlan(((), *((text,) for text in texts)), ()), settings)
    # Not get_token_ids, which may count with another tokenizer.
    return loaded.engine.score(prompts, loaded.tokenizer.encode(response, add_special_tokens=False))


def mean_gains(log_probs: Tensor) -> list[float]:
    """Per stream after the first, the mean over tokens of its log-probability less that of the first stream.

    Args:
        log_probs: `(streams, tokens)`, in nats.

    Returns:
        One number per stream after the first, in nats per token.

    Raises:
        NumericalError: One of them is not finite.
    """
    gains: list[float] = (log_probs[1:].double() - log_probs[:1].double()).mean(dim=-1).tolist()
    if not all(map(math.isfinite, gains)):
        msg = "The model gives a token of this text no finite probability. Load it with dtype float32 or bfloat16."
        raise NumericalError(msg)
    return gains
