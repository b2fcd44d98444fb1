"""Repetition in answers: n-grams of words, and answers that have lost their sense in loops."""

import re

DEGENERATE_TRIGRAMS = 0.5
"""An answer is degenerate if a larger share of its 3-grams of words are repetitions of earlier ones ..."""
STRICT_TRIGRAMS = 0.35
"""... than this by the stricter rule of evaluations ..."""
DEGENERATE_WORDS = 3
"""... or if it has fewer words than this."""


def words_of(text: str) -> list[str]:
    """Return the words in lower case without punctuation. In scripts without spaces, a run of characters is a word."""
    return _WORD.findall(text.casefold())


_MARKS = "\u0300-\u036f\u0591-\u05c7\u064b-\u065f\u0900-\u0963\u0966-\u0e3a\u0e40-\u0e4e\u200c\u200d"
"""Vowel signs and other marks, as they are written in character classes."""
_WORD = re.compile(rf"\w[\w{_MARKS}]*(?:['\u2019]\w[\w{_MARKS}]*)?")


def distinct_ngrams(text: str, n: int) -> float | None:
    """Return the number of different n-grams of words over the number of all; `None` for fewer than n words.

    References:
        Li et al., A diversity-promoting objective function, NAACL 2016: https://arxiv.org/abs/1510.03055
    """
    ngrams = _ngrams(text, n)
    return len(set(ngrams)) / len(ngrams) if ngrams else None


def repeated_ngrams(text: str, n: int) -> float | None:
    """Return the share of n-grams of words that repeat an earlier one; `None` for fewer than n words."""
    distinct = distinct_ngrams(text, n)
    return None if distinct is None else 1 - distinct


def seq_rep_4(text: str) -> float | None:
    """Return the share of 4-grams of words that repeat an earlier one; `None` for fewer than 4 words.

    References:
        Welleck et al., Neural text generation with unlikelihood training, ICLR 2020: https://arxiv.org/abs/1908.04319.
        There, 4-grams are of tokens.
    """
    return repeated_ngrams(text, 4)


def is_degenerate(text: str, repeated_share: float = DEGENERATE_TRIGRAMS) -> bool:
    """Return whether a larger share of the 3-grams of a text are repeated, or it has fewer than 3 words."""
    repeated = repeated_ngrams(text, 3)
    return len(words_of(text)) < DEGENERATE_WORDS or (repeated is not None and repeated > repeated_share)


def _ngrams(text: str, n: int) -> list[tuple[str, ...]]:
    words = words_of(text)
    return [*zip(*(words[i:] for i in range(n)), strict=False)]
