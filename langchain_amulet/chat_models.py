"""ChatAmulet: a LangChain chat model whose answers follow each user's preferences."""

import asyncio
import gc
import os
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import asdict
from typing import Any, Self, cast
from weakref import WeakKeyDictionary

import torch
from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun, Callbacks
from langchain_core.language_models import BaseChatModel, LangSmithParams, LanguageModelInput
from langchain_core.language_models.chat_models import agenerate_from_stream, generate_from_stream
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage
from langchain_core.outputs import ChatGenerationChunk, ChatResult, LLMResult
from langchain_core.runnables import RunnableConfig
from langchain_core.runnables.config import get_config_list
from langgraph.store.base import BaseStore
from pydantic import ConfigDict, Field, PrivateAttr, field_validator, model_validator

from langchain_amulet.calls import Call, prepare_call, render
from langchain_amulet.engine.config import EngineConfig
from langchain_amulet.engine.params import SamplingParams
from langchain_amulet.exceptions import ModelClosedError
from langchain_amulet.memory import PreferenceMemory, tell_when_forgetting
from langchain_amulet.models import LoadedModel, check_source, load, model_name
from langchain_amulet.preferences import DEFAULT_MAX_STREAMS, Preference, as_preferences, plan_streams
from langchain_amulet.realignment import RealignmentConfig
from langchain_amulet.resolution import PreferenceArgument, find_lookup, resolve
from langchain_amulet.settings import (
    SAMPLING_NAMES,
    check_realignment,
    check_stop,
    given,
    sampling_params,
    warn_of_unknown,
)

_CALL_ARGUMENTS = {*SAMPLING_NAMES, "preference", "realignment", "stream"}

_MAX_THREADS = 256  # of one batch(); they wait for tokens and do little else

# Tells apart models that the user has loaded: their names may be equal, their weights not.
_fingerprints: "WeakKeyDictionary[object, str]" = WeakKeyDictionary()


class ChatAmulet(BaseChatModel):
    """Chat with a local model that answers each user as they prefer, by Amulet's test-time realignment.

    At every token, the next-token distribution under the caller's prompt and the one under the same prompt plus the
    user's preferences are combined in closed form: no training, no adapters, no reward model. Weights load on first use
    and are shared by all instances that name the same model.

    Instantiate:
        ```python
        from langchain_amulet import ChatAmulet, PreferenceMemory

        memory = PreferenceMemory()
        memory.remember("alice@example.com", "Answer as concisely as possible.")
        llm = ChatAmulet(model="HuggingFaceTB/SmolLM2-135M-Instruct", memory=memory)
        ```

    Invoke, as one user or another:
        ```python
        llm.invoke("What is a black hole?", {"configurable": {"user_id": "alice@example.com"}})
        ```

    Stream, with a preference for this call alone:
        ```python
        for chunk in llm.stream("What is a black hole?", preference="Answer like a pirate."):
            print(chunk.text, end="", flush=True)
        ```

    Whose preferences count for a call: its own `preference=` if there is one (`None` or `[]` asks for a plain answer);
    else what the memory holds for the config's user; else the field `preference`.

    References:
        Zhang et al., Amulet, ICLR 2025: https://arxiv.org/abs/2502.19148
    """

    model: Any = Field(default=None, repr=False)
    """Hub id, local folder, GGUF file, or a loaded `PreTrainedModel`. `None` is the packaged SmolLM2-135M-Instruct."""
    tokenizer: Any = Field(default=None, repr=False)
    """A fast tokenizer, or where to load it from; needed with a loaded model. `None` takes the model's own."""
    model_kwargs: dict[str, Any] = Field(default_factory=dict, repr=False)
    """For `from_pretrained`: `dtype`, `device_map`, `quantization_config`, `attn_implementation`, `revision`, ..."""
    memory: PreferenceMemory | None = Field(default=None, repr=False)
    """Where users' preferences are kept. `None`: in a LangGraph run that has a store, that store; else nowhere."""
    preference: Any = Field(default=None, repr=False, exclude=True)
    """Preferences of a caller of whom nothing is remembered: a string, a `Preference`, or a list of those. Set it here,
    by `bind()` or per call; LangChain traces what `configurable_fields` are given in the config."""
    realignment: RealignmentConfig = Field(default_factory=RealignmentConfig)
    """How strongly, and how carefully, answers follow preferences."""
    engine_config: EngineConfig | None = Field(default=None, repr=False)
    """How many requests the model answers at once, with how much memory. All who use the same model share its engine,
    so other limits than those of its first user are refused. `None` takes those, else suits the device."""
    max_streams: int = Field(default=DEFAULT_MAX_STREAMS, ge=2)
    """The most prompt streams that one answer may take, the base stream included."""
    temperature: float | None = None
    """0 is greedy. For this and the fields below, `None` takes the model's generation config."""
    top_p: float | None = None
    """Only the likeliest tokens that together reach this probability may be drawn."""
    top_k: int | None = None
    """Only this many of the likeliest tokens may be drawn."""
    repetition_penalty: float | None = None
    """Above 1, tokens of the prompt and of the answer so far become less likely."""
    max_tokens: int | None = None
    """Most tokens of one answer; 512 if the generation config has no `max_new_tokens` either."""
    seed: int | None = None
    """Equal seeds give equal draws. `None` takes one from torch's default generator."""
    stop: list[str] | None = None
    """Texts that end the answer; they are not part of it."""

    model_config = ConfigDict(hide_input_in_errors=True)  # the input may hold a preference, or a token

    _loaded: LoadedModel | None = PrivateAttr(default=None)
    _is_closed: bool = PrivateAttr(default=False)

    @model_validator(mode="before")
    @classmethod
    def _warn_of_unknown_arguments(cls, values: Any) -> Any:
        if isinstance(values, Mapping):
            warn_of_unknown(values, known={*cls.model_fields}, place="ChatAmulet")
        return values

    @field_validator("model")
    @classmethod
    def _check_model(cls, value: Any) -> Any:
        check_source(value)
        return value

    @field_validator("memory", mode="before")
    @classmethod
    def _wrap_store(cls, value: Any) -> Any:
        return PreferenceMemory(value) if isinstance(value, BaseStore) else value

    @field_validator("preference", mode="before")
    @classmethod
    def _normalise_preference(cls, value: Any) -> tuple[Preference, ...]:
        return as_preferences(value)

    @model_validator(mode="after")
    def _check_sampling(self) -> Self:
        SamplingParams(**given(self.__dict__))
        check_stop(self.stop)
        return self

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
        return render(self._load(), self._convert_input(messages).to_messages(), plan)

    def close(self) -> None:
        """Let go of the model; its memory is freed once nobody else uses it."""
        self._is_closed = True
        self._loaded = self.model = self.tokenizer = None
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    # Public entry points: here, and only here, the config tells who is asking.

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
        return super().bind(**self._opaque(kwargs))

    async def _astream_events_v3(
        self, input: LanguageModelInput, config: RunnableConfig | None, kwargs: dict[str, Any]
    ) -> Any:
        resolved = await self._aresolved(config, kwargs)
        return await super().astream_events(input, config, **resolved)

    def _resolved(self, config: RunnableConfig | None, kwargs: dict[str, Any]) -> dict[str, Any]:
        if "preference" in kwargs:
            return self._opaque(kwargs)
        lookup = find_lookup(config, self.memory)
        stored = lookup.memory.recall(lookup.user_id) if lookup else None
        return self._opaque({**kwargs, "preference": stored or self.preference})

    async def _aresolved(self, config: RunnableConfig | None, kwargs: dict[str, Any]) -> dict[str, Any]:
        if "preference" in kwargs:
            return self._opaque(kwargs)
        lookup = find_lookup(config, self.memory)
        stored = await lookup.memory.arecall(lookup.user_id) if lookup else None
        return self._opaque({**kwargs, "preference": stored or self.preference})

    @staticmethod
    def _opaque(kwargs: dict[str, Any]) -> dict[str, Any]:
        # None falls back to the field, so it must not replace the field's value in LangChain's cache key.
        given = {name: value for name, value in kwargs.items() if value is not None}
        return {**given, "preference": resolve(kwargs["preference"])} if "preference" in kwargs else given

    # LangChain's inner entry points

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,  # noqa: ARG002 - no tokens to report: nothing streams
        **kwargs: Any,
    ) -> ChatResult:
        return generate_from_stream(self._stream(messages, stop, **kwargs))

    async def _agenerate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,  # noqa: ARG002
        **kwargs: Any,
    ) -> ChatResult:
        return await agenerate_from_stream(self._astream(messages, stop, **kwargs))

    def _stream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> Iterator[ChatGenerationChunk]:
        call = self._prepare(messages, stop, kwargs)
        answer = call.answer(call.engine.submit(call.request))
        try:
            for token_id in answer.generation:
                if chunk := answer.push(token_id):
                    if run_manager:
                        run_manager.on_llm_new_token(chunk.text, chunk=chunk)
                    yield chunk
            yield answer.finish()
        finally:
            answer.generation.cancel()

    async def _astream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[ChatGenerationChunk]:
        call = await asyncio.to_thread(self._prepare, messages, stop, kwargs)  # may load the model
        answer = call.answer(await call.engine.asubmit(call.request))
        try:
            async for token_id in answer.generation:
                if chunk := answer.push(token_id):
                    if run_manager:
                        await run_manager.on_llm_new_token(chunk.text, chunk=chunk)
                    yield chunk
            yield answer.finish()
        finally:
            answer.generation.cancel()

    def _prepare(self, messages: list[BaseMessage], stop: list[str] | None, kwargs: dict[str, Any]) -> Call:
        """Convert a call to a request of the engine."""
        warn_of_unknown(kwargs, known=_CALL_ARGUMENTS, place="A call of ChatAmulet")
        realignment = check_realignment(kwargs.get("realignment", self.realignment))
        resolved = resolve(kwargs.get("preference", self.preference))
        loaded = self._load()
        return prepare_call(
            loaded,
            messages,
            resolved,
            realignment=realignment,
            max_streams=self.max_streams,
            sampling=sampling_params(loaded.model.generation_config, self.__dict__, kwargs),
            stop=check_stop(self.stop if stop is None else stop),
        )

    def _load(self) -> LoadedModel:
        if self._is_closed:
            msg = "This ChatAmulet was closed. Make a new one to load the model again."
            raise ModelClosedError(msg)
        if self._loaded is None or self._loaded.engine.is_closed:
            self._loaded = load(self.model, self.tokenizer, self.model_kwargs, self.engine_config)
            tell_when_forgetting(self._loaded.engine)
        return self._loaded

    # Identity

    @property
    def _llm_type(self) -> str:
        return "amulet"

    @property
    def _identifying_params(self) -> dict[str, Any]:
        """All that an answer depends on besides the messages; preferences as a digest only."""
        return {
            "model": _identity(self.model),
            "tokenizer": _identity(self.tokenizer),
            "model_kwargs": {name: repr(value) for name, value in self.model_kwargs.items() if name != "token"},
            **{name: getattr(self, name) for name in SAMPLING_NAMES},
            "default_stop": self.stop,  # LangChain puts the call's own under "stop"
            "max_streams": self.max_streams,
            "realignment": asdict(self.realignment),
            "preference": repr(resolve(self.preference)),
        }

    def _get_ls_params(self, stop: list[str] | None = None, **kwargs: Any) -> LangSmithParams:
        params = super()._get_ls_params(stop=stop, **kwargs)
        name = self._loaded.name if self._loaded else model_name(self.model)
        return {**params, "ls_model_name": kwargs.get("model", name), "ls_provider": "amulet"}


def _unbounded(config: RunnableConfig | Sequence[RunnableConfig] | None, num_inputs: int) -> list[RunnableConfig]:
    """Configs that let inputs wait in the engine, and not in LangChain's pool of a few threads."""
    configs = get_config_list(config, num_inputs)
    return [{**each, "max_concurrency": each.get("max_concurrency") or _MAX_THREADS} for each in configs]


def _identity(source: Any) -> str:
    if isinstance(source, str | os.PathLike | None):
        return str(source)
    return _fingerprints.setdefault(source, f"{type(source).__name__}@{uuid.uuid4().hex}")
