"""The settings of one call: its own, over the model's fields, over the generation config."""

import difflib
import warnings
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from transformers import GenerationConfig

from langchain_amulet.engine.params import SamplingParams
from langchain_amulet.exceptions import InvalidParameterError
from langchain_amulet.realignment import RealignmentConfig

DEFAULT_MAX_TOKENS = 512
SAMPLING_NAMES = tuple(field.name for field in fields(SamplingParams) if field.name != "stop_token_ids")


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
    eos = config.eos_token_id
    stop_token_ids = frozenset([eos] if isinstance(eos, int) else eos or [])
    return SamplingParams(**{**given(defaults), **given(model_fields), **given(call)}, stop_token_ids=stop_token_ids)


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
