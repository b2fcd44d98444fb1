"""Brings wishes that differ only in manners, case and punctuation to one phrase, by which tables are searched."""

import re
import unicodedata

_CONTRACTIONS = {
    "don't": "do not",
    "dont": "do not",
    "doesn't": "does not",
    "can't": "cannot",
    "i'd": "i would",
    "i'm": "i am",
    "i've": "i have",
    "it's": "it is",
    "let's": "let us",
}
_ANSWER = re.compile(
    r"\b(?:(?:all|every|each|any) )?(?:of )?(?:(?:your|the|my) )?(?:answers?|responses?|repl(?:y|ies)|respond)\b"
)
# Each alternative ends with a word boundary, and what they remove never changes what is asked for.
_LEADING = re.compile(
    r"(?:please|kindly|always|also|from now on|in (?:the )?future|when(?:ever)? (?:you answer|answering(?: me)?)"
    r"|i (?:would )?(?:prefer|like|want|need|wish|love)(?: it| for)?(?: if| that| when)? you(?: to)?"
    r"|i always want you to|you (?:should|must|can|are to)|(?:can|could|would|will) you|make sure (?:to|that you|you)"
    r"|be sure to|remember to|try to|do)\b(?! not\b) ?"
)
_TRAILING = re.compile(
    r" ?\b(?:please|thanks|thank you|from now on|in (?:the )?future|always|at all times|(?:every|each) time"
    r"|in answer|for me)$"
)


def canonical(text: str) -> str:
    """Return the phrase of a wish: case folded, without punctuation and polite or general words around it.

    Two texts of one phrase ask for the same. A negation is never removed.
    """
    plain = unicodedata.normalize("NFKC", text).casefold().replace("\u2019", "'")
    words = [_CONTRACTIONS.get(word, word) for word in re.findall(r"[^\W_]+(?:'[^\W_]+)*", plain)]
    phrase = _ANSWER.sub("answer", " ".join(words))
    for pattern in (_LEADING, _TRAILING):
        phrase = _stripped(pattern, phrase)
    return phrase


def _stripped(pattern: re.Pattern[str], phrase: str) -> str:
    """Remove what a pattern finds at the beginning or the end, as often as it is there, unless nothing would remain."""
    while True:
        match = pattern.match(phrase) if pattern is _LEADING else pattern.search(phrase)
        shorter = phrase if match is None else (phrase[: match.start()] + phrase[match.end() :]).strip()
        if shorter in ("", phrase):
            return phrase
        phrase = shorter
