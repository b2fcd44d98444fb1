"""What answers are judged by. A new scorer is a function from an answer to a number."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

from langchain_core.messages import HumanMessage, SystemMessage

from langchain_amulet.chat_models import ChatAmulet
from langchain_amulet.evaluation.answers import Answer
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


@dataclass(frozen=True, slots=True)
class Scorer:
    """One number per answer.

    Example:
        >>> Scorer("exclamations", lambda answer: answer.text.count("!"), better="higher").name
        'exclamations'
    """

    name: str
    score: Callable[[Answer], float | None]
    """`None` where nothing can be said of an answer, which is then left out."""
    better: Literal["higher", "lower"] | None = None
    """Which end is good for any preference; `None`: it depends on the preference, or is only told."""
    is_kept: bool = False
    """Whether scores are kept with the answers, since they cost more than counting."""
    limit: int | None = None
    """Only the answers to so many questions of each dataset are scored, where a score costs much."""
    identity: str = ""
    """Tells it from others of its name, such as the model that it asks; scores are kept apart by it."""
    is_reward: bool = False
    """Whether it tells by itself which answer is better for any preference, as reward models do."""


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


def log_perplexity(llm: ChatAmulet, system: str, *, limit: int | None = None) -> Scorer:
    """The mean of −log π_base over the tokens of an answer, in nats: how odd it is to the model without a preference.

    Low is not good by itself, loops are likely to the model that fell into them; high is broken text. The logarithm,
    since a mean of perplexities is that of a few broken answers. One forward per answer.
    """

    def score(answer: Answer) -> float | None:
        if not answer.text.strip():
            return None
        logprobs = llm.token_logprobs(messages_of(system, answer.question), answer.text)
        return -sum(logprobs) / len(logprobs)

    return Scorer("log-perplexity", score, is_kept=True, limit=limit)


def preference_evidence(llm: ChatAmulet, system: str) -> Scorer:
    """The mean of log π_pref − log π_base over the tokens of an answer, in nats: what the model itself thinks of it.

    Methods that amplify the same difference push it up by construction; it tells the strength, not the quality.
    """

    def score(answer: Answer) -> float | None:
        if not answer.text.strip() or not answer.preference:
            return None
        return llm.evidence(messages_of(system, answer.question), answer.text, [answer.preference])[0]

    return Scorer("evidence", score, is_kept=True)


def messages_of(system: str, question: str) -> Sequence[SystemMessage | HumanMessage]:
    """The prompt of all methods."""
    return [SystemMessage(system), HumanMessage(question)] if system else [HumanMessage(question)]
