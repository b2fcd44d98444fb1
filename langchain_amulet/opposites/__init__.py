"""Opposites of preferences: what an answer is steered away from while it is steered towards a preference."""

from langchain_amulet.opposites.lookup import known_opposite, opposite_of

__all__ = ["known_opposite", "opposite_of"]
