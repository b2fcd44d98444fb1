"""Settings of a chat model for cache keys, traces and saved copies, without preference texts."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from langchain_amulet.chat.settings import answer_settings
from langchain_amulet.models.identity import identity, serializable_kwargs
from langchain_amulet.personalization.resolved import resolve


def identifying_params(model_fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return all that an answer depends on except messages and call arguments; the default preference as a digest."""
    kwargs = model_fields["model_kwargs"]
    return {
        "model": identity(model_fields["model"]),
        "tokenizer": identity(model_fields["tokenizer"]),
        "model_kwargs": {name: repr(value) for name, value in kwargs.items() if name != "token"},
        **answer_settings(model_fields),
        "preference": repr(resolve(model_fields["preference"])),
    }


def saved_attributes(model_fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields that have another form in saved copies than in the model; empty ones are left out."""
    engine_config, preference = model_fields["engine_config"], model_fields["preference"]
    attributes = {
        "model": identity(model_fields["model"]),
        "tokenizer": identity(model_fields["tokenizer"]),
        "model_kwargs": serializable_kwargs(model_fields["model_kwargs"]),
        "engine_config": engine_config and asdict(engine_config),
        "preference_digest": repr(resolve(preference)) if preference else None,
    }
    realignment = asdict(model_fields["realignment"])
    return {"realignment": realignment, **{name: value for name, value in attributes.items() if value}}
