"""The settings of one call: its own, over the model's fields, over the generation config."""

import difflib
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any

from transformers import GenerationConfig

from langchain_amulet.engine.params import SamplingParams
from langchain_amulet.exceptions import InvalidParameterError
from langchain_amulet.models.defaults import stop_token_ids
from langchain_amulet.preferences import DEFAULT_WORDING, PREFERENCES_SLOT
from langchain_amulet.realignment import RealignmentConfig
from langchain_amulet.structured.output_spec import OutputSpec, output_spec

DEFAULT_MAX_TOKENS = 512
SAMPLING_NAMES = tuple(each.name for each in fields(SamplingParams) if each.name != "stop_token_ids")
_OUTPUT_NAMES = ("tools", "tool_choice", "parallel_tool_calls", "response_format")
_DRAWING_NAMES = ("realignment", "steer_structured", "logprobs", "top_logprobs")
_OTHER_NAMES = (*_DRAWING_NAMES, "stop", "timeout", "chat_template_kwargs")
CALL_ARGUMENTS = {*SAMPLING_NAMES, *_OUTPUT_NAMES, *_OTHER_NAMES, "preference", "stream"}
IGNORED_ARGUMENTS = {"api_key", "base_url", "max_retries", "preference_digest"}
"""What other chat models take and a local one has no use for; and what only saved copies hold."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CallSettings:
    """All that a call is given besides its messages and preferences."""

    realignment: RealignmentConfig
    max_streams: int
    sampling: SamplingParams
    wording: str = DEFAULT_WORDING
    stop: Sequence[str] = ()
    output: OutputSpec = field(default_factory=OutputSpec)
    steer_structured: bool = False
    top_logprobs: int | None = None
    timeout_s: float | None = None
    template_kwargs: Mapping[str, Any] = field(default_factory=dict)

    @property
    def effective_realignment(self) -> RealignmentConfig:
        """Style leaves structure alone: there, answers are those of the preference prompt."""
        if self.output.is_structure and not self.steer_structured:
            scale = min(max(self.realignment.guidance_scale, 0.0), 1.0)
            return replace(self.realignment, guidance_scale=scale, plausibility=0.0, max_kl=None, nucleus=None)
        return self.realignment


def call_settings(
    config: GenerationConfig | None, model_fields: Mapping[str, Any], call: Mapping[str, Any]
) -> CallSettings:
    """All that a call is given: its own arguments, over the model's fields, over the generation config.

    Raises:
        InvalidParameterError: A value is out of range, or of the wrong kind.
        ToolError: A tool is none, or the choice names none of them.
        SchemaError: The response format is none.
    """
    own = {name: call[name] for name in (*_OTHER_NAMES, *_OUTPUT_NAMES) if call.get(name) is not None}
    values = {**{name: model_fields.get(name) for name in _OTHER_NAMES}, **own}
    return CallSettings(
        realignment=check_realignment(values["realignment"]),
        max_streams=model_fields["max_streams"],
        wording=check_wording(model_fields["preference_template"]),
        sampling=sampling_params(config or GenerationConfig(), model_fields, call),
        stop=check_stop(values["stop"]),
        output=output_spec(values),
        steer_structured=bool(values["steer_structured"]),
        top_logprobs=top_logprobs(values),
        timeout_s=check_timeout(values["timeout"]),
        template_kwargs=values["chat_template_kwargs"] or {},
    )


def identifying(model_fields: Mapping[str, Any]) -> dict[str, Any]:
    """Those fields that answers depend on, as caches are told of them."""
    names = (*SAMPLING_NAMES, *_DRAWING_NAMES, "chat_template_kwargs", "max_streams", "preference_template")
    told = {name: model_fields[name] for name in names}
    # LangChain puts the call's own stop strings under "stop".
    return {**told, "default_stop": model_fields["stop"], "realignment": asdict(model_fields["realignment"])}


def sampling_params(
    config: GenerationConfig, model_fields: Mapping[str, Any], call: Mapping[str, Any]
) -> SamplingParams:
    """How to draw the tokens of one call, and which end it.

    A `top_k` counts only where somebody has set it: the 50 that transformers implies when it samples is not taken.

    Raises:
        InvalidParameterError: A value is out of range.
    """
    temperature = 1.0 if config.temperature is None else config.temperature
    defaults = {
        "temperature": temperature if config.do_sample else 0.0,
        "top_p": config.top_p,
        "top_k": config.top_k,
        "repetition_penalty": config.repetition_penalty,
        "max_tokens": DEFAULT_MAX_TOKENS if config.max_new_tokens is None else config.max_new_tokens,
    }
    values = {**given(defaults), **given(model_fields), **given(call)}
    return SamplingParams(**values, stop_token_ids=stop_token_ids(config))


def given(values: Mapping[str, Any]) -> dict[str, Any]:
    """Those sampling parameters that say something."""
    return {name: values[name] for name in SAMPLING_NAMES if values.get(name) is not None}


def check_stop(stop: Any) -> list[str]:
    """Refuse what cannot end an answer; `None` is no stop string.

    Raises:
        InvalidParameterError: It is no list of texts, or a text is empty.
    """
    if stop is None:
        return []
    if not isinstance(stop, list) or not all(isinstance(text, str) and text for text in stop):
        msg = f"stop is a list of texts, none of them empty, such as ['END']; got {stop!r}."
        raise InvalidParameterError(msg)
    return stop


def top_logprobs(values: Mapping[str, Any]) -> int | None:
    """How many of the likeliest tokens to report with each; `None` reports no log-probabilities.

    Raises:
        InvalidParameterError: `logprobs` is no bool, or `top_logprobs` is no whole number or goes without.
    """
    wanted, top = values.get("logprobs"), values.get("top_logprobs")
    if not isinstance(wanted, bool | None):
        msg = f"logprobs is True or False, and top_logprobs says how many alternatives to report; got {wanted!r}."
        raise InvalidParameterError(msg)
    if top is not None and wanted is False:
        msg = "top_logprobs goes with logprobs=True."
        raise InvalidParameterError(msg)
    return (top or 0) if wanted or top is not None else None


def check_timeout(timeout: Any) -> float | None:
    """Refuse what is no time.

    Raises:
        InvalidParameterError: It is no number above 0.
    """
    if timeout is None:
        return None
    if not isinstance(timeout, int | float) or isinstance(timeout, bool) or not timeout > 0:
        msg = f"timeout is a number of seconds above 0, or None to wait; got {timeout!r}."
        raise InvalidParameterError(msg)
    return float(timeout)


def check_wording(wording: str) -> str:
    """Refuse what says nothing of preferences.

    Raises:
        InvalidParameterError: There is not one place for them.
    """
    if wording.count(PREFERENCES_SLOT) != 1:
        msg = (
            f"preference_template has to have one {PREFERENCES_SLOT} in it, where the preferences go; got {wording!r}."
        )
        raise InvalidParameterError(msg)
    return wording


def check_realignment(realignment: Any) -> RealignmentConfig:
    """Refuse what is no realignment.

    Raises:
        InvalidParameterError: It is no `RealignmentConfig`.
    """
    if not isinstance(realignment, RealignmentConfig):
        msg = f"realignment is a RealignmentConfig(guidance_scale=2.0, ...), got {type(realignment).__name__}."
        raise InvalidParameterError(msg)
    return realignment


def warn_of_unknown(values: Mapping[str, Any], *, known: set[str], place: str) -> None:
    """Warn of arguments that LangChain lets pass and nobody reads, naming the nearest that somebody does."""
    for name in values.keys() - known:
        nearest = difflib.get_close_matches(name, known, n=1, cutoff=0.0)[0]
        msg = f"{place} has no argument {name!r}, so it is ignored. Did you mean {nearest!r}?"
        warnings.warn(msg, stacklevel=2)
