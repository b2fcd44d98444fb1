"""Scores that take a forward pass: perplexity, and the evidence for a preference."""

from langchain_amulet.chat_models import ChatAmulet
from langchain_amulet.evaluation.runs.answer import Answer
from langchain_amulet.evaluation.scorers.scorer import Scorer, messages_of


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
