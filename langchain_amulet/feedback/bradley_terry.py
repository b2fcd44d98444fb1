r"""Which weights of a user's preferences explain best what they liked: a regularised Bradley-Terry model.

Every response x has, for each preference k, the evidence f_k(x): the mean over its tokens of
d_k = log p(token | prompt with preference k) − log p(token | prompt), in nats per token. With z the standardised
evidence and θ the weights, the model is

    P(a preferred to b) = σ(θ · (z(a) − z(b)))        P(x liked) = σ(θ · z(x) + b)        θ ~ N(m, τ²)

(Bradley and Terry 1952; for steering by attributes, Drift, arXiv 2502.14289). Older feedback counts less. At the
maximum of the posterior, θ − m = τ² Σ_i w_i (y_i − p_i) x_i: the fit is, exactly, a sum over the feedback.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from langchain_amulet.exceptions import InvalidParameterError, MissingExtraError

try:
    from scipy.optimize import minimize
    from scipy.special import expit
except ImportError as error:
    msg = "Learning from feedback needs SciPy. Install it: pip install 'langchain-amulet[feedback]'"
    raise MissingExtraError(msg) from error

Array: TypeAlias = NDArray[np.floating[Any]]

_NUM_PSEUDO_OBSERVATIONS = 2.0  # by which a preference's scale leans towards that of all
_INTERCEPT_SCALE = 2.0
_TINY = 1e-12
_GRADIENT_TOLERANCE = 1e-8
_SINCE_CHANGE = (3, 4, 6, 8, 11, 15, 20, 27, 36, 48)  # pieces of feedback, before which a change is looked for
_CHANGE_PENALTY = 3.0  # nats; among users who stay the same it has next to no effect, of those who flip none is missed


@dataclass(frozen=True, slots=True)
class LearningConfig:
    """How fast, and how far, weights follow feedback.

    Raises:
        InvalidParameterError: A value is not above 0.
    """

    half_life: float = 30.0
    """Feedback counts half once there is this much newer feedback of the user."""
    prior_scale: float = 1.5
    """τ: how far weights are expected to lie from where they start, per standard deviation of evidence."""
    stated_strength: float = 2.0
    """How firmly a preference that the user has stated starts at its weight, in units of τ; others start at 0."""

    def __post_init__(self) -> None:
        """Refuse what makes no model."""
        for name in ("half_life", "prior_scale", "stated_strength"):
            value = getattr(self, name)
            if not (value > 0 and math.isfinite(value)):
                msg = f"{name} must be a number above 0, got {value!r}."
                raise InvalidParameterError(msg)


class Observation(NamedTuple):
    """One piece of feedback."""

    evidence: Mapping[str, float]
    """By preference, in nats per token: of the response, or, for a comparison, of the better less the worse."""
    is_comparison: bool
    is_positive: bool = True
    """Whether the response was liked. Comparisons always are positive."""


class _Prior(NamedTuple):
    mean: Array
    precision: Array  # of each, they are independent


class _Data(NamedTuple):
    design: Array  # (N, K + 1)
    labels: Array  # (N,)
    counts: Array  # (N,), how much each counts

    def part(self, begin: int, end: int) -> "_Data":
        return _Data(self.design[begin:end], self.labels[begin:end], self.counts[begin:end])


@dataclass(frozen=True, slots=True)
class Fit:
    """The weights of K preferences, from N pieces of feedback."""

    weights: Array
    """`(K,)`: the direction found, its largest entry as large as the confidence."""
    confidence: float
    """From 0 to 1: how much more likely than not (2 P - 1) the direction found is no chance, by Laplace's method."""
    std_errors: Array
    """`(K,)`: in units of the weights."""
    start: Array
    """`(K,)`: the part of each weight that was there before any feedback."""
    effects: Array
    """`(N, K)`: by how much each piece of feedback moved each weight; with `start` they sum up to the weights."""


def fit(
    keys: Sequence[str], observations: Sequence[Observation], start: Sequence[float], config: LearningConfig
) -> Fit:
    """Fit the weights of some preferences.

    Args:
        keys: The preferences. Feedback from before one of them was known says nothing of it.
        observations: The user's feedback, oldest first.
        start: Per preference, the weight that the user has stated, from -1 to 1; 0 for others.
        config: How fast, and how far.
    """
    mean = config.stated_strength * config.prior_scale * np.asarray(start, dtype=np.float64)
    features, is_comparison = _features(keys, observations)
    prior = _Prior(np.append(mean, 0.0), np.append(np.full(len(keys), config.prior_scale**-2), _INTERCEPT_SCALE**-2))
    # The last column is b, which comparisons know nothing of.
    data = _Data(
        np.column_stack([features, np.where(is_comparison, 0.0, 1.0)]),
        np.array([float(each.is_positive) for each in observations]),
        np.ones(len(observations)),
    )
    ages = np.arange(len(observations))[::-1]
    is_recent = ages < _num_since_change(data, prior)
    data = data._replace(counts=is_recent * 0.5 ** (ages / config.half_life))
    found = _maximise(data, prior)
    theta = found[:-1]
    residuals = data.counts * (data.labels - expit(data.design @ found))
    effects = config.prior_scale**2 * residuals[:, None] * features
    covariance: Array = np.linalg.inv(_hessian(data, prior, found))[:-1, :-1]
    confidence, unit = _confidence(theta, covariance)
    return Fit(theta * unit, confidence, np.sqrt(np.diag(covariance)) * unit, mean * unit, effects * unit)


def _features(keys: Sequence[str], observations: Sequence[Observation]) -> tuple[Array, NDArray[np.bool_]]:
    """Standardised evidence, `(N, K)`: centred, for likes, and of one scale for all preferences."""
    is_comparison = np.array([each.is_comparison for each in observations], dtype=bool)
    raw = np.array([[each.evidence.get(key, np.nan) for key in keys] for each in observations], dtype=np.float64)
    raw = raw.reshape(len(observations), len(keys))
    known = ~np.isnan(raw)
    likes = known & ~is_comparison[:, None]
    sums = np.where(likes, raw, 0.0).sum(axis=0)
    means = sums / np.maximum(likes.sum(axis=0), 1)
    centred = np.where(known, raw - np.where(is_comparison[:, None], 0.0, means), 0.0)
    # A difference of two responses varies twice as much as one of them.
    squares = (centred**2 * np.where(is_comparison, 0.5, 1.0)[:, None]).sum(axis=0)
    num_known = known.sum(axis=0)
    pooled = squares.sum() / max(num_known.sum(), 1)
    variances = (squares + _NUM_PSEUDO_OBSERVATIONS * pooled) / (num_known + _NUM_PSEUDO_OBSERVATIONS)
    return centred / np.sqrt(np.maximum(variances, _TINY)), is_comparison


def _num_since_change(data: _Data, prior: _Prior) -> int:
    """How much feedback there is since the user has changed their mind; all of it if they have not.

    Compares the evidence, by Laplace's method, that one set of weights explains all feedback with that of one set
    before and another after.
    """
    num_all = len(data.labels)
    whole = _log_evidence(data, prior) if num_all > min(_SINCE_CHANGE) else 0.0
    gains = {
        since: _log_evidence(data.part(0, num_all - since), prior)
        + _log_evidence(data.part(num_all - since, num_all), prior)
        - whole
        for since in _SINCE_CHANGE
        if since < num_all
    }
    best = max(gains, key=gains.__getitem__, default=num_all)
    return best if gains.get(best, 0.0) > _CHANGE_PENALTY else num_all


def _log_evidence(data: _Data, prior: _Prior) -> float:
    theta = _maximise(data, prior)
    _, log_volume = np.linalg.slogdet(_hessian(data, prior, theta))
    return float(0.5 * np.log(prior.precision).sum() - 0.5 * log_volume - _loss(theta, data, prior)[0])


def _maximise(data: _Data, prior: _Prior) -> Array:
    """The maximum of the log posterior, which is concave."""

    def loss(theta: Array) -> tuple[float, Array]:
        return _loss(theta, data, prior)

    def hessian(theta: Array) -> Array:
        return _hessian(data, prior, theta)

    options: Any = {"gtol": _GRADIENT_TOLERANCE}
    found: Array = minimize(loss, prior.mean, jac=True, hess=hessian, method="trust-exact", options=options).x
    return found


def _loss(theta: Array, data: _Data, prior: _Prior) -> tuple[float, Array]:
    """The negative log posterior, but for a constant, and its gradient."""
    logits = data.design @ theta
    distance = theta - prior.mean
    value = data.counts @ (np.logaddexp(0.0, logits) - data.labels * logits) + 0.5 * prior.precision @ distance**2
    slope = data.design.T @ (data.counts * (expit(logits) - data.labels)) + prior.precision * distance
    return float(value), slope


def _hessian(data: _Data, prior: _Prior, theta: Array) -> Array:
    chances = expit(data.design @ theta)
    curvature = data.counts * chances * (1 - chances)
    hessian: Array = (data.design.T * curvature) @ data.design + np.diag(prior.precision)
    return hessian


def _confidence(theta: Array, covariance: Array) -> tuple[float, float]:
    """How sure the direction is, and by how much to scale θ, so that its largest entry is as large."""
    length = float(np.linalg.norm(theta))
    if length < _TINY:  # the limit for a θ that goes to 0 where least is known
        variance = float(np.diag(covariance).max(initial=_TINY))
        return 0.0, math.sqrt(2 / math.pi / variance)
    direction = theta / length
    deviation = math.sqrt(float(direction @ covariance @ direction))
    confidence = math.erf(length / deviation / math.sqrt(2))
    return confidence, confidence / float(np.abs(theta).max())
