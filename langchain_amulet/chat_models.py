"""ChatAmulet: a LangChain chat model whose answers follow each user's preferences."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import aclosing, closing
from importlib.metadata import version
from typing import Annotated, Any, Self, cast

from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
from langchain_core.language_models import LangSmithParams, LanguageModelInput, ModelProfile
from langchain_core.language_models.chat_models import agenerate_from_stream, generate_from_stream
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.outputs import ChatGenerationChunk, ChatResult
from langchain_core.runnables import Runnable
from langchain_core.tools import BaseTool
from pydantic import BeforeValidator, ConfigDict, Field, ModelWrapValidatorHandler, ValidationError, model_validator

from langchain_amulet.answers.answer_stream import with_tool_errors
from langchain_amulet.chat.call import Call, prepare_call, render
from langchain_amulet.chat.field_types import from_dict, opaque, without_input
from langchain_amulet.chat.identity import identifying_params, saved_attributes
from langchain_amulet.chat.inspection import mean_gains, prompts_of, score_after, score_response
from langchain_amulet.chat.local_model import LocalChatModel
from langchain_amulet.chat.opposite_writer import OppositesWritten, awrite_opposites, write_opposites
from langchain_amulet.chat.settings import CallSettings, PrefixSharing, check_tools, checked_arguments, checked_fields
from langchain_amulet.engine.params import SamplingParams
from langchain_amulet.foreign_errors import shielded, unexpected
from langchain_amulet.memory.preference_memory import PreferenceMemory, as_memory
from langchain_amulet.models.identity import model_profile
from langchain_amulet.personalization.entry_points import PreferenceSettings
from langchain_amulet.personalization.lookup import OnStoreError
from langchain_amulet.personalization.resolved import PreferenceArgument, resolve
from langchain_amulet.preferences import DEFAULT_WORDING, Preference, as_preferences
from langchain_amulet.prompts.conversation import check_messages
from langchain_amulet.prompts.encoding import encode
from langchain_amulet.realignment import RealignmentConfig
from langchain_amulet.stream_plan import BASE_PLAN, DEFAULT_MAX_STREAMS
from langchain_amulet.structured.output_spec import as_openai_tool, parse_tool_choice
from langchain_amulet.structured.structured_output import Method, structured

_UNSET: Any = object()  # a missing argument; `preference=None` asks for a plain answer


class ChatAmulet(LocalChatModel):
    """A chat model that runs locally and answers each user as they prefer, by Amulet's test-time realignment.

    At every token, the next-token distributions of the prompts with and without the user's preferences are combined in
    closed form, without training, adapter or reward model. The model runs in this process. Weights load on first use,
    and all instances that name the same model share them.

    A call takes its preferences from its argument `preference` (`None` or `[]` asks for a plain answer), else from the
    memory of the config's user, else from the field `preference`. All settings of an answer are fields here, and also
    arguments of each call and of `bind()`.

    Examples:
        Answer a user by their stored preferences, then stream an answer with a preference for this call only:

        ```python
        from langchain_amulet import ChatAmulet, PreferenceMemory

        memory = PreferenceMemory()
        memory.remember("alice@example.com", "Answer as concisely as possible.")
        llm = ChatAmulet(memory=memory, max_tokens=32)  # the packaged 135M model; model="..." for another
        llm.invoke("What is a black hole?", {"configurable": {"user_id": "alice@example.com"}})
        for chunk in llm.stream("What is a black hole?", preference="Answer like a pirate."):
            print(chunk.text, end="", flush=True)
        ```

    References:
        Zhang et al., Amulet, ICLR 2025: https://arxiv.org/abs/2502.19148
    """

    memory: Annotated[PreferenceMemory | None, BeforeValidator(as_memory)] = Field(None, repr=False, exclude=True)
    """Where users' preferences are stored. `None`: the store of the LangGraph run, if there is one."""
    on_store_error: OnStoreError = "raise"
    """What a call does if the store fails: `"raise"` its error, or answer without preferences (`"plain"`), log a
    warning and set `response_metadata["amulet"]["store_error"]`."""
    preference: Annotated[PreferenceArgument, BeforeValidator(opaque)] = Field(default=None, repr=False, exclude=True)
    """The default for calls without a user and for users without stored preferences: a string, a `Preference` or a list
    of these. Do not set it by `configurable_fields`: LangChain would trace the text."""
    preference_template: str = DEFAULT_WORDING
    """The text that is added to the prompt; `{preferences}` is replaced by the preferences' texts, one per line."""
    realignment: Annotated[RealignmentConfig, from_dict(RealignmentConfig)] = Field(default_factory=RealignmentConfig)
    """How strongly answers follow preferences, and which guards keep them coherent."""
    max_streams: int = Field(default=DEFAULT_MAX_STREAMS, ge=2)
    """Maximum number of prompt streams that are combined for one answer. A trace may take one more."""
    steer_structured: bool = False
    """Whether tool calls and structured output use the full guidance scale. By default it is limited to 1 for them."""
    ignore_unsupported_keywords: bool = False
    """If true, parts of a JSON schema that the grammar cannot enforce cause a warning, rather than `SchemaError`."""
    temperature: float | None = None
    """0 is greedy. Here and in the fields below, `None` means the value of the model's generation config."""
    top_p: float | None = None
    """Sample only from the fewest most likely tokens whose probabilities sum to at least this value."""
    top_k: int | None = None
    """Sample only from this many of the most likely tokens."""
    repetition_penalty: float | None = None
    """Above 1, tokens of the prompt and of the answer so far become less likely."""
    max_tokens: int | None = None
    """Maximum number of tokens of one answer; 512 if the generation config has no `max_new_tokens` either."""
    seed: int | None = None
    """Seed of the sampling. `None`: drawn from torch's default generator."""
    stop: list[str] | None = None
    """Strings that end the answer, and are not part of it."""
    logprobs: bool | None = None
    """Whether to report the log-probability of each token, after guards and grammar and before temperature."""
    top_logprobs: int | None = None
    """How many of the most likely tokens to report at each position, at most 20."""
    trace: bool = False
    """Whether to report how each token was drawn, and how it would have been without steering; see `Trace`."""
    timeout: float | None = None
    """Maximum duration of an answer in seconds, including the queue, excluding the loading of the model."""
    chat_template_kwargs: dict[str, Any] = Field(default_factory=dict)
    """Extra arguments of the model's chat template, such as `{"enable_thinking": False}`."""
    sanitize_control_tokens: bool = True
    """Whether control tokens in messages and tools are read as plain text, so that they cannot forge a turn."""
    prefix_sharing: PrefixSharing = "user"
    """Which other users' calls may reuse the keys and values of a prompt, and so learn from their speed that it was
    sent. `"user"`: none; calls without a user id count as one user. `"system"`: all calls reuse tools, documents and
    leading system messages. `"group"`: calls with the same `configurable["prefix_group"]` reuse prompts up to the first
    answer. `"all"`: all calls do."""
    streaming: bool = False
    """Whether `invoke` also reports each token to callbacks."""

    model_config = ConfigDict(hide_input_in_errors=True)  # the input may contain a preference or a token

    @model_validator(mode="before")
    @classmethod
    def _warn_of_unknown_arguments(cls, values: Any) -> Any:
        if isinstance(values, Mapping):
            checked_fields(values, cls.model_fields)
        return values

    @model_validator(mode="after")
    def _check_settings(self) -> Self:
        CallSettings.merge(dict(self), {})
        self._add_version("langchain-amulet", version("langchain-amulet"))
        return self

    @model_validator(mode="wrap")  # the last validator is the outermost: it sees the errors of all others
    @classmethod
    def _show_no_input_in_errors(cls, values: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        try:
            return handler(values)
        except ValidationError as error:
            failures = [without_input(error)]
        raise failures.pop()

    @shielded(unexpected)
    def bind_tools(
        self,
        tools: Sequence[dict[str, Any] | type | Callable[..., Any] | BaseTool],
        *,
        tool_choice: str | bool | dict[str, Any] | None = None,
        strict: bool | None = None,
        **kwargs: Any,
    ) -> Runnable[LanguageModelInput, AIMessage]:
        """Return a runnable whose answers may call tools; a grammar makes arguments follow the tools' schemas.

        Args:
            tools: Functions, pydantic classes, TypedDicts, LangChain tools, or dicts in OpenAI's format.
            tool_choice: `"auto"` or `None`: the model decides. `"none"`: no call. `"any"`, `"required"` or `True`: at
                least one call. The name of a tool, or a dict with the name: a call of that tool.
            strict: Value of the tools' `strict` field. Arguments follow the schemas in any case.
            kwargs: Other call arguments, such as `parallel_tool_calls` (whether a forced answer may hold several
                calls), `response_format`, `steer_structured` or `preference`.

        Raises:
            ToolError: A tool cannot be converted, or `tool_choice` names no tool.
            SchemaError: A tool's parameters are not a JSON schema.
        """
        check_tools(tools)
        described = [as_openai_tool(tool, strict=strict) for tool in tools]
        parse_tool_choice(tool_choice, [tool["function"]["name"] for tool in described])  # raises ToolError
        bound: Runnable[LanguageModelInput, AIMessage] = self.bind(tools=described, tool_choice=tool_choice, **kwargs)
        return bound

    @shielded(unexpected)
    def with_structured_output(
        self,
        schema: dict[str, Any] | type,
        *,
        include_raw: bool = False,
        method: Method = "json_schema",
        strict: bool | None = None,
        **kwargs: Any,
    ) -> Runnable[LanguageModelInput, Any]:
        """Return a runnable that answers with objects of a schema, which a grammar enforces.

        Strings, arrays and recursion are ended early enough that the whole object fits into `max_tokens`.

        Args:
            schema: A pydantic class of version 2 or 1, a TypedDict, or a JSON schema.
            include_raw: Whether to return a dict with `raw`, `parsed` and `parsing_error` rather than the object.
            method: `"json_schema"` shows the schema in the prompt, `"json_mode"` leaves that to the caller, and
                `"function_calling"` has the model call a tool with this schema.
            strict: Value of the tool's `strict` field. Answers follow the schema in any case.
            kwargs: Other call arguments, such as `ignore_unsupported_keywords`.

        Returns:
            A runnable that returns an instance of the pydantic class, or a dict. It raises `SchemaError` if the grammar
            cannot enforce the schema, and `MaxTokensError` if no object fits into `max_tokens`.

        Raises:
            SchemaError: `schema` is not a schema, or `method` is unknown.
        """
        return structured(self, schema, method=method, include_raw=include_raw, strict=strict, **kwargs)

    @shielded(unexpected)
    def prompt_streams(self, messages: LanguageModelInput, preference: PreferenceArgument = _UNSET) -> list[list[int]]:
        """Return the token ids of the prompts that a call would run.

        Args:
            messages: The input of the call.
            preference: As in a call; `None` or `[]` asks for a plain answer. Default: the field `preference`.

        Returns:
            One prompt per stream, in the order of `plan_streams`; the caller's own goes first if it is among them.
        """
        resolved = self.preference_settings.default if preference is _UNSET else resolve(preference)
        return prompts_of(self.load(), self._messages(messages), resolved, self._settings({}))

    @shielded(unexpected)
    def sampling_params(self, **kwargs: Any) -> SamplingParams:
        """Return the sampling parameters of a call with these arguments; fields and generation config set the rest."""
        return self._settings(self.checked_arguments(kwargs)).sampling_params(self.load().model.generation_config)

    @shielded(unexpected)
    def evidence(
        self, messages: LanguageModelInput, response: str, preferences: Sequence[str | Preference]
    ) -> list[float]:
        """Return how much more likely each preference, taken alone, makes a response.

        Returns:
            Per preference, the mean over the response's tokens of log p(token | prompt with the preference)
            − log p(token | prompt), in nats per token. Costs one forward pass per preference plus one.

        Raises:
            InvalidParameterError: The response is empty.
            ContextLengthError: Messages and response are longer than the model's context.
            NumericalError: A token of the response has no finite log-probability.
        """
        future = score_response(self.load(), self._messages(messages), response, preferences, self._settings({}))
        return mean_gains(future.result())

    @shielded(unexpected)
    async def aevidence(
        self, messages: LanguageModelInput, response: str, preferences: Sequence[str | Preference]
    ) -> list[float]:
        """Async `evidence`."""
        inputs = (self._messages(messages), response, preferences, self._settings({}))
        future = await asyncio.to_thread(lambda: score_response(self.load(), *inputs))  # renders, and may load
        return mean_gains(await asyncio.wrap_future(future))

    @shielded(unexpected)
    def token_logprobs(
        self, messages: LanguageModelInput, response: str, preferences: Sequence[str | Preference] = ()
    ) -> list[float]:
        """Return log p(token | prompt, tokens before) of each token of a response.

        Args:
            messages: The conversation so far.
            response: The text to score.
            preferences: The preferences in the prompt, all in one; their weights do not matter. Default: none.

        Returns:
            One number per token of the response, in nats.

        Raises:
            InvalidParameterError: The response is empty.
            ContextLengthError: Messages and response are longer than the model's context.
        """
        texts = [preference.text for preference in as_preferences(preferences)]
        future = score_after(self.load(), self._messages(messages), response, [texts], self._settings({}))
        return cast("list[float]", future.result()[0].tolist())

    @shielded(unexpected)
    def write_opposites(self, user_id: str) -> OppositesWritten:
        """Let the model write opposites of a user's stored preferences that have none; docs/memory.md says how.

        Raises:
            InvalidParameterError, StoreTypeError: The model has no memory, or a read-only one.
            AmuletError: The store or the model fails, as `PreferenceMemory.recall` and `invoke` say.
        """
        return write_opposites(self.load, self.memory, user_id, dict(self))

    @shielded(unexpected)
    async def awrite_opposites(self, user_id: str) -> OppositesWritten:
        """Async `write_opposites`."""
        return await awrite_opposites(self.load, self.memory, user_id, dict(self))

    @shielded(unexpected)
    def get_token_ids(self, text: str) -> list[int]:
        """Return the token ids of a text by the model's tokenizer, without special tokens around it."""
        if self.custom_get_token_ids is not None:
            return self.custom_get_token_ids(text)
        return encode(self.load().tokenizer, text)

    @shielded(unexpected)
    def get_num_tokens_from_messages(self, messages: list[BaseMessage], tools: Sequence[Any] | None = None) -> int:
        """Return the number of prompt tokens of messages and tools, as `usage_metadata` counts them."""
        check_messages(messages)
        return len(render(self.load(), messages, BASE_PLAN, self._settings({"tools": tools}))[0])

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,  # noqa: ARG002 - invoke reports no tokens
        **kwargs: Any,
    ) -> ChatResult:
        return with_tool_errors(generate_from_stream(self._stream(messages, stop, **kwargs)))

    async def _agenerate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,  # noqa: ARG002
        **kwargs: Any,
    ) -> ChatResult:
        return with_tool_errors(await agenerate_from_stream(self._astream(messages, stop, **kwargs)))

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

    @shielded(unexpected)
    def _prepare(self, messages: list[BaseMessage], stop: list[str] | None, kwargs: dict[str, Any]) -> Call:
        """Build the request of a call; invalid arguments raise before the model is loaded."""
        settings = self._settings({**kwargs, "stop": stop})
        resolved = resolve(kwargs["preference"]) if "preference" in kwargs else self.preference_settings.default
        return prepare_call(self.load(), messages, resolved, settings)

    def checked_arguments(self, kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """Return the arguments of a call without those that the model does not know, with a warning."""
        return checked_arguments(kwargs)

    def _settings(self, call: Mapping[str, Any]) -> CallSettings:
        return CallSettings.merge(dict(self), call)

    def _messages(self, messages: LanguageModelInput) -> list[BaseMessage]:
        return self._convert_input(messages).to_messages()

    @property
    def preference_settings(self) -> PreferenceSettings:
        """Where calls take their preferences from."""
        return PreferenceSettings(self.memory, resolve(self.preference), self.on_store_error)

    @property
    def _llm_type(self) -> str:
        return "amulet"

    @property
    @shielded(unexpected)
    def _identifying_params(self) -> dict[str, Any]:
        return identifying_params(dict(self))

    def _get_llm_string(self, stop: list[str] | None = None, **kwargs: Any) -> str:
        # LangChain computes the saved form of a model once, so its own cache key would not change with the fields.
        return str(sorted(self._get_invocation_params(stop=stop, **kwargs).items(), key=lambda item: item[0]))

    def _get_ls_params(self, stop: list[str] | None = None, **kwargs: Any) -> LangSmithParams:
        params = super()._get_ls_params(stop=stop, **kwargs)
        return {**params, "ls_model_name": kwargs.get("model", self._name), "ls_provider": "amulet"}

    def _resolve_model_profile(self) -> ModelProfile:
        return model_profile(self.model, name=self._name)

    @classmethod
    def is_lc_serializable(cls) -> bool:
        """Return `True`. Saved copies contain the model's name and settings, but neither memory nor preferences."""
        return True

    @property
    def lc_attributes(self) -> dict[str, Any]:
        """The fields that have another form in saved copies than in the model."""
        return saved_attributes(dict(self))
