"""Comparisons of methods, question by question, by a scorer."""

import math
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from itertools import permutations
from typing import Literal, TypeAlias

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
from langchain_amulet.evaluation.scorers.text import DEGENERATE, DISTINCT_2, GRADE_LEVEL, SENTIMENT, TOKENS

Better: TypeAlias = Literal["higher", "lower"]

PROXIES: Mapping[str, tuple[str, Better]] = {
    "creative": (DISTINCT_2, "higher"),
    "verbose": (TOKENS, "higher"),
    "concise": (TOKENS, "lower"),
    "uplifting": (SENTIMENT, "higher"),
    "complex": (GRADE_LEVEL, "higher"),
    "pleasant": (SENTIMENT, "higher"),
}
"""Proxy scorers: for some of the paper's preferences, a scorer that needs no model, and which scores are better."""

Cluster: TypeAlias = tuple[str, str]
"""A question: dataset and id."""


@dataclass(frozen=True, slots=True)
class Criterion:
    """Decides which of two answers is better: by one scorer for all preferences, or by the proxy of each preference."""

    evaluation: Evaluation
    scorer: str | None = None
    """Name of the scorer. `None` uses the proxies."""

    @property
    def dimensions(self) -> list[str]:
        """Names of the preferences for which the criterion can compare answers."""
        return [each.name for each in self.evaluation.dimensions if self.better(each.name)]

    def scorer_of(self, dimension: str) -> str:
        """Return the name of the scorer for a preference, or the empty string if there is none."""
        name = self.scorer or (PROXIES[dimension][0] if dimension in PROXIES else "")
        return name if name in self.evaluation.scorers else ""

    def better(self, dimension: str) -> Better | None:
        """Return which scores are better for a preference, or `None` if the scorer does not decide."""
        scorer = self.scorer_of(dimension)
        if not scorer:
            return None
        if dimension in PROXIES and PROXIES[dimension][0] == scorer:
            return PROXIES[dimension][1]
        return self.evaluation.scorers[scorer].better

    def scores(
        self, method: str, dimension: str, temperature: float, dataset: str | None = None
    ) -> dict[Cluster, float]:
        """Return the scores of a method by question."""
        scorer = self.scorer_of(dimension)
        return self.evaluation.scores_of(scorer, method, dimension=dimension, temperature=temperature, dataset=dataset)

    def outcomes(self, first: str, second: str, dimension: str, temperature: float) -> dict[Cluster, float]:
        """Return the outcome by question: 1 if the first method is better, 0 if the second is, 0.5 for a tie.

        Only questions that both have answered count. With proxies, a degenerate answer loses to any other, because
        proxies do not measure whether an answer makes sense.
        """
        return _outcomes(*(self._ranking_scores(method, dimension, temperature) for method in (first, second)))

    def _ranking_scores(self, method: str, dimension: str, temperature: float) -> dict[Cluster, float]:
        """Return scores by question of which higher is always better; with proxies, −inf for degenerate answers."""
        sign = 1 if self.better(dimension) == "higher" else -1
        scores = self.scores(method, dimension, temperature)
        degenerate: Mapping[Cluster, float] = {}
        if self.scorer is None and DEGENERATE in self.evaluation.scorers:
            degenerate = self.evaluation.scores_of(DEGENERATE, method, dimension=dimension, temperature=temperature)
        return {each: -math.inf if degenerate.get(each) else sign * score for each, score in scores.items()}

    def win_rates(self, dimension: str, temperature: float, *, baseline: str) -> dict[str, WinRate]:
        """Return the win rate of each method against the baseline."""
        others = [method for method in self.evaluation.methods if method != baseline]
        outcomes = {method: self.outcomes(method, baseline, dimension, temperature) for method in others}
        return {method: win_rate([*each.values()], [*each]) for method, each in outcomes.items() if each}

    def differences(self, dimension: str, temperature: float, *, baseline: str) -> dict[str, Estimate]:
        """Return the mean of each method's score minus the baseline's, over questions that both have answered."""
        theirs = self.scores(baseline, dimension, temperature)
        differences = {}
        for method in self.evaluation.methods:
            ours = self.scores(method, dimension, temperature)
            if method != baseline and ours.keys() & theirs.keys():
                differences[method] = paired_difference(ours, theirs, {cluster: cluster for cluster in ours})
        return differences

    def num_questions(self, method: str, temperature: float) -> int:
        """Return the number of questions for which a method has a score."""
        return len({each for name in self.dimensions for each in self.scores(method, name, temperature)})

    def common_questions(self, dimension: str, temperature: float, dataset: str | None = None) -> set[Cluster]:
        """Return the questions that all methods have answered. Methods with `is_search` do not count."""
        evaluation = self.evaluation
        answered = [
            {*evaluation.answers_of(name, dimension=dimension, temperature=temperature, dataset=dataset)}
            for name, method in evaluation.methods.items()
            if not method.is_search
        ]
        return set.intersection(*answered) if answered else set()

    def comparable_scores(
        self, dimension: str, temperature: float, dataset: str | None = None
    ) -> dict[str, dict[Cluster, float]]:
        """Return scores of the common questions, by method and question, for methods that have answered all of them."""
        common, comparable = self.common_questions(dimension, temperature, dataset), {}
        for method in self.evaluation.methods:
            answered = self.evaluation.answers_of(method, dimension=dimension, temperature=temperature, dataset=dataset)
            if common and common <= answered.keys():
                scores = self.scores(method, dimension, temperature, dataset)
                comparable[method] = {cluster: scores[cluster] for cluster in scores if cluster in common}
        return {method: scores for method, scores in comparable.items() if scores}

    def ranking(self, temperature: float) -> list[Ranked]:
        """Rank the distinct methods by Bradley-Terry over all questions and preferences."""
        names = self.evaluation.distinct_methods
        wins: dict[Hashable, Array] = {}
        for dimension in self.dimensions:
            scores = [self._ranking_scores(name, dimension, temperature) for name in names]
            for (i, ours), (j, theirs) in permutations(enumerate(scores), 2):
                for cluster, outcome in _outcomes(ours, theirs).items():
                    wins.setdefault(cluster, np.zeros((len(names), len(names))))[i, j] += outcome
        return rank(names, wins) if wins else []


def _outcomes(ours: Mapping[Cluster, float], theirs: Mapping[Cluster, float]) -> dict[Cluster, float]:
    both = [cluster for cluster in ours if cluster in theirs]
    return {each: 0.5 if ours[each] == theirs[each] else float(ours[each] > theirs[each]) for each in both}
