"""A chat model that finds out, where a call enters, who is asking and what they prefer."""

from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Sequence
from contextlib import aclosing
from typing import Any, cast

from langchain_core.callbacks import Callbacks
from langchain_core.language_models import BaseChatModel, LanguageModelInput
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage
from langchain_core.outputs import LLMResult
from langchain_core.runnables import RunnableBinding, RunnableConfig
from langchain_core.runnables.config import get_config_list
from pydantic import Field, field_validator

from langchain_amulet.memory.preference_memory import PreferenceMemory, as_memory
from langchain_amulet.personalization.lookup import OnStoreError, alook_up, find_lookup, look_up
from langchain_amulet.personalization.resolved import ResolvedPreferences, resolve

_MAX_THREADS = 256  # of one batch(); they wait for tokens and do little else


class PersonalizedChatModel(BaseChatModel):
    """Puts the preferences of a call's user into its arguments, as an opaque object, before LangChain sees them.

    LangChain's inner methods do not get the config, and its caches and traces are made of the arguments: so here, and
    only here, preferences are looked up.
    """

    memory: PreferenceMemory | None = Field(default=None, repr=False, exclude=True)
    """Where users' preferences are kept. `None`: in a LangGraph run that has a store, that store; else nowhere."""
    on_store_error: OnStoreError = "raise"
    """Whether a call whose user's preferences cannot be read fails, or is given a plain answer, with a warning and
    `response_metadata["amulet"]["store_error"]`."""
    preference: Any = Field(default=None, repr=False, exclude=True)
    """Preferences of a caller of whom nothing is remembered: a string, a `Preference`, or a list of those. Set it here,
    by `bind()` or per call; LangChain traces what `configurable_fields` are given in the config."""

    @field_validator("memory", mode="before")
    @classmethod
    def _wrap_store(cls, value: Any) -> Any:
        return as_memory(value)

    @field_validator("preference", mode="before")
    @classmethod
    def _make_preference_opaque(cls, value: Any) -> ResolvedPreferences | None:
        return None if value is None else resolve(value)

    def invoke(self, input: LanguageModelInput, config: RunnableConfig | None = None, **kwargs: Any) -> AIMessage:
        """Answer, as this config's user prefers."""
        return super().invoke(input, config, **self._resolved(config, kwargs))

    async def ainvoke(
        self, input: LanguageModelInput, config: RunnableConfig | None = None, **kwargs: Any
    ) -> AIMessage:
        """Answer, as this config's user prefers."""
        return await super().ainvoke(input, config, **await self._aresolved(config, kwargs))

    def stream(
        self, input: LanguageModelInput, config: RunnableConfig | None = None, **kwargs: Any
    ) -> Iterator[AIMessageChunk]:
        """Stream an answer, as this config's user prefers."""
        return super().stream(input, config, **self._resolved(config, kwargs))

    async def astream(
        self, input: LanguageModelInput, config: RunnableConfig | None = None, **kwargs: Any
    ) -> AsyncIterator[AIMessageChunk]:
        """Stream an answer, as this config's user prefers."""
        resolved = await self._aresolved(config, kwargs)
        stream = cast("AsyncGenerator[AIMessageChunk]", super().astream(input, config, **resolved))
        async with aclosing(stream) as chunks:
            async for chunk in chunks:
                yield chunk

    def batch(self, inputs: list[LanguageModelInput], config: Any = None, **kwargs: Any) -> list[AIMessage]:
        """Answer all inputs in one batch of the engine, each as its config's user prefers."""
        return super().batch(inputs, _unbounded(config, len(inputs)), **kwargs)

    def batch_as_completed(
        self, inputs: Sequence[LanguageModelInput], config: Any = None, **kwargs: Any
    ) -> Iterator[tuple[int, Any]]:
        """Answer all inputs in one batch of the engine; yields each answer, with its number, once it is complete."""
        return super().batch_as_completed(inputs, _unbounded(config, len(inputs)), **kwargs)

    def stream_events(self, input: LanguageModelInput, config: RunnableConfig | None = None, **kwargs: Any) -> Any:
        """Stream events of an answer, as this config's user prefers."""
        return super().stream_events(input, config, **self._resolved(config, kwargs))

    def astream_events(self, input: LanguageModelInput, config: RunnableConfig | None = None, **kwargs: Any) -> Any:
        """Stream events of an answer, as this config's user prefers."""
        if kwargs.get("version") != "v3":  # these go through astream
            return super().astream_events(input, config, **self._opaque(kwargs))
        return self._astream_events_v3(input, config, kwargs)

    def generate(
        self,
        messages: list[list[BaseMessage]],
        stop: list[str] | None = None,
        callbacks: Callbacks = None,
        **kwargs: Any,
    ) -> LLMResult:
        """Answer several conversations of one user."""
        return super().generate(messages, stop, callbacks, **self._resolved(None, kwargs))

    async def agenerate(
        self,
        messages: list[list[BaseMessage]],
        stop: list[str] | None = None,
        callbacks: Callbacks = None,
        **kwargs: Any,
    ) -> LLMResult:
        """Answer several conversations of one user."""
        return await super().agenerate(messages, stop, callbacks, **await self._aresolved(None, kwargs))

    def bind(self, **kwargs: Any) -> Any:
        """Fix call arguments; a preference among them shows no text in traces and `repr`."""
        return PersonalBinding(bound=self, kwargs=self._opaque(kwargs), config={})

    async def _astream_events_v3(
        self, input: LanguageModelInput, config: RunnableConfig | None, kwargs: dict[str, Any]
    ) -> Any:
        resolved = await self._aresolved(config, kwargs)
        return await super().astream_events(input, config, **resolved)

    def _resolved(self, config: RunnableConfig | None, kwargs: dict[str, Any]) -> dict[str, Any]:
        if "preference" in kwargs:
            return self._opaque(kwargs)
        lookup = find_lookup(config, self.memory)
        return self._opaque({**kwargs, "preference": look_up(lookup, resolve(self.preference), self.on_store_error)})

    async def _aresolved(self, config: RunnableConfig | None, kwargs: dict[str, Any]) -> dict[str, Any]:
        if "preference" in kwargs:
            return self._opaque(kwargs)
        lookup = find_lookup(config, self.memory)
        found = await alook_up(lookup, resolve(self.preference), self.on_store_error)
        return self._opaque({**kwargs, "preference": found})

    @staticmethod
    def _opaque(kwargs: dict[str, Any]) -> dict[str, Any]:
        # None falls back to the field, so it must not replace the field's value in LangChain's cache key.
        given = {name: value for name, value in kwargs.items() if value is not None}
        return {**given, "preference": resolve(kwargs["preference"])} if "preference" in kwargs else given


def _unbounded(config: RunnableConfig | Sequence[RunnableConfig] | None, num_inputs: int) -> list[RunnableConfig]:
    """Configs that let inputs wait in the engine, and not in LangChain's pool of a few threads."""
    configs = get_config_list(config, num_inputs)
    return [{**each, "max_concurrency": each.get("max_concurrency") or _MAX_THREADS} for each in configs]


class PersonalBinding(RunnableBinding[LanguageModelInput, AIMessage]):  # type: ignore[no-redef] # its field kwargs
    """A model with some arguments fixed, which fixes more of them without showing a preference among them either."""

    def bind(self, **arguments: Any) -> Any:
        """Fix more call arguments."""
        return super().bind(**PersonalizedChatModel._opaque(arguments))  # noqa: SLF001 - of the same room

    @classmethod
    def lc_id(cls) -> list[str]:
        """Saved as LangChain's own binding, which is what it does."""
        return RunnableBinding.lc_id()
