"""The frontier of methods: how well answers follow their preferences, against how coherent they are.

All figures of a method are over pairs of question and preference, and with several seeds over the means of these.
Intervals are clustered by question, since all preferences and seeds share it.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from langchain_amulet.evaluation.analysis.statistics import Estimate, estimate, paired_difference, paired_ratio
from langchain_amulet.evaluation.results import Evaluation

Cell = tuple[str, tuple[str, str]]
"""A preference and a question: name, then dataset and id."""

CHOOSE, REPORT = "-choose", "-report"
"""Ends of the names of datasets that are halves of one. Settings are chosen on one half, and reported on the other."""

MAX_DEGENERATE = 0.01
"""A method is coherent if its share of degenerate answers is at most this much above that of prompting ..."""
MAX_NLL = 0.1
"""... and its NLL at most this much, in nats per token."""


@dataclass(frozen=True, slots=True)
class Figures:
    """The mean of one scorer for one method, and its differences from the methods that it is compared with."""

    mean: Estimate
    num_answers: int
    gain: Estimate | None
    """Mean of the method's score minus that of prompting, pair by pair. `None` for prompting itself."""
    gain_over_repeated: Estimate | None
    """The same against the repeated preference. `None` if that was not run, and for itself."""
    ratio: Estimate | None
    """The method's mean over that of prompting. `None` for prompting itself, or if its mean is 0."""


@dataclass(frozen=True)
class Frontier:
    """The answers of some datasets at one temperature, compared by adherence and coherence."""

    evaluation: Evaluation
    datasets: tuple[str, ...]
    temperature: float
    adherence: str
    """Name of the scorer of adherence, of which higher scores are better."""
    degenerate: str
    """Name of the scorer of degenerate answers."""
    nll: str = ""
    """Name of the scorer of negative log-likelihood. Empty: there is none."""
    prompted: str = "pref"
    repeated: str = ""
    """Name of the method of the repeated preference. Empty: it was not run."""

    @cached_property
    def methods(self) -> list[str]:
        """Names of the distinct methods that have scores of adherence, in the order of the evaluation."""
        return [name for name in self.evaluation.distinct_methods if self.cells(self.adherence, name)]

    @cached_property
    def dimensions(self) -> list[str]:
        """Names of the preferences that have scores of adherence."""
        scored = {name for method in self.methods for name, _ in self.cells(self.adherence, method)}
        return [each.name for each in self.evaluation.dimensions if each.name in scored]

    def cells(self, scorer: str, method: str, dimensions: Iterable[str] | None = None) -> dict[Cell, float]:
        """Return a method's scores by preference and question. There are none of a method that was not run."""
        if method not in self.evaluation.methods:
            return {}
        names = [each.name for each in self.evaluation.dimensions] if dimensions is None else dimensions
        return {
            (name, cluster): score
            for name in names
            for cluster, score in self.evaluation.scores_of(
                scorer, method, dimension=name, temperature=self.temperature
            ).items()
            if cluster[0] in self.datasets
        }

    def figures(self, scorer: str, method: str, dimensions: Sequence[str] | None = None) -> Figures | None:
        """Return the figures of a method by a scorer, or `None` if it has no scores.

        Args:
            scorer: Name of a scorer.
            method: Name of a method.
            dimensions: Names of preferences. `None` for all that have scores of adherence.
        """
        names = self.dimensions if dimensions is None else dimensions
        ours, theirs, repeated = (
            self.cells(scorer, each, names) if each else {} for each in (method, self.prompted, self.repeated)
        )
        if not ours:
            return None
        is_other = method != self.prompted and bool(ours.keys() & theirs.keys())
        is_not_repeated = method != self.repeated and bool(ours.keys() & repeated.keys())
        return Figures(
            mean=estimate([*ours.values()], [cluster for _, cluster in ours]),
            num_answers=self._num_answers(scorer, method, names),
            gain=_difference(ours, theirs) if is_other else None,
            gain_over_repeated=_difference(ours, repeated) if is_not_repeated else None,
            ratio=_ratio(ours, theirs) if is_other else None,
        )

    def _num_answers(self, scorer: str, method: str, dimensions: Iterable[str]) -> int:
        where = [(name, dataset) for name in dimensions for dataset in self.datasets]
        return sum(
            self.evaluation.num_answers(scorer, method, dimension=name, temperature=self.temperature, dataset=dataset)
            for name, dataset in where
        )

    def is_coherent(self, method: str) -> bool:
        """Return whether a method's answers are degenerate no more often than prompted ones, nor less likely.

        The limits are `MAX_DEGENERATE` and `MAX_NLL`, on the means, without regard to their intervals.
        """
        limits = [(self.degenerate, MAX_DEGENERATE), *([(self.nll, MAX_NLL)] if self.nll else [])]
        found = [(self.figures(scorer, method), limit) for scorer, limit in limits]
        return all(each is None or each.gain is None or each.gain.mean <= limit for each, limit in found)

    def shown(self, num_steering: int) -> list[str]:
        """Return the methods without steering, and the steering methods of the highest adherence, coherent or not."""
        means = {name: each.mean.mean for name in self.methods if (each := self.figures(self.adherence, name))}
        steering = sorted((name for name in means if is_steering(self.evaluation, name)), key=lambda name: -means[name])
        return [name for name in means if not is_steering(self.evaluation, name) or name in steering[:num_steering]]

    def best(self, num: int = 1) -> list[str]:
        """Return the coherent steering methods of the highest adherence, the best first: at most `num`."""
        means = {name: each.mean.mean for name in self.methods if (each := self.figures(self.adherence, name))}
        steering = [name for name in means if is_steering(self.evaluation, name) and self.is_coherent(name)]
        return sorted(steering, key=lambda name: -means[name])[:num]


def is_steering(evaluation: Evaluation, method: str) -> bool:
    """Return whether a method goes beyond prompting: by realignment settings with w above 1."""
    config = evaluation.methods[method].config
    return config is not None and config.guidance_scale > 1


def _difference(ours: Mapping[Cell, float], theirs: Mapping[Cell, float]) -> Estimate:
    return paired_difference(ours, theirs, {cell: cell[1] for cell in ours})


def _ratio(ours: Mapping[Cell, float], theirs: Mapping[Cell, float]) -> Estimate | None:
    has_mean = sum(theirs[cell] for cell in ours if cell in theirs) > 0
    return paired_ratio(ours, theirs, {cell: cell[1] for cell in ours}) if has_mean else None


def frontiers(
    evaluation: Evaluation,
    temperature: float,
    *,
    adherence: Sequence[str],
    degenerate: str,
    nll: str = "",
    prompted: str = "pref",
    repeated: str = "",
) -> list[Frontier]:
    """Return the frontiers of an evaluation at one temperature, those with scores.

    Datasets that are halves (`<name>-choose` and `<name>-report`) are apart; the other datasets are together.

    Args:
        evaluation: Answers and scores.
        temperature: Sampling temperature.
        adherence: Names of scorers of adherence. One that the evaluation does not have is left out.
        degenerate: Name of the scorer of degenerate answers.
        nll: Name of the scorer of negative log-likelihood, if there may be one.
        prompted: Name of the method that all others are compared with.
        repeated: Name of a second one, if it may have been run.
    """
    halves = [(name,) for name in evaluation.datasets if name.endswith((CHOOSE, REPORT))]
    others = tuple(name for name in evaluation.datasets if (name,) not in halves)
    found = [
        Frontier(
            evaluation,
            datasets,
            temperature,
            adherence=scorer,
            degenerate=degenerate,
            nll=nll if nll in evaluation.scorers else "",
            prompted=prompted,
            repeated=repeated if repeated in evaluation.methods else "",
        )
        for datasets in [*halves, *([others] if others else [])]
        for scorer in adherence
        if scorer in evaluation.scorers
    ]
    return [each for each in found if each.methods]
