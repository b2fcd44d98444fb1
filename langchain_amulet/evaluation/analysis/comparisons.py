"""Which of two methods has answered better, question by question."""

import math
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from itertools import permutations
from typing import TypeAlias

import numpy as np

from langchain_amulet.evaluation.analysis.statistics import (
    Array,
    Estimate,
    Ranked,
    WinRate,
    paired_difference,
    rank,
    win_rate,
)
from langchain_amulet.evaluation.results import Evaluation

PROXIES = {
    "creative": ("distinct-2", "higher"),
    "verbose": ("tokens", "higher"),
    "concise": ("tokens", "lower"),
    "uplifting": ("sentiment", "higher"),
    "complex": ("grade level", "higher"),
    "pleasant": ("sentiment", "higher"),
}
"""For some of the paper's preferences, a scorer that tells without any model whether an answer follows it."""

DEGENERATE = "degenerate"
"""The scorer that tells which answers are no answers."""

Cluster: TypeAlias = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Yardstick:
    """What decides between answers: one scorer for all preferences, or for each preference its proxy."""

    evaluation: Evaluation
    scorer: str | None = None
    """`None`: the proxies."""

    @property
    def dimensions(self) -> list[str]:
        """The preferences that it can tell of."""
        return [each.name for each in self.evaluation.dimensions if self.better(each.name)]

    def scorer_of(self, dimension: str) -> str:
        """The scorer that decides; empty if there is none."""
        name = self.scorer or PROXIES.get(dimension, ("", ""))[0]
        return name if name in self.evaluation.scorers else ""

    def better(self, dimension: str) -> str | None:
        """Which end of its score is good for a preference: `"higher"`, `"lower"`, or `None` if it cannot tell."""
        scorer = self.scorer_of(dimension)
        if not scorer:
            return None
        proxy, end = PROXIES.get(dimension, ("", ""))
        return end if proxy == scorer else self.evaluation.scorers[scorer].better

    def scores(
        self, method: str, dimension: str, temperature: float, dataset: str | None = None
    ) -> dict[Cluster, float]:
        """By question, a method's scores."""
        scorer = self.scorer_of(dimension)
        return self.evaluation.scores_of(scorer, method, dimension=dimension, temperature=temperature, dataset=dataset)

    def outcomes(self, first: str, second: str, dimension: str, temperature: float) -> dict[Cluster, float]:
        """By question that both have answered: 1 if the first is better, 0 if the second is, 0.5 for a tie.

        Proxies know nothing of sense, so by them degenerate answers, often the shortest, lose to all others.
        """
        return _compared(*(self._merits(method, dimension, temperature) for method in (first, second)))

    def _merits(self, method: str, dimension: str, temperature: float) -> dict[Cluster, float]:
        """By question, what decides: the higher the better."""
        sign = 1 if self.better(dimension) == "higher" else -1
        scores = self.scores(method, dimension, temperature)
        broken: Mapping[Cluster, float] = {}
        if self.scorer is None and DEGENERATE in self.evaluation.scorers:
            broken = self.evaluation.scores_of(DEGENERATE, method, dimension=dimension, temperature=temperature)
        return {each: -math.inf if broken.get(each) else sign * score for each, score in scores.items()}

    def win_rates(self, dimension: str, temperature: float, *, baseline: str) -> dict[str, WinRate]:
        """By method, how often it beats the baseline."""
        others = [method for method in self.evaluation.methods if method != baseline]
        found = {method: self.outcomes(method, baseline, dimension, temperature) for method in others}
        return {method: win_rate([*each.values()], [*each]) for method, each in found.items() if each}

    def differences(self, dimension: str, temperature: float, *, baseline: str) -> dict[str, Estimate]:
        """By method, its score less the baseline's, over the questions that both have answered."""
        theirs = self.scores(baseline, dimension, temperature)
        found = {}
        for method in self.evaluation.methods:
            ours = self.scores(method, dimension, temperature)
            if method != baseline and ours.keys() & theirs.keys():
                found[method] = paired_difference(ours, theirs, {cluster: cluster for cluster in ours})
        return found

    def num_questions(self, method: str, temperature: float) -> int:
        """How many questions it can tell of."""
        return len({each for name in self.dimensions for each in self.scores(method, name, temperature)})

    def common(self, dimension: str, temperature: float, dataset: str | None = None) -> set[Cluster]:
        """The questions that all methods have answered, but for those that may be asked fewer."""
        evaluation = self.evaluation
        answered = [
            {*evaluation.answers_of(name, dimension=dimension, temperature=temperature, dataset=dataset)}
            for name, method in evaluation.methods.items()
            if not method.is_search
        ]
        return set.intersection(*answered) if answered else set()

    def competing(
        self, dimension: str, temperature: float, dataset: str | None = None
    ) -> dict[str, dict[Cluster, float]]:
        """By method that has answered these questions, its scores of them."""
        common, found = self.common(dimension, temperature, dataset), {}
        for method in self.evaluation.methods:
            answered = self.evaluation.answers_of(method, dimension=dimension, temperature=temperature, dataset=dataset)
            if common and common <= answered.keys():
                scores = self.scores(method, dimension, temperature, dataset)
                found[method] = {cluster: scores[cluster] for cluster in scores if cluster in common}
        return {method: scores for method, scores in found.items() if scores}

    def ranking(self, temperature: float) -> list[Ranked]:
        """Bradley-Terry over all questions and preferences; methods that share a run are one."""
        names = self.evaluation.distinct_methods
        wins: dict[Hashable, Array] = {}
        for dimension in self.dimensions:
            merits = [self._merits(name, dimension, temperature) for name in names]
            for (i, ours), (j, theirs) in permutations(enumerate(merits), 2):
                for cluster, outcome in _compared(ours, theirs).items():
                    wins.setdefault(cluster, np.zeros((len(names), len(names))))[i, j] += outcome
        return rank(names, wins) if wins else []


def _compared(ours: Mapping[Cluster, float], theirs: Mapping[Cluster, float]) -> dict[Cluster, float]:
    both = [cluster for cluster in ours if cluster in theirs]
    return {each: 0.5 if ours[each] == theirs[each] else float(ours[each] > theirs[each]) for each in both}
