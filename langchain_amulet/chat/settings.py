"""The settings of one call: its own arguments, over the model's fields, over the generation config.

To add a setting, add a field to `CallSettings` and use it; to let users set it for all calls of a model, add a field of
the same name to `ChatAmulet`. Parameters of `SamplingParams` are settings by themselves.
"""

import difflib
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from transformers import GenerationConfig

from langchain_amulet.engine.params import SamplingParams
from langchain_amulet.exceptions import InvalidParameterError
from langchain_amulet.models.defaults import stop_token_ids
from langchain_amulet.preferences import DEFAULT_MAX_STREAMS, DEFAULT_WORDING, PREFERENCES_SLOT
from langchain_amulet.realignment import RealignmentConfig
from langchain_amulet.structured.output_spec import OutputSpec, output_spec

DEFAULT_MAX_TOKENS = 512
IGNORED_ARGUMENTS = {"api_key", "base_url", "max_retries", "preference_digest"}
"""Arguments that other chat models take and a local model does not need, and one that only saved copies have."""

_SAMPLING = tuple(each.name for each in fields(SamplingParams) if each.name != "stop_token_ids")
_DOES_NOT_CHANGE_ANSWERS = {"changes_answers": False}


@dataclass(frozen=True, slots=True, kw_only=True)
class CallSettings:
    """Everything that a call is made with besides its messages and preferences. Documented at `ChatAmulet`.

    Raises:
        InvalidParameterError: A value is out of range or has the wrong type.
        ToolError: A tool cannot be converted, or the tool choice names no bound tool.
        SchemaError: The response format is not a JSON schema.
    """

    sampling: Mapping[str, Any] = field(default_factory=dict)
    """The parameters of `SamplingParams` that the call or the model sets."""
    realignment: RealignmentConfig = field(default_factory=RealignmentConfig)
    max_streams: int = DEFAULT_MAX_STREAMS
    preference_template: str = DEFAULT_WORDING
    steer_structured: bool = False
    ignore_unsupported_keywords: bool = False
    stop: Sequence[str] = ()
    logprobs: bool | None = None
    top_logprobs: int | None = None
    timeout: float | None = field(default=None, metadata=_DOES_NOT_CHANGE_ANSWERS)
    chat_template_kwargs: Mapping[str, Any] = field(default_factory=dict)
    tools: Sequence[Any] = ()
    tool_choice: Any = None
    parallel_tool_calls: bool | None = None
    response_format: Any = None
    output: OutputSpec = field(init=False)
    """What the answer must look like, from the arguments above."""

    def __post_init__(self) -> None:
        """Validate all values."""
        SamplingParams(**self.sampling)
        _check_realignment(self.realignment)
        _check_max_streams(self.max_streams)
        _check_template(self.preference_template)
        _check_stop(self.stop)
        _check_logprobs(self.logprobs, self.top_logprobs)
        _check_timeout(self.timeout)
        object.__setattr__(self, "output", output_spec({name: getattr(self, name) for name in _SETTINGS}))

    @classmethod
    def merge(cls, model_fields: Mapping[str, Any], call: Mapping[str, Any]) -> "CallSettings":
        """Combine call arguments with the model's fields, which hold where an argument is `None` or missing."""
        values = {name: value for source in (model_fields, call) for name, value in source.items() if value is not None}
        sampling = {name: values[name] for name in _SAMPLING if name in values}
        return cls(sampling=sampling, **{name: values[name] for name in _SETTINGS if name in values})

    @property
    def effective_realignment(self) -> RealignmentConfig:
        """The realignment of this call: structured output is not steered beyond the prompted policy by default."""
        if not self.output.is_structure or self.steer_structured:
            return self.realignment
        return self.realignment.without_guards(guidance_scale=min(max(self.realignment.guidance_scale, 0.0), 1.0))

    @property
    def num_top_logprobs(self) -> int | None:
        """How many alternatives to report for each token; `None` if no log-probabilities are reported."""
        return (self.top_logprobs or 0) if self.logprobs or self.top_logprobs is not None else None

    def sampling_params(self, config: GenerationConfig) -> SamplingParams:
        """How tokens are drawn, and which of them end the answer.

        `top_k` is only applied if the user or the generation config sets it: transformers' implicit 50 is not.

        Args:
            config: The model's generation config, which holds where nothing is set.

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
        known = {name: value for name, value in defaults.items() if value is not None}
        return SamplingParams(**{**known, **self.sampling}, stop_token_ids=stop_token_ids(config))


_SETTINGS = tuple(each.name for each in fields(CallSettings) if each.init and each.name != "sampling")

CALL_ARGUMENTS = {*_SAMPLING, *_SETTINGS, "preference", "stream"}
"""All arguments that a call may have."""


def answer_settings(model_fields: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a model that its answers depend on, as cache keys and the manifests of evaluations hold them."""
    ignored = {each.name for each in fields(CallSettings) if not each.metadata.get("changes_answers", True)}
    names = [name for name in (*_SAMPLING, *_SETTINGS) if name in model_fields and name not in ignored]
    settings = {name: model_fields[name] for name in names}
    # LangChain stores the call's own stop strings under "stop".
    return {**settings, "default_stop": settings.pop("stop"), "realignment": asdict(model_fields["realignment"])}


def warn_of_unknown(arguments: Mapping[str, Any], *, known: set[str], place: str) -> None:
    """Warn of arguments that LangChain passes on but nothing reads, and suggest the nearest known name."""
    for name in arguments.keys() - known:
        nearest = difflib.get_close_matches(name, known, n=1, cutoff=0.0)[0]
        msg = f"{place} has no argument {name!r}, so it is ignored. Did you mean {nearest!r}?"
        warnings.warn(msg, stacklevel=2)


def _check_realignment(realignment: Any) -> None:
    if not isinstance(realignment, RealignmentConfig):
        msg = f"realignment must be a RealignmentConfig(guidance_scale=2.0, ...), got {type(realignment).__name__}."
        raise InvalidParameterError(msg)


def _check_max_streams(max_streams: Any) -> None:
    if isinstance(max_streams, bool) or not isinstance(max_streams, int) or max_streams < 2:  # noqa: PLR2004
        msg = f"max_streams must be a whole number, at least 2: the base stream and one more; got {max_streams!r}."
        raise InvalidParameterError(msg)


def _check_template(template: str) -> None:
    if template.count(PREFERENCES_SLOT) != 1:
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


def _check_timeout(timeout: Any) -> None:
    if timeout is None:
        return
    if not isinstance(timeout, int | float) or isinstance(timeout, bool) or not timeout > 0:
        msg = f"timeout must be a number of seconds above 0, or None to wait; got {timeout!r}."
        raise InvalidParameterError(msg)
