"""Renders the prompts of a call without running it, and scores given responses."""

import math
from collections.abc import Sequence
from concurrent.futures import Future

from langchain_core.messages import BaseMessage
from torch import Tensor

from langchain_amulet.chat.call import plan_of, render, render_stream
from langchain_amulet.chat.settings import CallSettings
from langchain_amulet.exceptions import NumericalError
from langchain_amulet.models.registry import LoadedModel
from langchain_amulet.personalization.resolved import ResolvedPreferences
from langchain_amulet.preferences import PreferenceLike, as_preferences
from langchain_amulet.prompts.encoding import encode


def prompts_of(
    loaded: LoadedModel, messages: Sequence[BaseMessage], resolved: ResolvedPreferences, settings: CallSettings
) -> list[list[int]]:
    """Return the token ids of the prompts that a call would run, in the order of the plan."""
    return render(loaded, messages, plan_of(loaded, resolved, settings), settings)


def score_response(
    loaded: LoadedModel,
    messages: Sequence[BaseMessage],
    response: str,
    preferences: PreferenceLike,
    settings: CallSettings,
) -> "Future[Tensor]":
    """Compute the log-probabilities of a response's tokens without preferences, and with each preference alone.

    Returns:
        A future of log-probabilities in nats, `(1 + num_preferences, num_tokens)`; row 0 is without preferences.

    Raises:
        InvalidParameterError: The response is empty or not a string.
        MessageError: The messages or the response cannot be encoded.
        ContextLengthError: Messages and response are longer than the model's context.
    """
    texts = [preference.text for preference in as_preferences(preferences)]
    return score_after(loaded, messages, response, [(), *((text,) for text in texts)], settings)


def score_after(
    loaded: LoadedModel,
    messages: Sequence[BaseMessage],
    response: str,
    streams: Sequence[Sequence[str]],
    settings: CallSettings,
) -> "Future[Tensor]":
    """Compute the log-probabilities of a response's tokens after several prompts; errors as for `score_response`.

    Args:
        loaded: The model.
        messages: The conversation so far.
        response: The text to score.
        streams: Per prompt, the texts of the preferences in it.
        settings: Settings of the call.

    Returns:
        A future of log-probabilities in nats, `(num_streams, num_tokens)`.
    """
    prompts = [render_stream(loaded, messages, texts, settings) for texts in streams]
    # ChatAmulet.get_token_ids may use another tokenizer.
    return loaded.engine.score(prompts, encode(loaded.tokenizer, response))


def mean_gains(log_probs: Tensor) -> list[float]:
    """Return by how much each preference raises the mean log-probability of a response's tokens.

    Args:
        log_probs: The result of `score_response`, in nats, `(1 + num_preferences, num_tokens)`.

    Returns:
        Per preference, the mean over tokens of its row minus row 0, in nats per token.

    Raises:
        NumericalError: One of the means is not finite.
    """
    gains: list[float] = (log_probs[1:].double() - log_probs[:1].double()).mean(dim=-1).tolist()
    if not all(map(math.isfinite, gains)):
        msg = "A token of this response has no finite log-probability. Load the model with dtype float32 or bfloat16."
        raise NumericalError(msg)
    return gains
