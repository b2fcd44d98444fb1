"""Public entry points of a chat model (`invoke`, `stream`, ...), which look up preferences.

LangChain's inner methods, such as `_generate`, do not receive the config. So the entry points look preferences up, and
pass them on as an opaque call argument, which LangChain's cache keys and traces contain.
"""

from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Mapping, Sequence
from contextlib import aclosing
from typing import Any, NamedTuple, cast

from langchain_core.callbacks import Callbacks
from langchain_core.language_models import BaseChatModel, LanguageModelInput
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage
from langchain_core.outputs import LLMResult
from langchain_core.prompt_values import PromptValue
from langchain_core.runnables import RunnableBinding, RunnableConfig
from langchain_core.runnables.config import get_config_list
from langchain_core.runnables.configurable import RunnableConfigurableFields
from langchain_core.runnables.utils import AnyConfigurableField

from langchain_amulet.foreign_errors import failed_config, failed_input, shielded, unexpected
from langchain_amulet.memory.access import num_deletions
from langchain_amulet.memory.preference_memory import PreferenceMemory
from langchain_amulet.personalization.lookup import OnStoreError, alook_up, find_caller, find_lookup, look_up
from langchain_amulet.personalization.resolved import ResolvedPreferences, as_of_now, for_caller, resolve
from langchain_amulet.prompts.conversation import check_messages

_MAX_THREADS = 256  # of one batch(); the threads mostly wait for tokens


class PreferenceSettings(NamedTuple):
    """Where a chat model takes the preferences of its users from."""

    memory: PreferenceMemory | None
    default: ResolvedPreferences
    """The preferences of calls without a user and of users without stored preferences."""
    on_store_error: OnStoreError


class PersonalizedChatModel(BaseChatModel, ABC):
    """A chat model whose entry points look up preferences. All fields are in the subclass, `ChatAmulet`."""

    @property
    @abstractmethod
    def preference_settings(self) -> PreferenceSettings:
        """Where calls take their preferences from."""

    @abstractmethod
    def checked_arguments(self, kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """Return the arguments of a call without those that the model does not know, with a warning."""

    def invoke(self, input: LanguageModelInput, config: RunnableConfig | None = None, **kwargs: Any) -> AIMessage:
        """Answer as the config's user prefers.

        Args:
            input: The prompt or the messages.
            config: LangChain's config. `configurable["user_id"]` is the user whose preferences the answer follows.
            kwargs: Call arguments. With a `preference` among them, no preferences are looked up.

        Raises:
            UserIdError: The user id is empty, not a string, or differs from the authenticated user.
        """
        return super().invoke(input, config, **self._with_preference(config, kwargs))

    async def ainvoke(
        self, input: LanguageModelInput, config: RunnableConfig | None = None, **kwargs: Any
    ) -> AIMessage:
        """Async `invoke`."""
        return await super().ainvoke(input, config, **await self._awith_preference(config, kwargs))

    def stream(
        self, input: LanguageModelInput, config: RunnableConfig | None = None, **kwargs: Any
    ) -> Iterator[AIMessageChunk]:
        """Stream an answer as the config's user prefers; arguments and errors as for `invoke`."""
        return super().stream(input, config, **self._with_preference(config, kwargs))

    async def astream(
        self, input: LanguageModelInput, config: RunnableConfig | None = None, **kwargs: Any
    ) -> AsyncIterator[AIMessageChunk]:
        """Async `stream`."""
        arguments = await self._awith_preference(config, kwargs)
        stream = cast("AsyncGenerator[AIMessageChunk]", super().astream(input, config, **arguments))
        async with aclosing(stream) as chunks:
            async for chunk in chunks:
                yield chunk

    def batch(self, inputs: list[LanguageModelInput], config: Any = None, **kwargs: Any) -> list[AIMessage]:
        """Answer all inputs in one batch of the engine. Each answer follows the preferences of its config's user."""
        return super().batch(inputs, _unbounded(inputs, config), **kwargs)

    def batch_as_completed(
        self, inputs: Sequence[LanguageModelInput], config: Any = None, **kwargs: Any
    ) -> Iterator[tuple[int, Any]]:
        """Answer all inputs in one batch of the engine; yield `(index, answer)` when an answer is complete."""
        return super().batch_as_completed(inputs, _unbounded(inputs, config), **kwargs)

    async def abatch(self, inputs: list[LanguageModelInput], config: Any = None, **kwargs: Any) -> list[AIMessage]:
        """Async `batch`."""
        return await super().abatch(inputs, _one_each(inputs, config), **kwargs)

    async def abatch_as_completed(
        self, inputs: Sequence[LanguageModelInput], config: Any = None, **kwargs: Any
    ) -> AsyncIterator[tuple[int, Any]]:
        """Async `batch_as_completed`."""
        async for answer in super().abatch_as_completed(inputs, _one_each(inputs, config), **kwargs):
            yield answer

    def stream_events(self, input: LanguageModelInput, config: RunnableConfig | None = None, **kwargs: Any) -> Any:
        """Stream the events of an answer as the config's user prefers."""
        return super().stream_events(input, config, **self._with_preference(config, kwargs))

    def astream_events(self, input: LanguageModelInput, config: RunnableConfig | None = None, **kwargs: Any) -> Any:
        """Stream the events of an answer as the config's user prefers."""
        if kwargs.get("version") != "v3":  # older versions call astream(), which looks preferences up
            return super().astream_events(input, config, **self._opaque_arguments(kwargs))
        return self._astream_events_v3(input, config, kwargs)

    def generate(
        self,
        messages: list[list[BaseMessage]],
        stop: list[str] | None = None,
        callbacks: Callbacks = None,
        **kwargs: Any,
    ) -> LLMResult:
        """Answer several conversations of one user."""
        _check_conversations(messages)
        return super().generate(messages, stop, callbacks, **self._with_preference(None, kwargs))

    async def agenerate(
        self,
        messages: list[list[BaseMessage]],
        stop: list[str] | None = None,
        callbacks: Callbacks = None,
        **kwargs: Any,
    ) -> LLMResult:
        """Answer several conversations of one user."""
        _check_conversations(messages)
        return await super().agenerate(messages, stop, callbacks, **await self._awith_preference(None, kwargs))

    def bind(self, **kwargs: Any) -> Any:
        """Return the model with call arguments fixed. Traces and `repr` do not show the text of a preference."""
        return PersonalizedBinding(bound=self, kwargs=self._opaque_arguments(kwargs), config={})

    def configurable_fields(self, **kwargs: AnyConfigurableField) -> Any:
        """Return the model with fields that configs can set. Preferences that are bound to it stay opaque."""
        configurable: Any = super().configurable_fields(**kwargs)
        return PersonalizedConfigurable(**dict(configurable))

    def with_config(self, config: RunnableConfig | None = None, **kwargs: Any) -> Any:
        """Return the model with a config. Preferences that are bound to it stay opaque."""
        binding: Any = super().with_config(config, **kwargs)
        return PersonalizedBinding(**dict(binding))

    @shielded(failed_input)
    def _convert_input(self, model_input: LanguageModelInput) -> PromptValue:
        value = super()._convert_input(model_input)
        check_messages(value.to_messages())
        return value

    @shielded(unexpected)
    def _opaque_arguments(self, kwargs: Mapping[str, Any]) -> dict[str, Any]:
        return opaque_arguments(self.checked_arguments(kwargs))

    async def _astream_events_v3(
        self, input: LanguageModelInput, config: RunnableConfig | None, kwargs: dict[str, Any]
    ) -> Any:
        arguments = await self._awith_preference(config, kwargs)
        return await super().astream_events(input, config, **arguments)

    @shielded(unexpected)
    def _with_preference(self, config: RunnableConfig | None, kwargs: dict[str, Any]) -> dict[str, Any]:
        arguments, before = self._opaque_arguments(kwargs), num_deletions()
        if "preference" not in arguments:
            memory, default, on_store_error = self.preference_settings
            arguments["preference"] = look_up(find_lookup(config, memory), default, on_store_error)
        resolved = as_of_now(arguments["preference"])
        return {**arguments, "preference": for_caller(resolved, find_caller(config), before)}

    @shielded(unexpected)
    async def _awith_preference(self, config: RunnableConfig | None, kwargs: dict[str, Any]) -> dict[str, Any]:
        arguments, before = self._opaque_arguments(kwargs), num_deletions()
        if "preference" not in arguments:
            memory, default, on_store_error = self.preference_settings
            arguments["preference"] = await alook_up(find_lookup(config, memory), default, on_store_error)
        resolved = as_of_now(arguments["preference"])
        return {**arguments, "preference": for_caller(resolved, find_caller(config), before)}


def opaque_arguments(kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Return call arguments without those that are `None`, and with the preference as an opaque object.

    An argument of `None` means the field's value; LangChain's cache key must be the same as without the argument. The
    exception is `preference`: `None` means a plain answer, so it is kept.
    """
    arguments = {name: value for name, value in kwargs.items() if value is not None}
    return {**arguments, "preference": resolve(kwargs["preference"])} if "preference" in kwargs else arguments


@shielded(failed_config)
def _one_each(
    inputs: Sequence[LanguageModelInput], config: RunnableConfig | Sequence[RunnableConfig] | None
) -> list[RunnableConfig]:
    """Return one config per input."""
    return get_config_list(config, len(inputs))


def _unbounded(
    inputs: Sequence[LanguageModelInput], config: RunnableConfig | Sequence[RunnableConfig] | None
) -> list[RunnableConfig]:
    """Return configs with which inputs queue in the engine rather than in LangChain's small thread pool."""
    configs = _one_each(inputs, config)
    return [{**item, "max_concurrency": item.get("max_concurrency") or _MAX_THREADS} for item in configs]


@shielded(failed_input)
def _check_conversations(messages: Sequence[Sequence[BaseMessage]]) -> None:
    for conversation in messages:
        check_messages(conversation)


class PersonalizedConfigurable(RunnableConfigurableFields):  # type: ignore[type-arg] # pydantic cannot set them
    """A model with configurable fields. Unlike LangChain's, its `bind` makes preferences opaque."""

    def bind(self, **kwargs: Any) -> Any:
        """Return the model with call arguments fixed."""
        arguments = opaque_arguments(_model_of(self).checked_arguments(kwargs))
        return PersonalizedBinding(bound=self, kwargs=arguments, config={})

    @classmethod
    def lc_id(cls) -> list[str]:
        """Return the id of LangChain's own class."""
        return RunnableConfigurableFields.lc_id()


class PersonalizedBinding(RunnableBinding[LanguageModelInput, AIMessage]):  # type: ignore[no-redef] # its field kwargs
    """A model with some call arguments fixed. Unlike LangChain's, its `bind` makes preferences opaque too."""

    def bind(self, **arguments: Any) -> Any:
        """Return the model with more call arguments fixed."""
        return super().bind(**opaque_arguments(_model_of(self).checked_arguments(arguments)))

    @classmethod
    def lc_id(cls) -> list[str]:
        """Return the id of LangChain's own binding, so that saved copies are loaded as one."""
        return RunnableBinding.lc_id()


def _model_of(runnable: Any) -> PersonalizedChatModel:
    """Return the model within bindings and configurable fields."""
    while not isinstance(runnable, PersonalizedChatModel):
        runnable = runnable.bound if isinstance(runnable, RunnableBinding) else runnable.default
    return runnable
