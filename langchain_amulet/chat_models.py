"""ChatAmulet: a LangChain chat model whose answers follow each user's preferences."""

import asyncio
import gc
import itertools
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import version
from typing import Any, Self

import torch
from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
from langchain_core.language_models import LangSmithParams, LanguageModelInput, ModelProfile
from langchain_core.language_models.chat_models import agenerate_from_stream, generate_from_stream
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.outputs import ChatGenerationChunk, ChatResult
from langchain_core.runnables import Runnable
from langchain_core.tools import BaseTool
from pydantic import ConfigDict, Field, PrivateAttr, field_validator, model_validator

from langchain_amulet.chat.call import Call, prepare_call
from langchain_amulet.chat.inspection import PromptingChatModel
from langchain_amulet.chat.settings import (
    CALL_ARGUMENTS,
    IGNORED_ARGUMENTS,
    CallSettings,
    call_settings,
    given,
    identifying,
    warn_of_unknown,
)
from langchain_amulet.engine.config import EngineConfig
from langchain_amulet.engine.engine import Engine
from langchain_amulet.engine.params import SamplingParams
from langchain_amulet.exceptions import ModelClosedError
from langchain_amulet.memory.preference_memory import tell_when_forgetting
from langchain_amulet.models.identity import identity, plain, profile
from langchain_amulet.models.registry import LoadedModel, load
from langchain_amulet.models.sources import check_source, model_name
from langchain_amulet.personalization.resolved import resolve
from langchain_amulet.realignment import RealignmentConfig
from langchain_amulet.structured.output_spec import as_openai_tool
from langchain_amulet.structured.output_spec import tool_choice as read_choice
from langchain_amulet.structured.structured_output import Method, structured


class ChatAmulet(PromptingChatModel):
    """Chat with a local model that answers each user as they prefer, by Amulet's test-time realignment.

    At every token, the next-token distribution under the caller's prompt and the one under the same prompt plus the
    user's preferences are combined in closed form: no training, no adapters, no reward model. Weights load on first use
    and are shared by all instances that name the same model.

    Setup:
        ```bash
        pip install langchain-amulet
        ```
        No key and no server: the model runs in this process, on CUDA, MPS or the CPU.

    Key init args, what is asked:
        - `model`: hub id, local folder, GGUF file, or a loaded `PreTrainedModel`
        - `memory`, `preference`: what users prefer
        - `realignment`: how strongly, and how carefully, answers follow it
        - `temperature`, `top_p`, `top_k`, `repetition_penalty`, `max_tokens`, `seed`, `stop`: how tokens are drawn
        - `logprobs`, `top_logprobs`, `steer_structured`, `chat_template_kwargs`

    Key init args, how it runs:
        - `tokenizer`, `model_kwargs`: how the model is loaded
        - `engine_config`: how much runs at once
        - `timeout`, `rate_limiter`, `cache`

    Instantiate:
        ```python
        from langchain_amulet import ChatAmulet, PreferenceMemory

        memory = PreferenceMemory()
        memory.remember("alice@example.com", "Answer as concisely as possible.")
        llm = ChatAmulet(model="Qwen/Qwen2.5-7B-Instruct", memory=memory, temperature=0)
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

    Async:
        ```python
        await llm.ainvoke("What is a black hole?")
        async for chunk in llm.astream("What is a black hole?"):
            ...
        await llm.abatch(["What is a black hole?", "What is a quasar?"])
        ```

    Tool calling:
        ```python
        def get_weather(city: str) -> str:
            '''Tell the weather in a city.'''


        llm.bind_tools([get_weather]).invoke("Do I need an umbrella in Paris?").tool_calls
        # [{'name': 'get_weather', 'args': {'city': 'Paris'}, 'id': '3xQ7mTz1K', 'type': 'tool_call'}]
        ```
        Calls that `tool_choice` forces, and the arguments of all calls, follow a grammar of the tools' schemas. Style
        leaves them alone, unless `steer_structured=True`.

    Structured output:
        ```python
        from pydantic import BaseModel


        class Joke(BaseModel):
            setup: str
            punchline: str


        llm.with_structured_output(Joke).invoke("Tell me a joke about cats.")
        # Joke(setup='...', punchline='...')
        ```

    Token usage:
        ```python
        llm.invoke("What is a black hole?").usage_metadata
        # {'input_tokens': 37, 'output_tokens': 64, 'total_tokens': 101,
        #  'input_token_details': {'preference_streams': 45}}
        ```

    Logprobs, of the realigned distribution:
        ```python
        message = llm.invoke("What is a black hole?", logprobs=True, top_logprobs=3)
        message.response_metadata["logprobs"]["content"][0]
        # {'token': 'A', 'bytes': [65], 'logprob': -0.2, 'top_logprobs': [...]}
        ```

    Response metadata:
        ```python
        llm.invoke("What is a black hole?").response_metadata
        # {'model_name': ..., 'model_provider': 'amulet', 'finish_reason': 'stop',
        #  'amulet': {'guidance_scale': 2.0, 'num_streams': 2, ...}}
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
    steer_structured: bool = False
    """Whether preferences act, at the full guidance scale, on tool calls and JSON of a schema too. By default these are
    what the preference in the prompt alone makes them."""
    engine_config: EngineConfig | None = Field(default=None, repr=False)
    """How many requests the model answers at once, with how much memory. All who use the same model share its engine,
    so other limits than those of its first user are refused. `None` takes those, else suits the device."""
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
    logprobs: bool | None = None
    """Whether to report the log-probability of each token, after guards and grammar and before temperature."""
    top_logprobs: int | None = None
    """Of how many of the likeliest tokens at each place to report it too."""
    timeout: float | None = None
    """Seconds that an answer may take, waiting in the queue included and loading the model not."""
    chat_template_kwargs: dict[str, Any] = Field(default_factory=dict)
    """More arguments of the model's chat template, such as `{"enable_thinking": False}`."""
    streaming: bool = False
    """Whether `invoke` reports each token to callbacks too."""

    model_config = ConfigDict(hide_input_in_errors=True)  # the input may hold a preference, or a token

    _loaded: LoadedModel | None = PrivateAttr(default=None)
    _is_closed: bool = PrivateAttr(default=False)

    @model_validator(mode="before")
    @classmethod
    def _warn_of_unknown_arguments(cls, values: Any) -> Any:
        if isinstance(values, Mapping):
            warn_of_unknown(values, known={*cls.model_fields, *IGNORED_ARGUMENTS}, place="ChatAmulet")
        return values

    @field_validator("model")
    @classmethod
    def _check_model(cls, value: Any) -> Any:
        check_source(value)
        return value

    @field_validator("realignment", mode="before")
    @classmethod
    def _read_realignment(cls, value: Any) -> Any:
        return RealignmentConfig(**value) if isinstance(value, Mapping) else value  # as saved copies have it

    @field_validator("engine_config", mode="before")
    @classmethod
    def _read_engine_config(cls, value: Any) -> Any:
        return EngineConfig(**value) if isinstance(value, Mapping) else value

    @model_validator(mode="after")
    def _check_settings(self) -> Self:
        SamplingParams(**given(self.__dict__))
        call_settings(None, self.__dict__, {})
        self._add_version("langchain-amulet", version("langchain-amulet"))
        return self

    def bind_tools(
        self,
        tools: Sequence[dict[str, Any] | type | Callable[..., Any] | BaseTool],
        *,
        tool_choice: str | bool | dict[str, Any] | None = None,
        strict: bool | None = None,
        **kwargs: Any,
    ) -> Runnable[LanguageModelInput, AIMessage]:
        """Let answers call tools.

        Args:
            tools: Functions, pydantic classes, TypedDicts, LangChain tools, or dicts as OpenAI writes them.
            tool_choice: `"auto"` (also `None`): as the model likes; `"none"`; `"any"`, `"required"` or `True`: one of
                the tools has to be called; a tool's name, or a dict that names it: that one.
            strict: Noted in the tools' descriptions. Arguments follow the schemas in any case.
            kwargs: Other arguments of calls, such as `parallel_tool_calls` (whether an answer that has to call a tool
                may call several), `response_format`, `steer_structured`, `preference`.

        Raises:
            ToolError: A tool is none, or the choice names none of them.
        """
        described = [as_openai_tool(tool, strict=strict) for tool in tools]
        choice = {} if tool_choice is None else {"tool_choice": tool_choice}
        read_choice(tool_choice, [tool["function"]["name"] for tool in described])  # refuses what cannot be bound
        bound: Runnable[LanguageModelInput, AIMessage] = self.bind(tools=described, **choice, **kwargs)
        return bound

    def with_structured_output(
        self,
        schema: dict[str, Any] | type,
        *,
        include_raw: bool = False,
        method: Method = "json_schema",
        strict: bool | None = None,
        **kwargs: Any,
    ) -> Runnable[LanguageModelInput, Any]:
        """Answer with objects of a schema, which a grammar holds the model to.

        Strings and arrays of any length end in time to leave room for what has to follow within `max_tokens`.

        Args:
            schema: A pydantic class of version 2 or 1, a TypedDict, or a JSON schema.
            include_raw: Answer with a dict of the message (`raw`), the object (`parsed`) and what went wrong
                (`parsing_error`), in place of the object.
            method: `"json_schema"` tells the model of the schema, `"json_mode"` leaves that to your prompt, and
                `"function_calling"` has it call a tool of that schema.
            strict: Accepted as other models take it; answers follow the schema in any case.
            kwargs: Other arguments of calls.

        Returns:
            A runnable that answers with an instance of the class if there is one, else with a dict.

        Raises:
            SchemaError: It is no schema. One that cannot be followed is refused when it is called, before any token.
            MaxTokensError: When it is called: the object cannot end within `max_tokens`.
        """
        return structured(self, schema, method=method, include_raw=include_raw, strict=strict, **kwargs)

    def load(self) -> LoadedModel:
        """Load the model now, or share it with whoever has loaded the same one; later calls return it at once.

        Returns:
            The transformers model, its tokenizer and the engine that runs it.

        Raises:
            ModelClosedError: This `ChatAmulet` was closed.
            ModelNotFoundError: There is no such model.
            ModelLoadError: The model or its tokenizer cannot be loaded.
        """
        if self._is_closed:
            msg = "This ChatAmulet was closed. Make a new one to load the model again."
            raise ModelClosedError(msg)
        if self._loaded is None or self._loaded.engine.is_closed:
            self._loaded = load(self.model, self.tokenizer, self.model_kwargs, self.engine_config)
            tell_when_forgetting(self._loaded.engine)
        return self._loaded

    @property
    def engine(self) -> Engine:
        """The engine that answers, shared by all who use the same model; loads the model if need be."""
        return self.load().engine

    def close(self) -> None:
        """Let go of the model; its memory is freed once nobody else uses it."""
        self._is_closed = True
        self._loaded = self.model = self.tokenizer = None
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

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
            chunks = (chunk for token_id in answer.generation if (chunk := answer.push(token_id)))
            for chunk in itertools.chain(chunks, answer.finish()):
                if run_manager:
                    run_manager.on_llm_new_token(chunk.text, chunk=chunk)
                yield chunk
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
            for chunk in answer.finish():
                if run_manager:
                    await run_manager.on_llm_new_token(chunk.text, chunk=chunk)
                yield chunk
        finally:
            answer.generation.cancel()

    def _prepare(self, messages: list[BaseMessage], stop: list[str] | None, kwargs: dict[str, Any]) -> Call:
        """Convert a call to a request of the engine."""
        warn_of_unknown(kwargs, known=CALL_ARGUMENTS, place="A call of ChatAmulet")
        resolved = resolve(kwargs.get("preference", self.preference))
        call_settings(None, self.__dict__, {**kwargs, "stop": stop})  # refuses before a model is loaded
        loaded = self.load()
        return prepare_call(loaded, messages, resolved, self._settings(loaded, {**kwargs, "stop": stop}))

    def _settings(self, loaded: LoadedModel, call: Mapping[str, Any]) -> CallSettings:
        return call_settings(loaded.model.generation_config, self.__dict__, call)

    # Identity

    @property
    def _llm_type(self) -> str:
        return "amulet"

    @property
    def _identifying_params(self) -> dict[str, Any]:
        """All that an answer depends on besides the messages; preferences as a digest only."""
        return {
            "model": identity(self.model),
            "tokenizer": identity(self.tokenizer),
            "model_kwargs": {name: repr(value) for name, value in self.model_kwargs.items() if name != "token"},
            **identifying(self.__dict__),
            "preference": repr(resolve(self.preference)),
        }

    def _get_llm_string(self, stop: list[str] | None = None, **kwargs: Any) -> str:
        # LangChain takes the saved form of serialisable models, made once: fields that change would hit old answers.
        return str(sorted(self._get_invocation_params(stop=stop, **kwargs).items(), key=lambda item: item[0]))

    def _get_ls_params(self, stop: list[str] | None = None, **kwargs: Any) -> LangSmithParams:
        params = super()._get_ls_params(stop=stop, **kwargs)
        return {**params, "ls_model_name": kwargs.get("model", self._name), "ls_provider": "amulet"}

    @property
    def _name(self) -> str:
        return self._loaded.name if self._loaded else model_name(self.model)

    def _resolve_model_profile(self) -> ModelProfile:
        return profile(self.model, name=self._name)

    @classmethod
    def is_lc_serializable(cls) -> bool:
        """Saved copies name the model and its settings. Memory and preferences are not saved, and are given anew."""
        return True

    @property
    def lc_attributes(self) -> dict[str, Any]:
        """What is saved in another form than it is held."""
        saved = {
            "model": identity(self.model),
            "tokenizer": identity(self.tokenizer),
            "model_kwargs": plain(self.model_kwargs),
            "engine_config": self.engine_config and asdict(self.engine_config),
            "preference_digest": repr(resolve(self.preference)) if self.preference else None,
        }
        return {"realignment": asdict(self.realignment), **{name: value for name, value in saved.items() if value}}
