"""Scorers by the evaluated model: perplexity, and evidence for a preference."""

from langchain_amulet.chat_models import ChatAmulet
from langchain_amulet.evaluation.runs.answer import Answer
from langchain_amulet.evaluation.scorers.scorer import Scorer, messages_of


def log_perplexity(llm: ChatAmulet, system: str, *, limit: int | None = None) -> Scorer:
    """Return a scorer: the mean of −log π_base over the tokens of an answer, in nats, without any preference.

    High values indicate broken text. Low values are not good as such: models give repetitive text a low perplexity. The
    scorer uses the logarithm, since a few broken answers would dominate a mean of perplexities.

    Args:
        llm: The model.
        system: System prompt of the evaluation.
        limit: Score only the answers to the first `limit` questions of each dataset.
    """

    def score(answer: Answer) -> float | None:
        if not answer.text.strip():
            return None
        log_probs = llm.token_logprobs(messages_of(system, answer.question), answer.text)
        return -sum(log_probs) / len(log_probs)

    return Scorer("log-perplexity", score, is_stored=True, limit=limit)


def preference_evidence(llm: ChatAmulet, system: str) -> Scorer:
    """Return a scorer: the mean of log π_pref − log π_base over the tokens of an answer, in nats.

    It measures how strongly an answer follows the preference according to the model itself. It does not measure
    quality: realignment with w > 1 increases it by construction.

    Args:
        llm: The model.
        system: System prompt of the evaluation.
    """

    def score(answer: Answer) -> float | None:
        if not answer.text.strip() or not answer.preference:
            return None
        return llm.evidence(messages_of(system, answer.question), answer.text, [answer.preference])[0]

    return Scorer("evidence", score, is_stored=True)
