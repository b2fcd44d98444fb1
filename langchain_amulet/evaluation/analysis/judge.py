"""Judges: language models that decide which of two answers is better for a preference."""

import hashlib
import re
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from langchain_core.exceptions import ContextOverflowError
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import HumanMessage
from tqdm import tqdm

from langchain_amulet.evaluation.analysis.statistics import WinRate, win_rate
from langchain_amulet.evaluation.results import Evaluation
from langchain_amulet.evaluation.runs.answer import Answer
from langchain_amulet.evaluation.runs.folder import JsonlRecords
from langchain_amulet.evaluation.runs.parallel import in_parallel
from langchain_amulet.personalization.entry_points import PersonalizedChatModel

PROMPT = """\
Below are a question, what the person who asks it prefers, and two texts that answer it. Which text answers it more as \
the person prefers, and is a good answer all the same?

Question: {question}
Preference: {preference}

<text 1>
{first}
</text 1>

<text 2>
{second}
</text 2>

Write "1", "2" or "tie", and nothing else."""

_LEADING = r"\W*(?:(?:the|final|better|answer|verdict|text|is|it|s|a)\W+)*(?:text)?"
_VERDICT = re.compile(rf"{_LEADING}(1|2|tie)(?:\W+is\s+better)?\W*", re.IGNORECASE)
_OUTCOMES = {"1": 1.0, "2": 0.0, "tie": 0.5}


class PairwiseJudge(ABC):
    """What compares two answers, and so all methods with a baseline."""

    @abstractmethod
    def compare(self, first: Answer, second: Answer) -> float | None:
        """Return from 1 (the first answer is better) to 0 (the second is), or `None` if there is no verdict."""

    def judge(self, evaluation: Evaluation, *, baseline: str, temperature: float, num_at_once: int = 8) -> "Judgements":
        """Compare every distinct method with a baseline, on all questions that both have answered.

        Args:
            evaluation: Evaluation with the answers.
            baseline: Name of the method that all others are compared with.
            temperature: Sampling temperature of the answers to compare.
            num_at_once: Number of pairs that are judged concurrently.
        """
        pairs = [*_pairs(evaluation, baseline, temperature)]
        judged = in_parallel(lambda pair: (pair, self.compare(pair.first, pair.second)), pairs, num_at_once)
        verdicts = {
            (pair.method, pair.dimension, pair.first.cluster): outcome
            for pair, outcome in tqdm(judged, total=len(pairs), desc="judge", unit="pair")
        }
        return Judgements(baseline, temperature, verdicts)


class Judge(PairwiseJudge):
    """Compares answers by what a chat model replies.

    Each pair is judged in both orders, since judges have a position bias.

    Args:
        llm: Any chat model, preferably at temperature 0. A `ChatAmulet` judges without preferences of its own.
        records: File that stores verdicts, so that no pair is judged twice. `None` stores nothing.
        prompt: Text with the placeholders `{question}`, `{preference}`, `{first}` and `{second}`.
    """

    def __init__(self, llm: BaseChatModel, records: JsonlRecords | None = None, *, prompt: str = PROMPT) -> None:
        self._llm, self._records, self._prompt = llm, records, prompt
        self._name = llm._get_ls_params().get("ls_model_name") or llm._llm_type  # noqa: SLF001 - the name in traces

    def compare(self, first: Answer, second: Answer) -> float | None:
        """Compare two answers to the same question.

        Returns:
            1 if the first is better, 0 if the second is, 0.5 for a tie or if the orders contradict each other; 0.75 or
            0.25 if only one order is a tie. `None` if a reply cannot be parsed, such as a refusal, or if the answers
            are too long for the judge's context.
        """
        if first.text == second.text:
            return 0.5
        verdicts = [self._verdict(first, second), self._verdict(second, first)]
        if verdicts[0] is None or verdicts[1] is None:
            return None
        return (verdicts[0] + 1 - verdicts[1]) / 2

    def prompt_for(self, first: Answer, second: Answer) -> list[HumanMessage]:
        """Return the judge's prompt for two answers in this order."""
        return [HumanMessage(fill_prompt(self._prompt, first, first=first.text, second=second.text))]

    def _verdict(self, first: Answer, second: Answer) -> float | None:
        messages = self.prompt_for(first, second)
        key = f"{self._name} {hashlib.sha256(messages[0].text.encode(errors='surrogatepass')).hexdigest()}"
        if self._records is not None and key in self._records:
            stored: float | None = self._records[key]["outcome"]
            return stored
        arguments: Mapping[str, Any] = {"preference": []} if isinstance(self._llm, PersonalizedChatModel) else {}
        try:
            reply = self._llm.invoke(messages, **arguments).text
        except ContextOverflowError:  # two long answers: one pair without a verdict, not the end of the evaluation
            return None
        outcome = parse_verdict(reply)
        if self._records is not None:
            self._records.append({"key": key, "outcome": outcome, "reply": reply})
        return outcome


class _Pair(NamedTuple):
    method: str
    dimension: str
    first: Answer
    second: Answer


def _pairs(evaluation: Evaluation, baseline: str, temperature: float) -> Sequence[_Pair]:
    pairs = []
    for dimension in (each.name for each in evaluation.dimensions):
        theirs = evaluation.answers_of(baseline, dimension=dimension, temperature=temperature)
        for method in evaluation.distinct_methods:
            ours = evaluation.answers_of(method, dimension=dimension, temperature=temperature)
            both = [cluster for cluster in ours if cluster in theirs and method != baseline]
            pairs += [_Pair(method, dimension, ours[each], theirs[each]) for each in both]
    return pairs


@dataclass(frozen=True, slots=True)
class Judgements:
    """Outcomes of comparisons of all methods with a baseline by a judge."""

    baseline: str
    temperature: float
    verdicts: dict[tuple[str, str, tuple[str, str]], float | None]
    """By method, preference and question: the value of `PairwiseJudge.compare`."""

    @property
    def num_unscored(self) -> int:
        """Number of pairs without an outcome, since a reply could not be parsed or the answers were too long."""
        return sum(outcome is None for outcome in self.verdicts.values())

    def win_rates(self, dimension: str) -> dict[str, WinRate]:
        """Return the win rate of each method against the baseline. Pairs without an outcome are omitted."""
        by_method: dict[str, dict[tuple[str, str], float]] = {}
        for (method, name, cluster), outcome in self.verdicts.items():
            if name == dimension and outcome is not None:
                by_method.setdefault(method, {})[cluster] = outcome
        return {method: win_rate([*each.values()], [*each]) for method, each in by_method.items()}


def fill_prompt(prompt: str, asked: Answer, **texts: str) -> str:
    """Return a prompt with the question and the preference of an answer, and with texts, in place of their names.

    All names are replaced at once, so that names within answers stay.
    """
    values = {"question": asked.question, "preference": asked.preference, **texts}
    return re.sub(rf"\{{({'|'.join(values)})\}}", lambda match: values[match[1]], prompt)


def parse_verdict(reply: str) -> float | None:
    """Return 1, 0 or 0.5 if the last line of a reply is a verdict and nothing else, or `None` if not."""
    lines = reply.strip().splitlines() or [""]
    match = _VERDICT.fullmatch(lines[-1])
    return _OUTCOMES[match[1].lower()] if match else None
