"""The settings of one call: its arguments, over the model's fields, over the generation config.

To add a setting, add a field to `CallSettings`. To let users set it for all calls of a model, also add a field of the
same name to `ChatAmulet`. All parameters of `SamplingParams` are settings too.
"""

import difflib
from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal, TypeAlias, get_args

from transformers import GenerationConfig

from langchain_amulet.caller_warnings import warn_caller
from langchain_amulet.engine.params import SamplingParams
from langchain_amulet.exceptions import InvalidParameterError, ToolError
from langchain_amulet.models.defaults import stop_token_ids
from langchain_amulet.preferences import DEFAULT_WORDING, PREFERENCES_SLOT
from langchain_amulet.realignment import RealignmentConfig
from langchain_amulet.stream_plan import DEFAULT_MAX_STREAMS
from langchain_amulet.structured.output_spec import OutputSpec, output_spec

DEFAULT_MAX_TOKENS = 512
MAX_TOP_LOGPROBS = 20
"""The most alternatives that an answer reports per token, as in hosted models: each of them costs all users time."""
IGNORED_ARGUMENTS = {"api_key", "base_url", "max_retries", "preference_digest"}
"""Arguments that `ChatAmulet` accepts and ignores: those of hosted models, and one that saved copies contain."""

PrefixSharing: TypeAlias = Literal["user", "system", "group", "all"]
"""Which calls reuse keys and values of each other's prompts; see `ChatAmulet.prefix_sharing`."""

_SAMPLING = tuple(param.name for param in fields(SamplingParams) if param.name != "stop_token_ids")
_DOES_NOT_CHANGE_ANSWERS = {"changes_answers": False}


@dataclass(frozen=True, slots=True, kw_only=True)
class CallSettings:
    """All settings of one call except its messages and preferences. `ChatAmulet` documents the fields of the same name.

    Raises:
        InvalidParameterError: A value is out of range or has the wrong type.
        ToolError: A tool cannot be converted, or the tool choice names no bound tool.
        SchemaError: The response format is not a JSON schema.
    """

    sampling: Mapping[str, Any] = field(default_factory=dict)
    """The parameters of `SamplingParams` that are set by the call or by the model's fields."""
    realignment: RealignmentConfig = field(default_factory=RealignmentConfig)
    max_streams: int = DEFAULT_MAX_STREAMS
    preference_template: str = DEFAULT_WORDING
    steer_structured: bool = False
    ignore_unsupported_keywords: bool = False
    stop: Sequence[str] = ()
    logprobs: bool | None = None
    top_logprobs: int | None = None
    trace: bool = False
    timeout: float | None = field(default=None, metadata=_DOES_NOT_CHANGE_ANSWERS)
    chat_template_kwargs: Mapping[str, Any] = field(default_factory=dict)
    sanitize_control_tokens: bool = True
    prefix_sharing: PrefixSharing = field(default="user", metadata=_DOES_NOT_CHANGE_ANSWERS)
    tools: Sequence[Any] = ()
    tool_choice: Any = None
    parallel_tool_calls: bool | None = None
    response_format: Any = None
    output: OutputSpec = field(init=False, repr=False)  # a refused instance has none, and may be shown
    """What the answer may contain, derived from the fields above."""

    def __post_init__(self) -> None:
        """Validate all values."""
        SamplingParams(**self.sampling)
        _check_realignment(self.realignment)
        _check_max_streams(self.max_streams)
        _check_template(self.preference_template)
        _check_stop(self.stop)
        check_tools(self.tools)
        _check_logprobs(self.logprobs, self.top_logprobs)
        _check_timeout(self.timeout)
        _check_type("steer_structured", self.steer_structured, bool)
        _check_type("trace", self.trace, bool)
        _check_type("ignore_unsupported_keywords", self.ignore_unsupported_keywords, bool)
        _check_type("sanitize_control_tokens", self.sanitize_control_tokens, bool)
        _check_sharing(self.prefix_sharing)
        _check_type("chat_template_kwargs", self.chat_template_kwargs, Mapping)
        object.__setattr__(self, "output", output_spec({name: getattr(self, name) for name in _SETTINGS}))

    @classmethod
    def merge(cls, model_fields: Mapping[str, Any], call: Mapping[str, Any]) -> "CallSettings":
        """Combine the arguments of a call with the model's fields, which apply if an argument is `None` or missing."""
        values = {name: value for source in (model_fields, call) for name, value in source.items() if value is not None}
        sampling = {name: values[name] for name in _SAMPLING if name in values}
        return cls(sampling=sampling, **{name: values[name] for name in _SETTINGS if name in values})

    @property
    def is_steered(self) -> bool:
        """Whether the answer may follow preferences beyond gain 1; structured output does not by default."""
        return not self.output.is_structure or self.steer_structured

    @property
    def repeats_preference(self) -> bool:
        """Whether prompts contain preferences twice; by default not where the answer may be structured or call tools.

        There, what ends the user's turn could be taken for a part of the data.
        """
        return self.realignment.repeat_preference and self.is_steered and not self.output.may_call

    @property
    def effective_realignment(self) -> RealignmentConfig:
        """The realignment of this call. Structured output has no guards and a scale from 0 to 1 by default."""
        if self.is_steered:
            return self.realignment
        return self.realignment.without_guards(guidance_scale=min(max(self.realignment.guidance_scale, 0.0), 1.0))

    @property
    def num_top_logprobs(self) -> int | None:
        """The number of alternatives to report per token; `None` if no log-probabilities are reported."""
        return (self.top_logprobs or 0) if self.logprobs or self.top_logprobs is not None else None

    def sampling_params(self, config: GenerationConfig) -> SamplingParams:
        """Return the parameters of sampling, with the generation config's values where the call and the model set none.

        Without a `top_k` in either, all tokens can be drawn: transformers' implicit default of 50 does not apply.

        Args:
            config: The model's generation config.

        Raises:
            InvalidParameterError: A value of the generation config is out of range.
        """
        temperature = 1.0 if config.temperature is None else config.temperature
        defaults = {
            "temperature": temperature if config.do_sample else 0.0,
            "top_p": config.top_p,
            "top_k": config.top_k,
            "repetition_penalty": config.repetition_penalty,
            "max_tokens": DEFAULT_MAX_TOKENS if config.max_new_tokens is None else config.max_new_tokens,
        }
        config_values = {name: value for name, value in defaults.items() if value is not None}
        return SamplingParams(**{**config_values, **self.sampling}, stop_token_ids=stop_token_ids(config))


_SETTINGS = tuple(setting.name for setting in fields(CallSettings) if setting.init and setting.name != "sampling")

_MIN_SIMILARITY = 0.8  # the similarity from which a name is taken for a misspelt one
# What LangChain's own methods take from the arguments of a call.
_LANGCHAIN_ARGUMENTS = {"callbacks", "metadata", "run_id", "run_name", "tags", "version", "diff"}
_LANGCHAIN_ARGUMENTS |= {f"{verb}_{what}" for verb in ("include", "exclude") for what in ("names", "types", "tags")}
_LANGCHAIN_ARGUMENTS |= {"ls_structured_output_format", "structured_output_format", "with_streamed_output_list"}

CALL_ARGUMENTS = {*_SAMPLING, *_SETTINGS, "preference", "stream"}
"""The names of all arguments of a call."""


def answer_settings(model_fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of a model that change its answers, for cache keys and the manifests of evaluations."""
    all_fields = fields(CallSettings)
    ignored = {setting.name for setting in all_fields if not setting.metadata.get("changes_answers", True)}
    names = [name for name in (*_SAMPLING, *_SETTINGS) if name in model_fields and name not in ignored]
    settings = {name: model_fields[name] for name in names}
    # LangChain stores the call's own stop strings under "stop".
    default_stop = settings.pop("stop")
    return {**settings, "default_stop": default_stop, "realignment": asdict(model_fields["realignment"])}


def checked_arguments(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of a call without unknown ones; see `known_arguments`."""
    return known_arguments(arguments, known=CALL_ARGUMENTS | _LANGCHAIN_ARGUMENTS, place="A call of ChatAmulet")


def checked_fields(values: Mapping[str, Any], names: Iterable[str]) -> dict[str, Any]:
    """Return the values of `ChatAmulet`'s fields, of which these are the names; see `known_arguments`."""
    return known_arguments(values, known={*names, *IGNORED_ARGUMENTS}, place="ChatAmulet")


def known_arguments(arguments: Mapping[str, Any], *, known: AbstractSet[str], place: str) -> dict[str, Any]:
    """Return the arguments with known names. Warn about the others, which LangChain would let through and trace.

    Raises:
        InvalidParameterError: A name is nearly "preference": the answer would silently be a plain one.
    """
    for name in sorted(arguments.keys() - known):
        nearest = difflib.get_close_matches(name, known, n=1, cutoff=0.0)[0]
        if difflib.get_close_matches(name, ["preference"], cutoff=_MIN_SIMILARITY):
            msg = f"{place} has no argument {name!r}. Did you mean 'preference'? It takes one preference or a list."
            raise InvalidParameterError(msg)
        warn_caller(f"{place} has no argument {name!r}, so it is ignored. Did you mean {nearest!r}?")
    return {name: value for name, value in arguments.items() if name in known}


def _check_realignment(realignment: Any) -> None:
    if not isinstance(realignment, RealignmentConfig):
        msg = f"realignment must be a RealignmentConfig(guidance_scale=8.0, ...), got {type(realignment).__name__}."
        raise InvalidParameterError(msg)


def _check_max_streams(max_streams: Any) -> None:
    if isinstance(max_streams, bool) or not isinstance(max_streams, int) or max_streams < 2:  # noqa: PLR2004
        msg = (
            f"max_streams must be a whole number, at least 2, since steering combines two prompts; got {max_streams!r}."
        )
        raise InvalidParameterError(msg)


def _check_sharing(sharing: Any) -> None:
    if sharing not in get_args(PrefixSharing):
        msg = f"prefix_sharing must be one of {', '.join(map(repr, get_args(PrefixSharing)))}; got {sharing!r}."
        raise InvalidParameterError(msg)


def _check_template(template: Any) -> None:
    if not isinstance(template, str) or template.count(PREFERENCES_SLOT) != 1:
        msg = (
            f"preference_template must contain {PREFERENCES_SLOT} exactly once, where the preferences go; "
            f"got {template!r}."
        )
        raise InvalidParameterError(msg)


def _check_stop(stop: Any) -> None:
    is_list = isinstance(stop, list | tuple)
    if not is_list or not all(isinstance(text, str) and text for text in stop):
        msg = f"stop must be a list of non-empty strings, such as ['END']; got {stop!r}."
        raise InvalidParameterError(msg)


def _check_logprobs(logprobs: Any, top_logprobs: Any) -> None:
    if not isinstance(logprobs, bool | None):
        msg = f"logprobs must be True or False, and top_logprobs the number of alternatives; got {logprobs!r}."
        raise InvalidParameterError(msg)
    if top_logprobs is not None and logprobs is False:
        msg = "top_logprobs needs logprobs=True."
        raise InvalidParameterError(msg)
    is_number = isinstance(top_logprobs, int) and not isinstance(top_logprobs, bool)
    if top_logprobs is not None and not (is_number and 0 <= top_logprobs <= MAX_TOP_LOGPROBS):
        msg = f"top_logprobs must be a whole number from 0 to {MAX_TOP_LOGPROBS}; got {top_logprobs!r}."
        raise InvalidParameterError(msg)


def check_tools(tools: Any) -> None:
    """Raise `ToolError` if the tools are not a list."""
    if not isinstance(tools, Sequence) or isinstance(tools, str | bytes):
        msg = f"tools must be a list of functions, classes, LangChain tools or dicts; got {type(tools).__name__}."
        raise ToolError(msg)


def _check_type(name: str, value: Any, expected: type) -> None:
    if not isinstance(value, expected):
        msg = f"{name} must be a {expected.__name__}, got {type(value).__name__}."
        raise InvalidParameterError(msg)


def _check_timeout(timeout: Any) -> None:
    if timeout is None:
        return
    if not isinstance(timeout, int | float) or isinstance(timeout, bool) or not timeout > 0:
        msg = f"timeout must be a number of seconds above 0, or None to wait; got {timeout!r}."
        raise InvalidParameterError(msg)
