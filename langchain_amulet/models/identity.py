"""What a model is, as caches, traces, profiles and saved copies are told."""

import json
import os
import uuid
from collections.abc import Mapping
from functools import cache
from typing import Any
from weakref import WeakKeyDictionary

import torch
from langchain_core.language_models import ModelProfile
from transformers import AutoConfig, PreTrainedConfig, PreTrainedModel

# Tells apart models that the user has loaded: their names may be equal, their weights not.
_fingerprints: "WeakKeyDictionary[object, str]" = WeakKeyDictionary()


def identity(source: Any) -> str | None:
    """A name for a model or tokenizer; for one that the user has loaded, one that no other has in any process."""
    if isinstance(source, str | os.PathLike | None):
        return None if source is None else str(source)
    return _fingerprints.setdefault(source, f"{type(source).__name__}@{uuid.uuid4().hex}")


def plain(model_kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Those loading arguments that can be written down: no access token, and no objects but dtypes, by their names."""
    named = {
        name: str(value).removeprefix("torch.") if isinstance(value, torch.dtype) else value
        for name, value in model_kwargs.items()
    }
    return {name: value for name, value in named.items() if name != "token" and _is_json(value)}


def _is_json(value: Any) -> bool:
    try:
        json.dumps(value)
    except (TypeError, ValueError):
        return False
    return True


def profile(model: Any, *, name: str, has_reasoning: bool | None = None) -> ModelProfile:
    """What a model can do, as far as its config tells without loading its weights.

    Args:
        model: What `ChatAmulet` was given as its model.
        name: What it is called.
        has_reasoning: Whether it marks what it thinks, where that is known.
    """
    known = ModelProfile(
        name=name,
        open_weights=True,
        text_inputs=True,
        text_outputs=True,
        image_inputs=False,
        audio_inputs=False,
        video_inputs=False,
        tool_calling=True,
        tool_choice=True,
        tool_call_streaming=True,
        structured_output=True,
        temperature=True,
    )
    if has_reasoning is not None:
        known["reasoning_output"] = has_reasoning
    config = model.config if isinstance(model, PreTrainedModel) else _config(identity(model))
    if context := getattr(config, "max_position_embeddings", None):
        known["max_input_tokens"] = known["max_output_tokens"] = context
    return known


@cache
def _config(location: str | None) -> PreTrainedConfig | None:
    """A model's config if it lies on this machine; nothing is fetched, and no GGUF file read, to describe a model."""
    if location is None or location.endswith(".gguf"):
        return None
    try:
        config: PreTrainedConfig = AutoConfig.from_pretrained(os.path.expanduser(location), local_files_only=True)  # noqa: PTH111
    except (OSError, ValueError, KeyError):
        return None
    return config
