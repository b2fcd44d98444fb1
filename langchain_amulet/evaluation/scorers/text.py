"""Scorers that need only the text: length, sentiment, readability, repetition."""

import re
from functools import cache
from typing import Any

from langchain_amulet.evaluation.scorers.scorer import Scorer
from langchain_amulet.exceptions import MissingExtraError

try:
    import textstat
    from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer
except ImportError as error:
    msg = "Evaluations need textstat and vaderSentiment. Install them: pip install 'langchain-amulet[eval]'"
    raise MissingExtraError(msg) from error

TOKENS, SENTIMENT, GRADE_LEVEL, DISTINCT_2 = "tokens", "sentiment", "grade level", "distinct-2"
REPEATED_3_GRAMS, SEQ_REP_4, DEGENERATE = "repeated 3-grams", "seq-rep-4", "degenerate"
STRICTLY_DEGENERATE = "strictly degenerate"
"""Names of the scorers."""

DEGENERATE_TRIGRAMS = 0.5
"""An answer is degenerate if a larger share of its 3-grams of words are repetitions of earlier ones ..."""
STRICT_TRIGRAMS = 0.35
"""... than this for `strictly_degenerate` ..."""
DEGENERATE_WORDS = 3
"""... or if it has fewer words than this."""


def deterministic_scorers() -> list[Scorer]:
    """Return scorers of length, sentiment, readability, diversity and coherence. They are deterministic and fast."""
    return [
        Scorer(TOKENS, lambda answer: answer.num_tokens),
        Scorer(SENTIMENT, lambda answer: sentiment(answer.text)),
        Scorer(GRADE_LEVEL, lambda answer: grade_level(answer.text)),
        Scorer(DISTINCT_2, lambda answer: distinct_ngrams(answer.text, 2) or 0.0),  # one word has no 2-gram
        Scorer(REPEATED_3_GRAMS, lambda answer: repeated_ngrams(answer.text, 3), better="lower"),
        Scorer(SEQ_REP_4, lambda answer: seq_rep_4(answer.text), better="lower"),
        Scorer(DEGENERATE, lambda answer: float(is_degenerate(answer.text)), better="lower"),
    ]


def strictly_degenerate() -> Scorer:
    """Return a scorer: 1 if more than 35 % of an answer's 3-grams of words are repeated, or it has fewer than 3 words.

    The share at which readers call an answer broken is lower than `DEGENERATE_TRIGRAMS`, which the first reports used.
    """
    return Scorer(
        STRICTLY_DEGENERATE, lambda answer: float(is_degenerate(answer.text, STRICT_TRIGRAMS)), better="lower"
    )


def words_of(text: str) -> list[str]:
    """Return the words in lower case without punctuation. In scripts without spaces, a run of characters is a word."""
    return _WORD.findall(text.casefold())


_MARKS = "\u0300-\u036f\u0591-\u05c7\u064b-\u065f\u0900-\u0963\u0966-\u0e3a\u0e40-\u0e4e\u200c\u200d"
"""Vowel signs and other marks, as they are written in character classes."""
_WORD = re.compile(rf"\w[\w{_MARKS}]*(?:['\u2019]\w[\w{_MARKS}]*)?")


def sentiment(text: str) -> float:
    """Return the sentiment by VADER, from -1 (negative) to 1 (positive). English only.

    References:
        Hutto and Gilbert, VADER, ICWSM 2014: https://doi.org/10.1609/icwsm.v8i1.14550
    """
    return float(_analyzer().polarity_scores(text)["compound"])


@cache
def _analyzer() -> Any:
    return SentimentIntensityAnalyzer()


def grade_level(text: str) -> float | None:
    """Return the US school grade needed to read a text, by the automated readability index; `None` without words.

    ARI = 4.71 · characters/words + 0.5 · words/sentences − 21.43

    References:
        Smith and Senter, Automated readability index, 1967.
    """
    return float(textstat.automated_readability_index(text)) if words_of(text) else None


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
