"""Agreement of judges and scorers with checkers: of two answers, do they prefer the one that keeps its preference?"""

from collections.abc import Iterator
from itertools import combinations
from typing import NamedTuple

from langchain_amulet.evaluation.analysis.judge import Judgements
from langchain_amulet.evaluation.analysis.statistics import WinRate, win_rate
from langchain_amulet.evaluation.results import Evaluation
from langchain_amulet.evaluation.runs.answer import Answer

_TIE = 0.5


class _Case(NamedTuple):
    """A pair of answers of which a checker says that one keeps its preference and the other does not."""

    dimension: str
    cluster: tuple[str, str]
    outcome: float  # 1: the judge prefers the one that keeps it; 0: the other; 0.5: neither


class Agreement(NamedTuple):
    """How often a judge prefers the answer that keeps its preference, over the pairs in which one of two does."""

    overall: WinRate
    """1 for the answer that keeps the preference, 0.5 if the judge prefers neither."""
    by_dimension: dict[str, WinRate]

    @property
    def num_pairs(self) -> int:
        """The number of pairs."""
        return self.overall.num_wins + self.overall.num_ties + self.overall.num_losses


def judge_agreement(evaluation: Evaluation, judgements: Judgements, *, checker: str) -> Agreement | None:
    """Compare the verdicts of a judge with a checker.

    Args:
        evaluation: Evaluation with the answers.
        judgements: Verdicts about pairs of these answers. Pairs without a verdict are omitted.
        checker: Name of a scorer that gives 1 or 0.

    Returns:
        `None` if no pair has different scores by the checker.
    """

    def cases() -> Iterator[_Case]:
        for (method, dimension, cluster), verdict in judgements.verdicts.items():
            first, second = (
                evaluation.answers_of(name, dimension=dimension, temperature=judgements.temperature).get(cluster)
                for name in (method, judgements.baseline)
            )
            if first is not None and second is not None and verdict is not None:
                yield from _case(evaluation, checker, first, second, verdict)

    return _agreement([*cases()])


def scorer_agreement(evaluation: Evaluation, scorer: str, temperature: float, *, checker: str) -> Agreement | None:
    """Compare a scorer, of which higher scores are better, with a checker, over all pairs of distinct methods.

    Args:
        evaluation: Evaluation with the answers.
        scorer: Name of the scorer. Pairs in which an answer has no score are omitted.
        temperature: Sampling temperature of the answers.
        checker: Name of a scorer that gives 1 or 0.

    Returns:
        `None` if no pair has different scores by the checker.
    """
    scores = evaluation.scores[scorer]

    def cases() -> Iterator[_Case]:
        for dimension in (each.name for each in evaluation.dimensions):
            answers = [
                evaluation.answers_of(method, dimension=dimension, temperature=temperature)
                for method in evaluation.distinct_methods
            ]
            for ours, theirs in combinations(answers, 2):
                for cluster in ours.keys() & theirs.keys():
                    first, second = ours[cluster], theirs[cluster]
                    values = scores.get(first.score_key), scores.get(second.score_key)
                    if values[0] is not None and values[1] is not None:
                        yield from _case(evaluation, checker, first, second, _comparison(values[0], values[1]))

    return _agreement([*cases()])


def _case(evaluation: Evaluation, checker: str, first: Answer, second: Answer, verdict: float) -> Iterator[_Case]:
    kept = [evaluation.scores[checker].get(answer.score_key) for answer in (first, second)]
    if None in kept or kept[0] == kept[1]:
        return
    preferred = _comparison(verdict, _TIE)
    yield _Case(first.dimension, first.cluster, preferred if kept[0] else 1 - preferred)


def _comparison(one: float, other: float) -> float:
    return _TIE if one == other else float(one > other)


def _agreement(cases: list[_Case]) -> Agreement | None:
    if not cases:
        return None
    by_dimension: dict[str, list[_Case]] = {}
    for case in cases:
        by_dimension.setdefault(case.dimension, []).append(case)
    return Agreement(_rate(cases), {name: _rate(each) for name, each in by_dimension.items()})


def _rate(cases: list[_Case]) -> WinRate:
    return win_rate([case.outcome for case in cases], [case.cluster for case in cases])
