"""A local judge: decides by the probabilities that a model gives to "A" and "B", or to "Yes" and "No"."""

import hashlib
import math
from collections.abc import Mapping, Sequence
from typing import Any

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import HumanMessage

from langchain_amulet.chat_models import ChatAmulet
from langchain_amulet.evaluation.analysis.judge import PairwiseJudge, fill_prompt
from langchain_amulet.evaluation.runs.answer import Answer
from langchain_amulet.evaluation.runs.folder import JsonlRecords
from langchain_amulet.evaluation.scorers.scorer import Scorer
from langchain_amulet.exceptions import ContextLengthError, InvalidParameterError
from langchain_amulet.personalization.entry_points import PersonalizedChatModel

FOLLOWS = "P(follows the preference)"
"""Name of the scorer."""

COMPARISON_PROMPT = """\
Below are a question, what the person who asks it prefers, and two answers. Which answer is more as the person \
prefers, and is a good answer all the same?

Question: {question}
Preference: {preference}

<answer A>
{first}
</answer A>

<answer B>
{second}
</answer B>

Write "A" or "B", and nothing else."""

FOLLOWS_PROMPT = """\
Below are a question, what the person who asks it prefers, and an answer. Does this answer follow the preference?

Question: {question}
Preference: {preference}

<answer>
{answer}
</answer>

Write "Yes" or "No", and nothing else."""

_NUM_TOP = 20  # alternatives to the first token: the most that OpenAI and ChatAmulet give
_AT_ONCE = 16  # answers; long prompts, of which the engine reads a few at a time


class LocalJudge(PairwiseJudge):
    """Judges by the log-probabilities of the first token of a reply, so that small models have a clear verdict too.

    Args:
        llm: A chat model that gives `logprobs`, such as a `ChatAmulet`, which judges without preferences of its own.
        records: File that stores verdicts, so that none is computed twice. `None` stores nothing.
        comparison_prompt: Text with the placeholders `{question}`, `{preference}`, `{first}` and `{second}`.
        follows_prompt: Text with the placeholders `{question}`, `{preference}` and `{answer}`.

    References:
        Zheng et al., Judging LLM-as-a-judge, 2023: https://arxiv.org/abs/2306.05685, for the bias of positions.
    """

    def __init__(
        self,
        llm: BaseChatModel,
        records: JsonlRecords | None = None,
        *,
        comparison_prompt: str = COMPARISON_PROMPT,
        follows_prompt: str = FOLLOWS_PROMPT,
    ) -> None:
        self._llm, self._records = llm, records
        self._comparison_prompt, self._follows_prompt = comparison_prompt, follows_prompt
        self._name = str(llm._get_ls_params().get("ls_model_name") or llm._llm_type)  # noqa: SLF001 - as in traces

    def compare(self, first: Answer, second: Answer) -> float | None:
        """Return the probability that the first answer is better than the second to the same question.

        With d(x, y) = log p("A") − log p("B") where x is answer A and y is answer B, it is
        1 / (1 + exp(−(d(first, second) − d(second, first)) / 2)): a liking for one position cancels.

        Returns:
            From 0 to 1; `None` if the model considers neither letter in one of the orders, or if the answers are too
            long for its context.
        """
        if first.text == second.text:
            return 0.5
        odds = [self._preference_for_a(first, second), self._preference_for_a(second, first)]
        if odds[0] is None or odds[1] is None:
            return None
        return _sigmoid((odds[0] - odds[1]) / 2)

    def follows(self, answer: Answer) -> float | None:
        """Return the probability that an answer follows its preference: p("Yes") / (p("Yes") + p("No")).

        Returns:
            From 0 to 1; `None` without a text or a preference, if the model considers neither word, or if the answer
            is too long for its context.
        """
        if not answer.text.strip() or not answer.preference:
            return None
        odds = self._log_odds(fill_prompt(self._follows_prompt, answer, answer=answer.text), ("yes", "no"))
        return None if odds is None else _sigmoid(odds)

    def scorer(self, *, limit: int | None = None) -> Scorer:
        """Return a scorer of `follows`.

        Args:
            limit: Score only the answers to the first `limit` questions of each dataset.
        """
        return Scorer(
            FOLLOWS,
            self.follows,
            better="higher",
            is_stored=True,
            limit=limit,
            identity=self._name,
            num_at_once=_AT_ONCE,
        )

    def _preference_for_a(self, first: Answer, second: Answer) -> float | None:
        prompt = fill_prompt(self._comparison_prompt, first, first=first.text, second=second.text)
        return self._log_odds(prompt, ("a", "b"))

    def _log_odds(self, prompt: str, choices: tuple[str, str]) -> float | None:
        """Return log p(first choice) − log p(second choice) for the first token of the reply, in nats."""
        key = f"odds {self._name} {hashlib.sha256(prompt.encode(errors='surrogatepass')).hexdigest()}"
        if self._records is not None and key in self._records:
            stored: float | None = self._records[key]["outcome"]
            return stored
        try:
            odds = log_odds(self._first_token(prompt), choices)
        except ContextLengthError:  # two long answers: one pair without a verdict, not the end of the evaluation
            return None
        if self._records is not None:
            self._records.append({"key": key, "outcome": odds})
        return odds

    def _first_token(self, prompt: str) -> list[tuple[str, float]]:
        """Return the likeliest first tokens of the reply, with their log-probabilities."""
        arguments: dict[str, Any] = {"temperature": 0, "max_tokens": 1, "logprobs": True, "top_logprobs": _NUM_TOP}
        if isinstance(self._llm, PersonalizedChatModel):
            arguments["preference"] = []
        if isinstance(self._llm, ChatAmulet):  # a penalty would count the words of the prompt
            arguments["repetition_penalty"] = 1.0
        reply = self._llm.invoke([HumanMessage(prompt)], **arguments)
        try:
            content: Sequence[Mapping[str, Any]] = reply.response_metadata["logprobs"]["content"]
            return [(each["token"], each["logprob"]) for entry in content[:1] for each in entry["top_logprobs"]]
        except (KeyError, TypeError) as error:
            msg = f"{self._name} gives no top_logprobs, by which a LocalJudge decides. Use Judge, which reads replies."
            raise InvalidParameterError(msg) from error


def log_odds(candidates: Sequence[tuple[str, float]], choices: tuple[str, str]) -> float | None:
    """Return log p(first choice) − log p(second choice), in nats; `None` if neither is among the candidates.

    Tokens that differ from a choice in case, or by spaces or punctuation around it, count as it. A choice that is not
    among the candidates counts as likely as the least likely of them, which it is not, so the odds are a lower bound.

    Args:
        candidates: The likeliest tokens with their log-probabilities.
        choices: Two words in lower case.
    """
    found = [[value for token, value in candidates if _word(token) == choice] for choice in choices]
    if not any(found):
        return None
    least = min(value for _, value in candidates)
    first, second = (_log_sum(values) if values else least for values in found)
    return first - second


def _word(token: str) -> str:
    return token.strip().strip("\"'*.,:()").casefold()


def _log_sum(values: Sequence[float]) -> float:
    largest = max(values)
    return largest + math.log(sum(math.exp(value - largest) for value in values))


def _sigmoid(log_odds: float) -> float:
    return 1 / (1 + math.exp(-log_odds)) if log_odds > 0 else 1 - 1 / (1 + math.exp(log_odds))
