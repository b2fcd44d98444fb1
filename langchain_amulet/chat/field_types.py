"""Validators that convert the values of `ChatAmulet`'s fields."""

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from pydantic import BeforeValidator, ValidationError
from pydantic_core import InitErrorDetails, PydanticCustomError

from langchain_amulet.exceptions import InvalidParameterError
from langchain_amulet.personalization.resolved import PreferenceArgument, ResolvedPreferences, resolve


def from_dict(config_class: type) -> BeforeValidator:
    """Return a validator that also accepts a dict of the config's fields, as saved copies of a model contain."""

    def convert(value: Any) -> Any:
        if not isinstance(value, Mapping):
            return value
        known = {field.name for field in fields(config_class)}
        if unknown := value.keys() - known:
            msg = f"{config_class.__name__} has no fields {sorted(map(str, unknown))}. Its fields are {sorted(known)}."
            raise InvalidParameterError(msg)
        return config_class(**value)

    return BeforeValidator(convert)


def opaque(preference: PreferenceArgument) -> ResolvedPreferences | None:
    """Resolve a preference, so that neither `repr` nor traces show its text; keep `None`, which means no default.

    Raises:
        PreferenceError: The argument is not a preference.
    """
    return None if preference is None else resolve(preference)


def without_input(error: ValidationError) -> ValidationError:
    """Return the same error without the input, which may contain a preference or a token, and without its context."""
    details = [
        InitErrorDetails(type=PydanticCustomError(each["type"], each["msg"]), loc=each["loc"], input=None)
        for each in error.errors(include_url=False)
    ]
    return ValidationError.from_exception_data(error.title, details, hide_input=True)
