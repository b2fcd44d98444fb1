"""Recognises the language of an answer, as a whole and sentence by sentence."""

from functools import cache
from typing import Any

from langchain_amulet.evaluation.scorers.structure import count_words, sentences
from langchain_amulet.exceptions import MissingExtraError

_CANDIDATES = (
    "ar", "bg", "bn", "da", "de", "en", "es", "fa", "fi", "fr", "gu", "he", "hi", "it", "ja", "kn", "ko", "ml", "mr",
    "ne", "nl", "pa", "pl", "pt", "ru", "sv", "sw", "ta", "te", "th", "tr", "uk", "ur", "vi", "zh",
)  # fmt: skip
"""Languages that are told apart. More would make short texts less certain."""
SURE_WORDS = 6
"""Sentences of fewer words are too short to be judged alone."""
SHARE = 0.8
"""The least share of the words of the judged sentences that are in the language."""


def language_of(text: str) -> str:
    """Return the most probable language of a text as a code of ISO 639-1, by py3langid. It is deterministic.

    Raises:
        MissingExtraError: py3langid is not installed.

    References:
        Lui and Baldwin, langid.py, ACL 2012: https://aclanthology.org/P12-3005
    """
    return str(_identifier().classify(text)[0])


def is_language(text: str, language: str) -> bool:
    """Return whether a text is in a language: the whole, and sentences with four fifths of the words.

    Sentences of fewer than six words are judged with the whole only, and so loan words and short titles do no harm.

    Args:
        text: The text.
        language: Code of ISO 639-1, such as `"fr"`.
    """
    judged = [(count_words(each), each) for each in sentences(text) if count_words(each) >= SURE_WORDS]
    there = sum(words for words, each in judged if language_of(each) == language)
    return language_of(text) == language and there >= SHARE * sum(words for words, _ in judged)


@cache
def _identifier() -> Any:
    try:
        from py3langid.langid import MODEL_FILE, LanguageIdentifier
    except ImportError as error:
        msg = "Checking the language of answers needs py3langid. Install it: pip install 'langchain-amulet[eval]'"
        raise MissingExtraError(msg) from error
    identifier = LanguageIdentifier.from_model_file(MODEL_FILE)
    identifier.set_languages([*_CANDIDATES])
    return identifier
