"""Statistics with errors: means, paired differences, win rates and rankings.

Answers to the same question are not independent, so standard errors are clustered by question. All intervals are 95 %
confidence intervals.

References:
    Miller, Adding error bars to evals, 2024: https://arxiv.org/abs/2411.00640
"""

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

from langchain_amulet.exceptions import InvalidParameterError, MissingExtraError

try:
    import choix
    from scipy import stats
except ImportError as error:
    msg = "Evaluations need choix and SciPy. Install them: pip install 'langchain-amulet[eval]'"
    raise MissingExtraError(msg) from error

Key = TypeVar("Key", bound=Hashable)
Array: TypeAlias = NDArray[np.floating[Any]]

SMALL = 30
"""With fewer questions than this, intervals are approximate, and reports say so."""

_TIE = 0.5
_REGULARISATION = 0.01  # of Bradley-Terry: without it, a method that always wins has infinite strength
_NUM_RESAMPLES = 500  # of the bootstrap


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean, in the unit of the values, with its standard error."""

    mean: float
    stderr: float
    """Clustered by question. NaN with one question."""
    num_clusters: int
    """Number of questions."""
    num_values: int

    @property
    def interval(self) -> tuple[float, float]:
        """Confidence interval, 95 %, by Student's t with G − 1 degrees of freedom for G questions. Infinite for one."""
        if self.num_clusters < 2:  # noqa: PLR2004
            return -math.inf, math.inf
        half = float(stats.t.ppf(0.975, self.num_clusters - 1)) * self.stderr
        return self.mean - half, self.mean + half

    @property
    def is_small(self) -> bool:
        """Whether there are fewer than `SMALL` questions, so that the interval is approximate."""
        return self.num_clusters < SMALL

    def scaled(self, factor: float) -> "Estimate":
        """Return the estimate in another unit, such as percent."""
        return Estimate(factor * self.mean, factor * self.stderr, self.num_clusters, self.num_values)


def estimate(values: Sequence[float], clusters: Sequence[Hashable]) -> Estimate:
    """Compute a mean with its standard error clustered by question.

        stderr² = G/(G − 1) · Σ_g (Σ_{i in g} (x_i − mean))² / n²

    Args:
        values: Scores x, `(n,)`.
        clusters: Question of each value, `(n,)`, with G different ones.

    Raises:
        InvalidParameterError: There are no values, the lengths differ, or a value is NaN or infinite.

    References:
        Miller, Adding error bars to evals, 2024, section 2.2: https://arxiv.org/abs/2411.00640. Unlike there, with the
        finite-sample correction G/(G − 1).
    """
    if len(values) != len(clusters) or not values:
        msg = f"estimate() needs one question per value, and at least one; got {len(values)} and {len(clusters)}."
        raise InvalidParameterError(msg)
    x = np.asarray(values, dtype=np.float64)
    if not np.isfinite(x).all():
        msg = "estimate() needs finite values. Omit answers without a score."
        raise InvalidParameterError(msg)
    mean = float(x.mean())
    residuals: dict[Hashable, float] = {}
    for value, cluster in zip(x - mean, clusters, strict=True):
        residuals[cluster] = residuals.get(cluster, 0.0) + float(value)
    num_clusters = len(residuals)
    if num_clusters == 1:
        return Estimate(mean, math.nan, 1, len(x))
    squares = sum(each**2 for each in residuals.values())
    stderr = math.sqrt(num_clusters / (num_clusters - 1) * squares) / len(x)
    return Estimate(mean, stderr, num_clusters, len(x))


@dataclass(frozen=True, slots=True)
class WinRate:
    """Share of comparisons that one method wins against another."""

    rate: float
    """From 0 to 1. A tie counts as half a win, so 0.5 means that neither is better."""
    interval: tuple[float, float]
    """Confidence interval, 95 %."""
    num_wins: int
    num_ties: int
    num_losses: int
    num_clusters: int
    """Number of questions."""

    @property
    def is_small(self) -> bool:
        """Whether there are fewer than `SMALL` questions, so that the interval is approximate."""
        return self.num_clusters < SMALL


def win_rate(outcomes: Sequence[float], clusters: Sequence[Hashable]) -> WinRate:
    """Compute the share of comparisons that a method wins. A tie counts as half a win.

    The interval is Wilson's for the effective number of comparisons: their number divided by the design effect, which
    is the clustered variance of the rate over the variance p (1 − p) / n of independent comparisons.

    Args:
        outcomes: 1 for a win, 0.5 for a tie, 0 for a loss, `(n,)`. Means of several judgements may lie in between.
        clusters: Question of each outcome, `(n,)`.

    Raises:
        InvalidParameterError: There are no outcomes, the lengths differ, or an outcome is not from 0 to 1.

    References:
        Wilson, Probable inference, JASA 1927: https://doi.org/10.1080/01621459.1927.10502953
    """
    if not all(0 <= outcome <= 1 for outcome in outcomes):
        msg = f"Outcomes must be from 0 (loss) to 1 (win), got {sorted(set(outcomes))}."
        raise InvalidParameterError(msg)
    mean = estimate(outcomes, clusters)
    return WinRate(
        rate=mean.mean,
        interval=wilson_interval(mean),
        num_wins=sum(outcome > _TIE for outcome in outcomes),
        num_ties=sum(outcome == _TIE for outcome in outcomes),
        num_losses=sum(outcome < _TIE for outcome in outcomes),
        num_clusters=mean.num_clusters,
    )


def wilson_interval(rate: Estimate) -> tuple[float, float]:
    """Return the 95 % interval of a share by Wilson, for the effective number of outcomes as in `win_rate`.

    Args:
        rate: The mean of outcomes from 0 to 1.
    """
    p, independent = rate.mean, rate.mean * (1 - rate.mean) / rate.num_values
    # If all outcomes are equal, or there is one question, the effective number is the number of questions.
    num = float(rate.num_clusters)
    if independent > 0 and rate.num_clusters > 1 and rate.stderr > 0:
        num = rate.num_values / max(1.0, rate.stderr**2 / independent)
    z = float(stats.norm.ppf(0.975))
    centre = (p + z**2 / (2 * num)) / (1 + z**2 / num)
    half = z / (1 + z**2 / num) * math.sqrt(p * (1 - p) / num + z**2 / (4 * num**2))
    return max(0.0, centre - half), min(1.0, centre + half)


def paired_difference(
    first: Mapping[Key, float], second: Mapping[Key, float], cluster_of: Mapping[Key, Hashable]
) -> Estimate:
    """Compute the mean of first minus second, over the keys of both. The difficulty of a question cancels.

    Args:
        first: Scores of one method, by any key, such as question, preference and temperature.
        second: Scores of another method, by the same keys.
        cluster_of: Question of each key.

    Raises:
        InvalidParameterError: No key is in both.

    References:
        Miller, Adding error bars to evals, 2024, section 4: https://arxiv.org/abs/2411.00640
    """
    both = [key for key in first if key in second]
    if not both:
        msg = "The two methods have no answered question in common. Compare methods that answered the same questions."
        raise InvalidParameterError(msg)
    return estimate([first[key] - second[key] for key in both], [cluster_of[key] for key in both])


def paired_ratio(
    first: Mapping[Key, float], second: Mapping[Key, float], cluster_of: Mapping[Key, Hashable]
) -> Estimate:
    """Compute the mean of first over the mean of second, over the keys of both.

        R = Σ_i x_i / Σ_i y_i,  stderr² = G/(G − 1) · Σ_g (Σ_{i in g} (x_i − R y_i))² / (Σ_i y_i)²

    Args:
        first: Scores x of one method, by any key, such as question, preference and temperature.
        second: Scores y of another method, by the same keys.
        cluster_of: Question of each key, with G different ones.

    Raises:
        InvalidParameterError: No key is in both, or the mean of second is not above 0.

    References:
        Cochran, Sampling techniques, 1977, chapter 6: the ratio estimate, by linearisation.
    """
    both = [key for key in first if key in second]
    total = sum(second[key] for key in both)
    if total <= 0:
        msg = "A ratio needs questions that both methods have answered, and a mean above 0 to divide by."
        raise InvalidParameterError(msg)
    ratio = sum(first[key] for key in both) / total
    residuals = estimate([first[key] - ratio * second[key] for key in both], [cluster_of[key] for key in both])
    stderr = residuals.stderr * len(both) / total
    return Estimate(ratio, stderr, residuals.num_clusters, len(both))


@dataclass(frozen=True, slots=True)
class Ranked:
    """Strength of one method in a ranking."""

    name: str
    strength: float
    """θ of Bradley-Terry, in nats: P(i beats j) = 1 / (1 + exp(θ_j - θ_i)). The strengths of all methods sum to 0."""
    interval: tuple[float, float]
    """Confidence interval of the strength, 95 %, by a bootstrap over questions. Infinite for one question."""


def rank(names: Sequence[str], comparisons: Mapping[Hashable, Array]) -> list[Ranked]:
    """Rank methods by pairwise comparisons, the strongest first.

    Args:
        names: Names of M methods.
        comparisons: By question, a matrix `(M, M)`: the number of wins of the row's method over the column's. A tie is
            half a win for both.

    Returns:
        The methods with at least one comparison.

    Raises:
        InvalidParameterError: There are no comparisons, or a matrix has another shape.

    References:
        Bradley and Terry, Rank analysis of incomplete block designs, Biometrika 1952: https://doi.org/10.2307/2334029
    """
    num = len(names)
    if not comparisons or any(each.shape != (num, num) for each in comparisons.values()):
        msg = f"A ranking of {num} methods needs at least one matrix of wins, each of shape {num} x {num}."
        raise InvalidParameterError(msg)
    per_question = np.array([*comparisons.values()])
    compared = per_question.sum(0)
    is_compared = (compared + compared.T).any(0)
    names = [name for name, has_comparison in zip(names, is_compared, strict=True) if has_comparison]
    num = len(names)
    per_question = per_question[:, is_compared][:, :, is_compared]
    strengths = bradley_terry(per_question.sum(0))
    rng = np.random.default_rng(0)
    resampled = [
        bradley_terry(per_question[rng.integers(len(per_question), size=len(per_question))].sum(0))
        for _ in range(_NUM_RESAMPLES if len(per_question) > 1 else 0)
    ]
    low, high = (
        np.quantile(resampled, [0.025, 0.975], axis=0) if resampled else (np.full(num, -np.inf), np.full(num, np.inf))
    )
    ranked = [
        Ranked(name, float(strength), (float(least), float(most)))
        for name, strength, least, most in zip(names, strengths, low, high, strict=True)
    ]
    return sorted(ranked, key=lambda each: -each.strength)


def bradley_terry(wins: Array) -> Array:
    """Fit the strengths of M methods by regularised maximum likelihood.

    Args:
        wins: Number of wins of the row's method over the column's, `(M, M)`.

    Returns:
        Strengths in nats, `(M,)`, which sum to 0.

    References:
        Maystre and Grossglauser, Fast and accurate inference of Plackett-Luce models, NeurIPS 2015, by the library
        choix: https://choix.lum.li
    """
    strengths: Array = choix.ilsr_pairwise_dense(np.asarray(wins, dtype=np.float64), alpha=_REGULARISATION)
    return np.asarray(strengths - strengths.mean())
