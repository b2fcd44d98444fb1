"""Looks up the opposite of a preference: the stated one, else one from the tables of common wishes."""

import re

from langchain_amulet.opposites.adjectives import adjective_opposite
from langchain_amulet.opposites.phrases import canonical
from langchain_amulet.opposites.unopposed import is_unopposed
from langchain_amulet.opposites.wishes import wish_opposite
from langchain_amulet.preferences import Preference

_SENTENCE_END = re.compile(r"(?<=[.!])\s+")
_MAX_LENGTH = 300  # characters; common wishes are short, and longer texts say more than the tables know


def opposite_of(preference: Preference) -> str | None:
    """Return the instruction that asks for the opposite of a preference; `None` if it has none.

    A stated opposite goes first; an empty one says that there is none. Else the tables of common wishes are searched.
    They match whole texts only, since a wrong opposite does more harm than none.
    """
    if preference.opposite is not None:
        return preference.opposite.strip() or None
    return known_opposite(preference.text) or None


def known_opposite(text: str) -> str | None:
    """Return the opposite of a common wish; empty for what has none, `None` for a text that the tables do not know."""
    if len(text) > _MAX_LENGTH:
        return None
    if is_unopposed(text):
        return ""
    if (opposite := _of_wish(text)) is not None:
        return opposite
    opposites = [_of_wish(sentence) for sentence in _SENTENCE_END.split(text.strip())]
    return None if None in opposites else " ".join(filter(None, opposites))


def _of_wish(text: str) -> str | None:
    phrase = canonical(text)
    return adjective_opposite(phrase) or wish_opposite(phrase)
