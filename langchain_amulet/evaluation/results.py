"""The result of an evaluation: answers and scores by method, preference and temperature."""

from collections import defaultdict
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any

from langchain_amulet.evaluation.methods.method import Method, distinct_methods
from langchain_amulet.evaluation.questions.dimensions import Dimension
from langchain_amulet.evaluation.runs.answer import Answer
from langchain_amulet.evaluation.scorers.scorer import Scorer


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Answers and scores of an evaluation."""

    methods: dict[str, Method]
    """By name. Methods with equal `decoding_key` share their answers."""
    datasets: tuple[str, ...]
    dimensions: tuple[Dimension, ...]
    temperatures: tuple[float, ...]
    answers: tuple[Answer, ...] = field(repr=False)
    """One entry per answer and preference. An answer generated without a preference is repeated for each preference
    that it is scored for."""
    scores: dict[str, dict[str, float | None]] = field(repr=False)
    """By scorer name, then by `Answer.score_key`. `None`: the answer has no score."""
    scorers: dict[str, Scorer]
    manifest: dict[str, Any] = field(repr=False)
    """Contents of `manifest.json`: the configuration, and the environments in which answers were generated."""
    failures: dict[str, str] = field(default_factory=dict, repr=False)
    """By answer key, the error that prevented an answer."""
    _index: dict[tuple[str, str, float], list[Answer]] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        """Index the answers by decoding key, preference and temperature."""
        index: dict[tuple[str, str, float], list[Answer]] = defaultdict(list)
        for answer in self.answers:
            index[answer.decoding_key, answer.dimension, answer.temperature].append(answer)
        object.__setattr__(self, "_index", dict(index))

    @property
    def distinct_methods(self) -> list[str]:
        """Names of the methods, without those whose answers equal the ones of an earlier method."""
        return [method.name for method in distinct_methods(self.methods.values())]

    def answers_of(
        self, method: str, *, dimension: str, temperature: float, dataset: str | None = None
    ) -> dict[tuple[str, str], Answer]:
        """Return a method's answers for one preference, by question: with several seeds, the answers with the first.

        Args:
            method: Name of the method.
            dimension: Name of the preference.
            temperature: Sampling temperature.
            dataset: Name of a dataset. `None` returns the answers of all datasets.
        """
        first: dict[tuple[str, str], Answer] = {}
        for answer in self._answers(method, dimension, temperature, dataset):
            first.setdefault(answer.cluster, answer)
        return first

    def _answers(self, method: str, dimension: str, temperature: float, dataset: str | None) -> list[Answer]:
        """Return the answers with all seeds, those with the first seed first."""
        answers = self._index.get((self.methods[method].decoding_key, dimension, temperature), ())
        of_dataset = [answer for answer in answers if dataset in (None, answer.dataset)]
        return sorted(of_dataset, key=lambda answer: answer.seed_number)

    def scores_of(
        self, scorer: str, method: str, *, dimension: str, temperature: float, dataset: str | None = None
    ) -> dict[tuple[str, str], float]:
        """Return the scores of a method's answers for one preference, by question.

        With several seeds, a question's score is the mean over them. Answers without a score are omitted.

        Args:
            scorer: Name of the scorer.
            method: Name of the method.
            dimension: Name of the preference.
            temperature: Sampling temperature.
            dataset: Name of a dataset. `None` returns the scores of all datasets.
        """
        scores: dict[tuple[str, str], list[float]] = defaultdict(list)
        for answer in self._answers(method, dimension, temperature, dataset):
            if (score := self.scores[scorer].get(answer.score_key)) is not None:
                scores[answer.cluster].append(score)
        return {cluster: fmean(each) for cluster, each in scores.items()}

    def num_answers(
        self, scorer: str, method: str, *, dimension: str, temperature: float, dataset: str | None = None
    ) -> int:
        """Return the number of answers, with all seeds, behind the scores that `scores_of` returns."""
        answers = self._answers(method, dimension, temperature, dataset)
        return sum(self.scores[scorer].get(answer.score_key) is not None for answer in answers)
