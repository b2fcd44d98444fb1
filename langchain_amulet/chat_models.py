"""ChatAmulet: a LangChain chat model whose answers follow each user's preferences."""

import asyncio
import gc
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import aclosing, closing
from importlib.metadata import version
from typing import Annotated, Any, Self

import torch
from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
from langchain_core.language_models import LangSmithParams, LanguageModelInput, ModelProfile
from langchain_core.language_models.chat_models import agenerate_from_stream, generate_from_stream
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.outputs import ChatGenerationChunk, ChatResult
from langchain_core.runnables import Runnable
from langchain_core.tools import BaseTool
from pydantic import BeforeValidator, ConfigDict, Field, PrivateAttr, model_validator

from langchain_amulet.chat.call import Call, prepare_call, render
from langchain_amulet.chat.identity import identifying_params, saved_attributes
from langchain_amulet.chat.inspection import BASE_STREAM, mean_gains, prompts_of, score_response
from langchain_amulet.chat.settings import (
    CALL_ARGUMENTS,
    IGNORED_ARGUMENTS,
    CallSettings,
    warn_of_unknown,
)
from langchain_amulet.engine.config import EngineConfig
from langchain_amulet.engine.engine import Engine
from langchain_amulet.engine.params import SamplingParams
from langchain_amulet.exceptions import ModelClosedError
from langchain_amulet.memory.access import tell_when_forgetting
from langchain_amulet.memory.preference_memory import PreferenceMemory, as_memory
from langchain_amulet.models.identity import model_profile
from langchain_amulet.models.registry import LoadedModel, load
from langchain_amulet.models.sources import ModelSource, TokenizerSource, check_source, model_name
from langchain_amulet.personalization.entry_points import PersonalizedChatModel, PreferenceSettings
from langchain_amulet.personalization.lookup import OnStoreError
from langchain_amulet.personalization.resolved import PreferenceArgument, ResolvedPreferences, resolve
from langchain_amulet.preferences import DEFAULT_MAX_STREAMS, DEFAULT_WORDING, Preference
from langchain_amulet.realignment import RealignmentConfig
from langchain_amulet.structured.output_spec import as_openai_tool, parse_tool_choice
from langchain_amulet.structured.structured_output import Method, structured

# Stands for the field `preference`, since `None` asks for a plain answer.
_FIELD: Any = object()


def _saved(config_class: type) -> BeforeValidator:
    """Accept the dict that a saved copy has in place of a config."""
    return BeforeValidator(lambda value: config_class(**value) if isinstance(value, Mapping) else value)


def _opaque(preference: PreferenceArgument) -> ResolvedPreferences | None:
    return None if preference is None else resolve(preference)


class ChatAmulet(PersonalizedChatModel):
    """Chat with a local model that answers each user as they prefer, by Amulet's test-time realignment.

    At every token, the next-token distribution under the caller's prompt and the one under the same prompt plus the
    user's preferences are combined in closed form: no training, no adapters, no reward model. Weights load on first use
    and are shared by all instances that name the same model. No API key and no server: the model runs in this process.

    The preferences of a call are its own `preference=` if it has one (`None` or `[]` asks for a plain answer); else
    what the memory holds for the config's user; else the field `preference`. All settings of an answer are fields, and
    arguments of each call and of `bind()`.

    Examples:
        Instantiate, and answer one user or another:

        ```python
        from langchain_amulet import ChatAmulet, PreferenceMemory

        memory = PreferenceMemory()
        memory.remember("alice@example.com", "Answer as concisely as possible.")
        llm = ChatAmulet(memory=memory, max_tokens=32)  # the packaged 135M model; model="..." for another
        llm.invoke("What is a black hole?", {"configurable": {"user_id": "alice@example.com"}})
        ```

        Stream, with a preference for this call alone:

        ```python
        for chunk in llm.stream("What is a black hole?", preference="Answer like a pirate."):
            print(chunk.text, end="", flush=True)
        ```

    References:
        Zhang et al., Amulet, ICLR 2025: https://arxiv.org/abs/2502.19148
    """

    model: Annotated[ModelSource, BeforeValidator(check_source)] = Field(default=None, repr=False)
    """Hub id, local folder, GGUF file, or a loaded `PreTrainedModel`. `None` is the packaged SmolLM2-135M-Instruct."""
    tokenizer: TokenizerSource = Field(default=None, repr=False)
    """A fast tokenizer, or where to load it from; needed with a loaded model. `None` takes the model's own."""
    model_kwargs: dict[str, Any] = Field(default_factory=dict, repr=False)
    """For `from_pretrained`: `dtype`, `device_map`, `quantization_config`, `attn_implementation`, `revision`, ..."""
    engine_config: Annotated[EngineConfig | None, _saved(EngineConfig)] = Field(default=None, repr=False)
    """How many requests the model answers at once, and with how much memory. All instances of a model share one engine,
    so other limits than its own are refused. `None` takes its limits, else those of the device."""
    memory: Annotated[PreferenceMemory | None, BeforeValidator(as_memory)] = Field(None, repr=False, exclude=True)
    """Where users' preferences are stored. `None` takes the store of the LangGraph run, if there is one."""
    on_store_error: OnStoreError = "raise"
    """What happens if a user's preferences cannot be read: the call raises the store's error, or answers without
    preferences (`"plain"`), logs a warning, and reports `response_metadata["amulet"]["store_error"]`."""
    preference: Annotated[PreferenceArgument, BeforeValidator(_opaque)] = Field(default=None, repr=False, exclude=True)
    """Preferences for calls without a user, and for users of whom nothing is stored: a string, a `Preference`, or a
    list of those. Set it here, by `bind()` or per call; LangChain traces values of `configurable_fields`."""
    preference_template: str = DEFAULT_WORDING
    """How the prompt words preferences: `{preferences}` stands for their texts, one per line."""
    realignment: Annotated[RealignmentConfig, _saved(RealignmentConfig)] = Field(default_factory=RealignmentConfig)
    """How strongly answers follow preferences, and which guards keep them coherent."""
    max_streams: int = Field(default=DEFAULT_MAX_STREAMS, ge=2)
    """The most prompt streams of one answer, the base stream included."""
    steer_structured: bool = False
    """Whether the full guidance scale acts on tool calls and structured output too. By default the guidance scale is at
    most 1 there: they are what the prompted model makes them."""
    ignore_unsupported_keywords: bool = False
    """Whether parts of a JSON schema that the grammar cannot enforce are ignored with a warning. By default such a
    schema is refused with `SchemaError`."""
    temperature: float | None = None
    """0 is greedy. For this and the fields below, `None` takes the model's generation config."""
    top_p: float | None = None
    """Only the most likely tokens that together reach this probability are sampled."""
    top_k: int | None = None
    """Only this many of the most likely tokens are sampled."""
    repetition_penalty: float | None = None
    """Above 1, tokens of the prompt and of the answer so far become less likely."""
    max_tokens: int | None = None
    """The most tokens of one answer; 512 if the generation config has no `max_new_tokens` either."""
    seed: int | None = None
    """Equal seeds give equal draws. `None` takes one from torch's default generator."""
    stop: list[str] | None = None
    """Strings that end the answer; they are not part of it."""
    logprobs: bool | None = None
    """Whether to report the log-probability of each token, after guards and grammar and before temperature."""
    top_logprobs: int | None = None
    """For how many of the most likely tokens at each position to report it too."""
    timeout: float | None = None
    """Seconds that an answer may take, including the time in the queue, excluding the loading of the model."""
    chat_template_kwargs: dict[str, Any] = Field(default_factory=dict)
    """More arguments for the model's chat template, such as `{"enable_thinking": False}`."""
    streaming: bool = False
    """Whether `invoke` reports each token to callbacks too."""

    model_config = ConfigDict(hide_input_in_errors=True)  # the input may contain a preference or a token

    _loaded: LoadedModel | None = PrivateAttr(default=None)
    _is_closed: bool = PrivateAttr(default=False)

    @model_validator(mode="before")
    @classmethod
    def _warn_of_unknown_arguments(cls, values: Any) -> Any:
        if isinstance(values, Mapping):
            warn_of_unknown(values, known={*cls.model_fields, *IGNORED_ARGUMENTS}, place="ChatAmulet")
        return values

    @model_validator(mode="after")
    def _check_settings(self) -> Self:
        CallSettings.merge(self._fields, {})
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
        """Let answers call tools. Forced calls, and the arguments of all calls, follow a grammar of the tools' schemas.

        Args:
            tools: Functions, pydantic classes, TypedDicts, LangChain tools, or dicts in OpenAI's format.
            tool_choice: `"auto"` or `None`: the model decides; `"none"`; `"any"`, `"required"` or `True`: it must call
                a tool; the name of a tool, or a dict with it: it must call that one.
            strict: Added to the tools' descriptions. Arguments follow the schemas in any case.
            kwargs: Other call arguments, such as `parallel_tool_calls` (whether a forced answer may call several
                tools), `response_format`, `steer_structured`, `preference`.

        Raises:
            ToolError: A tool cannot be converted, or the choice names none of the tools.
        """
        described = [as_openai_tool(tool, strict=strict) for tool in tools]
        choice = {} if tool_choice is None else {"tool_choice": tool_choice}
        parse_tool_choice(tool_choice, [tool["function"]["name"] for tool in described])  # raises ToolError
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
        """Answer with objects of a schema, which a grammar enforces.

        Strings, arrays and recursion end early enough for the rest of the object to fit into `max_tokens`.

        Args:
            schema: A pydantic class of version 2 or 1, a TypedDict, or a JSON schema.
            include_raw: Answer with a dict of the message (`raw`), the object (`parsed`) and the error
                (`parsing_error`) in place of the object.
            method: `"json_schema"` puts the schema into the prompt, `"json_mode"` leaves that to your prompt, and
                `"function_calling"` makes the model call a tool of that schema.
            strict: Accepted as other models accept it; answers follow the schema in any case.
            kwargs: Other call arguments, such as `ignore_unsupported_keywords`.

        Returns:
            A runnable that answers with an instance of the class if there is one, else with a dict.

        Raises:
            SchemaError: Not a schema. One that the grammar cannot enforce is refused when the runnable is called.
            MaxTokensError: When it is called: the object cannot end within `max_tokens`.
        """
        return structured(self, schema, method=method, include_raw=include_raw, strict=strict, **kwargs)

    def load(self) -> LoadedModel:
        """Load the model now, or share one that is loaded already; later calls return it at once.

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
        """The engine that runs the model, shared by all instances of the same model; loads the model if needed."""
        return self.load().engine

    def prompt_streams(self, messages: LanguageModelInput, preference: PreferenceArgument = _FIELD) -> list[list[int]]:
        """The token ids of the prompts that a call would run, the base stream first.

        Args:
            messages: The input of the call.
            preference: As in a call: `None` or `[]` is a plain answer. Without it, the field `preference` holds.

        Returns:
            One prompt per stream: the base stream alone for a plain answer, the preference stream alone at gain 1.
        """
        resolved = self._default_preference if preference is _FIELD else resolve(preference)
        return prompts_of(self.load(), self._messages(messages), resolved, self._settings({}))

    def sampling_params(self, **kwargs: Any) -> SamplingParams:
        """How a call with these arguments would draw its tokens: they override the fields and the generation config."""
        settings = self._settings(kwargs)
        return settings.sampling_params(self.load().model.generation_config)

    def evidence(
        self, messages: LanguageModelInput, response: str, preferences: Sequence[str | Preference]
    ) -> list[float]:
        """How much more likely each preference by itself makes a response.

        Returns:
            Per preference, the mean over the response's tokens of d = log p(token | prompt with the preference)
            − log p(token | prompt), in nats per token. It takes one forward pass per preference and one more.

        Raises:
            InvalidParameterError: The response is empty.
            ContextLengthError: Messages and response are longer than the model's context.
            NumericalError: The model gives the response no finite probability.
        """
        scores = score_response(self.load(), self._messages(messages), response, preferences, self._settings({}))
        return mean_gains(scores.result())

    async def aevidence(
        self, messages: LanguageModelInput, response: str, preferences: Sequence[str | Preference]
    ) -> list[float]:
        """Async `evidence`."""
        loaded = await asyncio.to_thread(self.load)
        scores = score_response(loaded, self._messages(messages), response, preferences, self._settings({}))
        return mean_gains(await asyncio.wrap_future(scores))

    def token_logprobs(self, messages: LanguageModelInput, response: str) -> list[float]:
        """The log-probability of each token of a response without preferences, log p(token | prompt, tokens before).

        Returns:
            One number per token of the response, in nats.

        Raises:
            InvalidParameterError, ContextLengthError: As `evidence`.
        """
        scores = score_response(self.load(), self._messages(messages), response, [], self._settings({}))
        log_probs: list[float] = scores.result()[0].tolist()
        return log_probs

    def get_token_ids(self, text: str) -> list[int]:
        """The model's own token ids of a text, without control tokens around it."""
        if self.custom_get_token_ids is not None:
            return self.custom_get_token_ids(text)
        ids: list[int] = self.load().tokenizer.encode(text, add_special_tokens=False)
        return ids

    def get_num_tokens_from_messages(self, messages: list[BaseMessage], tools: Sequence[Any] | None = None) -> int:
        """The number of prompt tokens of these messages and tools, as `usage_metadata` counts them."""
        [base] = render(self.load(), messages, BASE_STREAM, self._settings({"tools": tools}))
        return len(base)

    def close(self) -> None:
        """Release the model; its memory is freed once nobody else uses it."""
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
        with closing(self._prepare(messages, stop, kwargs).stream()) as chunks:
            for chunk in chunks:
                if run_manager:
                    run_manager.on_llm_new_token(chunk.text, chunk=chunk)
                yield chunk

    async def _astream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[ChatGenerationChunk]:
        call = await asyncio.to_thread(self._prepare, messages, stop, kwargs)  # may load the model
        async with aclosing(call.astream()) as chunks:
            async for chunk in chunks:
                if run_manager:
                    await run_manager.on_llm_new_token(chunk.text, chunk=chunk)
                yield chunk

    def _prepare(self, messages: list[BaseMessage], stop: list[str] | None, kwargs: dict[str, Any]) -> Call:
        """Build the request of a call. Bad arguments are refused before a model is loaded."""
        warn_of_unknown(kwargs, known=CALL_ARGUMENTS, place="A call of ChatAmulet")
        settings = self._settings({**kwargs, "stop": stop})
        resolved = resolve(kwargs["preference"]) if "preference" in kwargs else self._default_preference
        return prepare_call(self.load(), messages, resolved, settings)

    def _settings(self, call: Mapping[str, Any]) -> CallSettings:
        return CallSettings.merge(self._fields, call)

    @property
    def _fields(self) -> dict[str, Any]:
        return dict(self)

    @property
    def _default_preference(self) -> ResolvedPreferences:
        return resolve(self.preference)

    def _messages(self, messages: LanguageModelInput) -> list[BaseMessage]:
        return self._convert_input(messages).to_messages()

    @property
    def preference_settings(self) -> PreferenceSettings:
        """Where preferences of calls come from."""
        return PreferenceSettings(self.memory, self._default_preference, self.on_store_error)

    # Identity

    @property
    def _llm_type(self) -> str:
        return "amulet"

    @property
    def _identifying_params(self) -> dict[str, Any]:
        return identifying_params(self._fields)

    def _get_llm_string(self, stop: list[str] | None = None, **kwargs: Any) -> str:
        # LangChain caches the saved form of serialisable models, so that changed fields would hit old answers.
        return str(sorted(self._get_invocation_params(stop=stop, **kwargs).items(), key=lambda item: item[0]))

    def _get_ls_params(self, stop: list[str] | None = None, **kwargs: Any) -> LangSmithParams:
        params = super()._get_ls_params(stop=stop, **kwargs)
        return {**params, "ls_model_name": kwargs.get("model", self._name), "ls_provider": "amulet"}

    @property
    def _name(self) -> str:
        return self._loaded.name if self._loaded else model_name(self.model)

    def _resolve_model_profile(self) -> ModelProfile:
        return model_profile(self.model, name=self._name)

    @classmethod
    def is_lc_serializable(cls) -> bool:
        """Saved copies contain the model's name and settings, but neither memory nor preferences."""
        return True

    @property
    def lc_attributes(self) -> dict[str, Any]:
        """The fields that saved copies contain in another form than the model does."""
        return saved_attributes(self._fields)
