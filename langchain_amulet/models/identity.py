"""Describes a model for cache keys, traces, LangChain's model profiles and saved copies."""

import os
import uuid
from functools import cache
from weakref import WeakKeyDictionary

from langchain_core.language_models import ModelProfile
from transformers import AutoConfig, PreTrainedConfig, PreTrainedModel

from langchain_amulet.exceptions import ModelNotFoundError
from langchain_amulet.models.sources import ClosedModel, ModelSource, TokenizerSource, model_name

# Loaded models may have equal names but different weights, so each one gets an id of its own.
_fingerprints: "WeakKeyDictionary[object, str]" = WeakKeyDictionary()


def identity(source: ModelSource | TokenizerSource) -> str | None:
    """Return a string that identifies a model or tokenizer in cache keys and saved copies.

    Args:
        source: A location or a loaded object.

    Returns:
        The location; for a loaded object, an id that is unique across processes; `None` for the default. A closed model
        keeps what it had before it was closed.
    """
    if isinstance(source, ClosedModel):
        return source.source
    if isinstance(source, str | os.PathLike | None):
        return None if source is None else str(source)
    return _fingerprints.setdefault(source, f"{type(source).__name__}@{uuid.uuid4().hex}")


def closed_source(model: ModelSource) -> ClosedModel:
    """Return what stands for a model after it was closed."""
    if isinstance(model, ClosedModel):
        return model
    try:
        name = model_name(model)
    except ModelNotFoundError:  # a path that does not exist any more
        name = str(model)
    return ClosedModel(name, identity(model))


def model_profile(model: ModelSource, *, name: str) -> ModelProfile:
    """Return LangChain's profile of a model from its config, without loading weights.

    Args:
        model: The field `model` of `ChatAmulet`.
        name: The name of the model.
    """
    profile = ModelProfile(
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
    config = model.config if isinstance(model, PreTrainedModel) else _config(identity(model))
    if context := getattr(config, "max_position_embeddings", None):
        profile["max_input_tokens"] = profile["max_output_tokens"] = context
    return profile


@cache
def _config(location: str | None) -> PreTrainedConfig | None:
    """Return the config of a model on this machine; `None` for GGUF files and for models that are not downloaded."""
    if location is None or location.endswith(".gguf"):
        return None
    try:
        config: PreTrainedConfig = AutoConfig.from_pretrained(os.path.expanduser(location), local_files_only=True)  # noqa: PTH111
    except (OSError, ValueError, KeyError):
        return None
    return config
