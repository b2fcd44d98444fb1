"""Validators that convert the values of `ChatAmulet`'s fields."""

from collections.abc import Mapping

from pydantic import BeforeValidator

from langchain_amulet.personalization.resolved import PreferenceArgument, ResolvedPreferences, resolve


def from_dict(config_class: type) -> BeforeValidator:
    """Return a validator that also accepts a dict of the config's fields, as saved copies of a model contain."""
    return BeforeValidator(lambda value: config_class(**value) if isinstance(value, Mapping) else value)


def opaque(preference: PreferenceArgument) -> ResolvedPreferences | None:
    """Resolve a preference, so that neither `repr` nor traces show its text; keep `None`, which means no default.

    Raises:
        PreferenceError: The argument is not a preference.
    """
    return None if preference is None else resolve(preference)
