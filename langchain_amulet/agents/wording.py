"""How models word preferences: negated dislikes, quotes, and texts that mean the same."""

import re

from langchain_amulet.preferences import Preference

MAX_PREFERENCE_LENGTH = 500


# "Avoid jargon." as a dislike would steer the model towards jargon.
_NEGATION = re.compile(r"(?:avoid|do not|don['\u2019]t|never|no|not|stop|without)\b", re.IGNORECASE)
_BEFORE = re.compile(r"(?:-\s+)?(?:\(avoid\)\s+)?", re.IGNORECASE)  # ... a text in a listing
_QUOTES = " \"'\u2018\u2019\u201c\u201d"


def stated(text: str, *, is_dislike: bool) -> Preference:
    """What a model says that a user has said. Models often negate dislikes once more; that is an instruction."""
    text = " ".join(text.split())
    return Preference(text, -1.0 if is_dislike and not _NEGATION.match(text) else 1.0)


def essence(text: str) -> str:
    """A text without case, spacing, quotes, final stops and what a listing puts before it."""
    words = " ".join(text.casefold().split())
    return _BEFORE.sub("", words.strip(_QUOTES), count=1).strip(_QUOTES + ".!")
