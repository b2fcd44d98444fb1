"""Preferences as language models word them: negated dislikes, quotes, and different texts with the same meaning."""

import re

from langchain_amulet.preferences import Preference

MAX_PREFERENCE_LENGTH = 500
"""Maximum length of a preference that a model proposes, in characters."""

# "Avoid jargon." with a negative weight would steer the answers towards jargon.
_NEGATION = re.compile(r"(?:avoid|do not|don['\u2019]t|never|no|not|stop|without)\b", re.IGNORECASE)
_LIST_PREFIX = re.compile(r"(?:-\s+)?(?:\(avoid\)\s+)?", re.IGNORECASE)  # as list_preferences writes it
_QUOTES = " \"'\u2018\u2019\u201c\u201d"


def stated(text: str, *, is_dislike: bool) -> Preference:
    """Return the preference that a model proposes. A dislike that is worded as a negation becomes an instruction."""
    text = " ".join(text.split())
    return Preference(text, -1.0 if is_dislike and not _NEGATION.match(text) else 1.0)


def essence(text: str) -> str:
    """Return the text in a form to compare: no upper case, extra whitespace, quotes, full stop or list prefix."""
    words = " ".join(text.casefold().split())
    return _LIST_PREFIX.sub("", words.strip(_QUOTES), count=1).strip(_QUOTES + ".!")
