"""Opposites of preferences: what an answer is steered away from while it is steered towards a preference."""

from langchain_amulet.preferences import Preference


def opposite_of(preference: Preference) -> str | None:
    """Return the instruction that asks for the opposite of a preference; `None` if it has none."""
    return preference.opposite or None
