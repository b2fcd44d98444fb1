"""What an evaluation has found: answers and scores, looked up by method, preference and temperature."""

from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any

from langchain_amulet.evaluation.methods.method import Method, distinct_runs
from langchain_amulet.evaluation.questions.dimensions import Dimension
from langchain_amulet.evaluation.runs.answer import Answer
from langchain_amulet.evaluation.scorers.scorer import Scorer


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What an evaluation has found."""

    methods: dict[str, Method]
    """By name; methods of the same run share their answers."""
    datasets: tuple[str, ...]
    dimensions: tuple[Dimension, ...]
    temperatures: tuple[float, ...]
    answers: tuple[Answer, ...] = field(repr=False)
    """As they are judged: one that was given without a preference is there for each that it is judged by."""
    scores: dict[str, dict[str, float | None]] = field(repr=False)
    """By scorer, and `score_key` of an answer."""
    scorers: dict[str, Scorer]
    manifest: dict[str, Any] = field(repr=False)
    """What the run was asked for, and where it was made."""
    failures: dict[str, str] = field(default_factory=dict, repr=False)
    """By key of an answer, why it could not be given."""
    _index: dict[tuple[str, str, float], list[Answer]] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        """Sort answers by what they are looked up by."""
        index: dict[tuple[str, str, float], list[Answer]] = defaultdict(list)
        for answer in self.answers:
            index[answer.run, answer.dimension, answer.temperature].append(answer)
        object.__setattr__(self, "_index", dict(index))

    @property
    def distinct_methods(self) -> list[str]:
        """The first method of each run."""
        return [method.name for method in distinct_runs(self.methods.values())]

    def answers_of(
        self, method: str, *, dimension: str, temperature: float, dataset: str | None = None
    ) -> dict[tuple[str, str], Answer]:
        """By question, what a method has said for one preference; of all datasets, if none is named."""
        found = self._index.get((self.methods[method].run, dimension, temperature), ())
        return {answer.cluster: answer for answer in found if dataset in (None, answer.dataset)}

    def scores_of(
        self, scorer: str, method: str, *, dimension: str, temperature: float, dataset: str | None = None
    ) -> dict[tuple[str, str], float]:
        """By question, the scores of what a method has said; answers of which nothing can be said are left out."""
        answers = self.answers_of(method, dimension=dimension, temperature=temperature, dataset=dataset)
        found = {cluster: self.scores[scorer].get(answer.score_key) for cluster, answer in answers.items()}
        return {cluster: score for cluster, score in found.items() if score is not None}
