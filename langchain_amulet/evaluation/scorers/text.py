"""Scorers that need only the text: length, sentiment, readability, repetition."""

from functools import cache
from typing import Any

from langchain_amulet.answers.repetition import (
    STRICT_TRIGRAMS,
    distinct_ngrams,
    is_degenerate,
    repeated_ngrams,
    seq_rep_4,
    words_of,
)
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
