"""Scores that are computed from the text alone: length, sentiment, reading grade, repetition."""

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

DEGENERATE_TRIGRAMS = 0.5
"""An answer is degenerate if more than this share of its 3-grams of words stood there before ..."""
DEGENERATE_WORDS = 3
"""... or if it has fewer words."""


def deterministic_scorers() -> list[Scorer]:
    """Length, sentiment, readability, variety and coherence: the same for everybody, and free."""
    return [
        Scorer("tokens", lambda answer: answer.num_tokens),
        Scorer("sentiment", lambda answer: sentiment(answer.text)),
        Scorer("grade level", lambda answer: grade_level(answer.text)),
        Scorer("distinct-2", lambda answer: distinct_ngrams(answer.text, 2) or 0.0),  # one word has no variety
        Scorer("repeated 3-grams", lambda answer: repeated_ngrams(answer.text, 3), better="lower"),
        Scorer("degenerate", lambda answer: float(is_degenerate(answer.text)), better="lower"),
    ]


def words_of(text: str) -> list[str]:
    """Words in lower case, without punctuation; other scripts count by character runs."""
    return re.findall(r"\w+(?:['\u2019]\w+)?", text.casefold())


def sentiment(text: str) -> float:
    """From -1 (negative) to 1 (positive), by VADER; English only.

    References:
        Hutto and Gilbert, VADER, ICWSM 2014: https://doi.org/10.1609/icwsm.v8i1.14550
    """
    return float(_analyzer().polarity_scores(text)["compound"])


@cache
def _analyzer() -> Any:
    return SentimentIntensityAnalyzer()


def grade_level(text: str) -> float | None:
    """The school grade that can read it, by the automated readability index; `None` for no words.

    Characters per word and words per sentence decide, so that no dictionary is needed.

    References:
        Smith and Senter, Automated readability index, 1967.
    """
    return float(textstat.automated_readability_index(text)) if words_of(text) else None


def distinct_ngrams(text: str, n: int) -> float | None:
    """The share of n-grams of words that are different ones; `None` for fewer words than n.

    References:
        Li et al., A diversity-promoting objective function, NAACL 2016: https://arxiv.org/abs/1510.03055
    """
    ngrams = _ngrams(text, n)
    return len(set(ngrams)) / len(ngrams) if ngrams else None


def repeated_ngrams(text: str, n: int) -> float | None:
    """The share of n-grams of words that stood there before; `None` for fewer words than n."""
    distinct = distinct_ngrams(text, n)
    return None if distinct is None else 1 - distinct


def is_degenerate(text: str) -> bool:
    """Whether an answer is a loop or next to nothing: over half of its 3-grams repeated, or under 3 words."""
    repeated = repeated_ngrams(text, 3)
    return len(words_of(text)) < DEGENERATE_WORDS or (repeated is not None and repeated > DEGENERATE_TRIGRAMS)


def _ngrams(text: str, n: int) -> list[tuple[str, ...]]:
    words = words_of(text)
    return [*zip(*(words[i:] for i in range(n)), strict=False)]
