"""Settings of a chat model for cache keys, traces and saved copies, without preference texts or secrets."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from langchain_amulet.chat.redaction import saved_kwargs, shown_kwargs
from langchain_amulet.chat.settings import answer_settings
from langchain_amulet.models.identity import identity
from langchain_amulet.personalization.resolved import resolve


def identifying_params(model_fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return all that an answer depends on except messages and call arguments; the default preference as a digest."""
    quantization = model_fields["quantization"]  # left out if `None`, so that keys of caches stay as they were
    return {
        "model": identity(model_fields["model"]),
        "tokenizer": identity(model_fields["tokenizer"]),
        **({"quantization": quantization} if quantization else {}),
        "model_kwargs": shown_kwargs(model_fields["model_kwargs"]),
        **answer_settings(model_fields),
        "preference": repr(resolve(model_fields["preference"])),
    }


def saved_attributes(model_fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields that have another form in saved copies than in the model; empty ones are left out."""
    engine_config, preference = model_fields["engine_config"], model_fields["preference"]
    attributes = {
        "model": identity(model_fields["model"]),
        "tokenizer": identity(model_fields["tokenizer"]),
        "model_kwargs": saved_kwargs(model_fields["model_kwargs"]),
        "engine_config": engine_config and asdict(engine_config),
        "preference_digest": repr(resolve(preference)) if preference else None,
    }
    realignment = asdict(model_fields["realignment"])
    return {"realignment": realignment, **{name: value for name, value in attributes.items() if value}}
