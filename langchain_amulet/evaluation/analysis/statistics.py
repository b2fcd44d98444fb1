"""What samples tell, and how surely: means, comparisons, win rates and rankings, with the errors that samples have.

All answers to one question share what is special about it, so errors are clustered by question: a thousand answers to
ten questions tell about as much as ten.
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
"""With fewer questions than this, intervals are rough, and reports say so."""

_TIE = 0.5
_REGULARISATION = 0.01  # of Bradley-Terry: without, a method that always wins would be infinitely strong
_NUM_RESAMPLES = 500


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean over questions."""

    mean: float
    stderr: float
    """Clustered by question; NaN for a single one."""
    num_clusters: int
    num_values: int

    @property
    def interval(self) -> tuple[float, float]:
        """95 %, by Student's t with as many degrees of freedom as there are further questions."""
        if self.num_clusters < 2:  # noqa: PLR2004
            return -math.inf, math.inf
        half = float(stats.t.ppf(0.975, self.num_clusters - 1)) * self.stderr
        return self.mean - half, self.mean + half

    @property
    def is_small(self) -> bool:
        """Whether there are too few questions to trust the interval far."""
        return self.num_clusters < SMALL


def estimate(values: Sequence[float], clusters: Sequence[Hashable]) -> Estimate:
    """The mean of some values, with its error clustered by question.

        stderr² = G/(G − 1) · Σ_g (Σ_{i in g} (x_i − mean))² / n²

    Args:
        values: Scores, `(n,)`.
        clusters: The question of each, G different ones.

    Raises:
        InvalidParameterError: There are no values, not as many clusters, or a value is not finite.

    References:
        Miller, Adding error bars to evals, 2024, section 2.2: https://arxiv.org/abs/2411.00640
    """
    if len(values) != len(clusters) or not values:
        msg = f"A mean takes values and the question of each; got {len(values)} values and {len(clusters)} questions."
        raise InvalidParameterError(msg)
    x = np.asarray(values, dtype=np.float64)
    if not np.isfinite(x).all():
        msg = "A mean takes finite values. Leave out what has no score."
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
    """How often one method beats another."""

    rate: float
    """From 0 to 1, ties counted half; 0.5 if neither is better."""
    interval: tuple[float, float]
    """95 %."""
    num_wins: int
    num_ties: int
    num_losses: int
    num_clusters: int

    @property
    def is_small(self) -> bool:
        """Whether there are too few questions to trust the interval far."""
        return self.num_clusters < SMALL


def win_rate(outcomes: Sequence[float], clusters: Sequence[Hashable]) -> WinRate:
    """The share of comparisons that a method wins, ties counted half.

    The interval is Wilson's, for as many comparisons as these are worth: their number divided by the design effect, the
    clustered variance of the rate over that of independent comparisons.

    Args:
        outcomes: 1 for a win, 0.5 for a tie, 0 for a loss; the mean of several judgements may lie between.
        clusters: The question of each.

    Raises:
        InvalidParameterError: An outcome is not from 0 to 1, or there are none.

    References:
        Wilson, Probable inference, JASA 1927: https://doi.org/10.1080/01621459.1927.10502953
    """
    if not all(0 <= outcome <= 1 for outcome in outcomes):
        msg = f"Outcomes are from 0 (loss) to 1 (win), got {sorted(set(outcomes))}."
        raise InvalidParameterError(msg)
    found = estimate(outcomes, clusters)
    return WinRate(
        rate=found.mean,
        interval=_wilson(found),
        num_wins=sum(outcome > _TIE for outcome in outcomes),
        num_ties=sum(outcome == _TIE for outcome in outcomes),
        num_losses=sum(outcome < _TIE for outcome in outcomes),
        num_clusters=found.num_clusters,
    )


def _wilson(found: Estimate) -> tuple[float, float]:
    p, independent = found.mean, found.mean * (1 - found.mean) / found.num_values
    # Where all comparisons end alike, or belong to one question, each question counts once.
    num = float(found.num_clusters)
    if independent > 0 and found.num_clusters > 1 and found.stderr > 0:
        num = found.num_values / max(1.0, found.stderr**2 / independent)
    z = float(stats.norm.ppf(0.975))
    centre = (p + z**2 / (2 * num)) / (1 + z**2 / num)
    half = z / (1 + z**2 / num) * math.sqrt(p * (1 - p) / num + z**2 / (4 * num**2))
    return max(0.0, centre - half), min(1.0, centre + half)


def paired_difference(
    first: Mapping[Key, float], second: Mapping[Key, float], cluster_of: Mapping[Key, Hashable]
) -> Estimate:
    """The mean of first less second, over what both have; what is special about a question falls out.

    Args:
        first: By what was answered (say, question, preference and temperature), the score of one method.
        second: The same of another.
        cluster_of: The question of each.

    Raises:
        InvalidParameterError: They have nothing in common.
    """
    both = [key for key in first if key in second]
    if not both:
        msg = "Two methods can be compared on what both have answered; these have nothing in common."
        raise InvalidParameterError(msg)
    return estimate([first[key] - second[key] for key in both], [cluster_of[key] for key in both])


@dataclass(frozen=True, slots=True)
class Ranked:
    """The place of one method among all."""

    name: str
    strength: float
    """θ of Bradley-Terry, in nats; that of all methods sums up to 0. P(i beats j) = 1 / (1 + exp(θ_j - θ_i))."""
    interval: tuple[float, float]
    """95 %, by drawing questions anew."""


def rank(names: Sequence[str], comparisons: Mapping[Hashable, Array]) -> list[Ranked]:
    """Order methods by the comparisons between them, the strongest first.

    Args:
        names: Of M methods.
        comparisons: By question, how often each method (row) has beaten each other (column), `(M, M)`; a tie is half a
            win for both. Who was never compared has no place.

    Raises:
        InvalidParameterError: There are no comparisons, or matrices of another shape.

    References:
        Bradley and Terry 1952; fitted by choix (Maystre): https://choix.lum.li
    """
    num = len(names)
    if not comparisons or any(each.shape != (num, num) for each in comparisons.values()):
        msg = f"A ranking of {num} methods takes matrices of {num} x {num} wins, at least one."
        raise InvalidParameterError(msg)
    per_question = np.array([*comparisons.values()])
    compared = per_question.sum(0)
    is_compared = (compared + compared.T).any(0)
    names = [name for name, is_there in zip(names, is_compared, strict=True) if is_there]
    num = len(names)
    per_question = per_question[:, is_compared][:, :, is_compared]
    strengths = bradley_terry(per_question.sum(0))
    rng = np.random.default_rng(0)
    draws = [
        bradley_terry(per_question[rng.integers(len(per_question), size=len(per_question))].sum(0))
        for _ in range(_NUM_RESAMPLES if len(per_question) > 1 else 0)
    ]
    low, high = np.quantile(draws, [0.025, 0.975], axis=0) if draws else (np.full(num, -np.inf), np.full(num, np.inf))
    ranked = [
        Ranked(name, float(strength), (float(least), float(most)))
        for name, strength, least, most in zip(names, strengths, low, high, strict=True)
    ]
    return sorted(ranked, key=lambda each: -each.strength)


def bradley_terry(wins: Array) -> Array:
    """The strengths that explain some wins best, `(M,)`, in nats; they sum up to 0.

    Args:
        wins: How often the method of the row has beaten that of the column, `(M, M)`.
    """
    found: Array = choix.ilsr_pairwise_dense(np.asarray(wins, dtype=np.float64), alpha=_REGULARISATION)
    return np.asarray(found - found.mean())
