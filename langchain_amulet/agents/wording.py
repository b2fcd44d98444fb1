"""Cleans up and compares preferences that language models have worded."""

import re

from langchain_amulet.preferences import Preference

MAX_PREFERENCE_LENGTH = 500
"""Maximum length of a preference that a model proposes, in characters."""

# "Avoid jargon." with a negative weight would steer answers towards jargon, so these texts get a positive weight.
_NEGATION = re.compile(r"(?:avoid|do not|don['\u2019]t|never|no|not|stop|without)\b", re.IGNORECASE)
_LIST_PREFIX = re.compile(r"(?:-\s+)?(?:\(avoid\)\s+)?", re.IGNORECASE)  # as list_preferences writes it
_QUOTES = " \"'\u2018\u2019\u201c\u201d"


def as_stated(text: str, *, is_dislike: bool) -> Preference:
    """Return the preference that a model proposes: weight 1, or -1 for a dislike that is not worded as a negation."""
    text = " ".join(text.split())
    return Preference(text, -1.0 if is_dislike and not _NEGATION.match(text) else 1.0)


def comparable(text: str) -> str:
    """Return a text by which to compare: without upper case, extra whitespace, quotes, full stop and list prefix."""
    words = " ".join(text.casefold().split())
    return _LIST_PREFIX.sub("", words.strip(_QUOTES), count=1).strip(_QUOTES + ".!")
