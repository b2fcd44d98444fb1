"""A chat model that tells which prompts it would run, and how likely texts are after them."""

import asyncio
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from typing import Any

from langchain_core.language_models import LanguageModelInput
from langchain_core.messages import BaseMessage
from pydantic import Field
from torch import Tensor

from langchain_amulet.chat.call import render
from langchain_amulet.chat.settings import CallSettings
from langchain_amulet.exceptions import NumericalError
from langchain_amulet.models.registry import LoadedModel
from langchain_amulet.personalization.entry_points import PersonalizedChatModel
from langchain_amulet.personalization.resolved import PreferenceArgument, resolve
from langchain_amulet.preferences import DEFAULT_MAX_STREAMS, DEFAULT_WORDING, Preference, StreamPlan, plan_streams
from langchain_amulet.realignment import RealignmentConfig
from langchain_amulet.structured.output_spec import as_openai_tool


class PromptingChatModel(PersonalizedChatModel, ABC):
    """What a model with prompt streams can be asked besides for answers."""

    realignment: RealignmentConfig = Field(default_factory=RealignmentConfig)
    """How strongly, and how carefully, answers follow preferences."""
    preference_template: str = DEFAULT_WORDING
    """How preferences are worded in the prompt: `{preferences}` stands for their texts, one per line."""
    max_streams: int = Field(default=DEFAULT_MAX_STREAMS, ge=2)
    """The most prompt streams that one answer may take, the base stream included."""

    def prompt_streams(self, messages: LanguageModelInput, preference: PreferenceArgument = None) -> list[list[int]]:
        """The token ids of the prompts that a call would run, the base stream first.

        Args:
            messages: What the call would be given.
            preference: What to prefer. `None` takes the field `preference`, as a call that names none does; `[]` is a
                plain answer.

        Returns:
            One prompt per stream. A plain answer has the base stream alone; a preference whose gain is exactly 1, the
            preference stream alone.
        """
        preferences = resolve(self.preference if preference is None else preference).preferences
        plan = plan_streams(preferences, self.realignment.guidance_scale, max_streams=self.max_streams)
        return self._render(self._convert_input(messages).to_messages(), plan, {})

    def evidence(
        self, messages: LanguageModelInput, response: str, preferences: Sequence[str | Preference]
    ) -> list[float]:
        """How much more likely each preference by itself makes a response.

        Args:
            messages: What the response is an answer to.
            response: Any text.
            preferences: Their texts count, and not their weights.

        Returns:
            Per preference, the mean over the response's tokens of d = log p(token | prompt with the preference)
            − log p(token | prompt), in nats per token. One forward for each preference, and one for all.

        Raises:
            InvalidParameterError: The response is empty.
            ContextLengthError: Messages and response are longer than the model's context.
            NumericalError: The model gives the response no finite probability.
        """
        return mean_gains(self._score(messages, response, preferences).result())

    async def aevidence(
        self, messages: LanguageModelInput, response: str, preferences: Sequence[str | Preference]
    ) -> list[float]:
        """Async `evidence`."""
        scored = await asyncio.to_thread(self._score, messages, response, preferences)  # may load the model
        return mean_gains(await asyncio.wrap_future(scored))

    def token_logprobs(self, messages: LanguageModelInput, response: str) -> list[float]:
        """How likely a response is without anyone's preference.

        Args:
            messages: What the response is an answer to.
            response: Any text.

        Returns:
            Per token of the response, log p(token | prompt, tokens before), in nats.

        Raises:
            InvalidParameterError: The response is empty.
            ContextLengthError: Messages and response are longer than the model's context.
        """
        logprobs: list[float] = self._score(messages, response, []).result()[0].tolist()
        return logprobs

    def _score(
        self, messages: LanguageModelInput, response: str, preferences: Sequence[str | Preference]
    ) -> "Future[Tensor]":
        plan = single_streams(preferences)
        prompts = self._render(self._convert_input(messages).to_messages(), plan, {})
        loaded = self.load()
        # Not get_token_ids, which may count by another tokenizer.
        return loaded.engine.score(prompts, loaded.tokenizer.encode(response, add_special_tokens=False))

    def get_token_ids(self, text: str) -> list[int]:
        """The model's own token ids of a text, without control tokens around it."""
        if self.custom_get_token_ids is not None:
            return self.custom_get_token_ids(text)
        ids: list[int] = self.load().tokenizer.encode(text, add_special_tokens=False)
        return ids

    def get_num_tokens_from_messages(self, messages: list[BaseMessage], tools: Sequence[Any] | None = None) -> int:
        """Tokens of the prompt that these messages and tools make, as `usage_metadata` counts them."""
        call = {"tools": [as_openai_tool(tool) for tool in tools or ()]}
        (base,) = self._render(messages, StreamPlan(((),), ()), call)
        return len(base)

    def _render(self, messages: list[BaseMessage], plan: StreamPlan, call: Mapping[str, Any]) -> list[list[int]]:
        loaded = self.load()
        return render(loaded, messages, plan, self._settings(loaded, call))

    @abstractmethod
    def _settings(self, loaded: LoadedModel, call: Mapping[str, Any]) -> CallSettings:
        """What holds for one call."""

    @abstractmethod
    def load(self) -> LoadedModel:
        """The model, its tokenizer and its engine."""


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
