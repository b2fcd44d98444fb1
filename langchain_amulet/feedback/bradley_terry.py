r"""Fits preference weights to feedback with a regularised Bradley-Terry model.

The evidence f_k(x) of a response x for preference k is its mean log-probability gain: the mean over its tokens of
d_k = log p(token | prompt with preference k) − log p(token | prompt), in nats per token. With z the standardised
evidence, θ the weights and b an intercept, the model is

    P(a preferred to b) = σ(θ · (z(a) − z(b)))        P(x liked) = σ(θ · z(x) + b)        θ ~ N(m, τ²)

(Bradley and Terry 1952; for steering by attributes, Drift, arXiv 2502.14289). Each piece of feedback i has a weight
w_i, which falls with its age, and a label y_i, 1 or 0. At the maximum of the posterior
θ − m = τ² Σ_i w_i (y_i − p_i) x_i, with p_i the fitted probability and x_i the features: the fitted weights are exactly
the prior mean plus one term per piece of feedback.
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

_NUM_PSEUDO_OBSERVATIONS = 2.0  # shrink the scale of each preference towards the pooled scale
_INTERCEPT_SCALE = 2.0
_TINY = 1e-12
_GRADIENT_TOLERANCE = 1e-8
_SINCE_CHANGE = (3, 4, 6, 8, 11, 15, 20, 27, 36, 48)  # pieces of feedback since a possible change
_CHANGE_PENALTY = 3.0  # nats; chosen in simulations: no change is missed, and false changes are rare


@dataclass(frozen=True, slots=True)
class LearningConfig:
    """How fast and how far weights follow feedback.

    Raises:
        InvalidParameterError: A value is not a finite number above 0.
    """

    half_life: float = 30.0
    """Number of newer pieces of feedback of the same user after which a piece counts half."""
    prior_scale: float = 1.5
    """τ: the prior standard deviation of a weight, per standard deviation of evidence."""
    stated_strength: float = 2.0
    """Prior mean of a preference with stated weight 1, in units of τ. Preferences that were not stated have mean 0."""

    def __post_init__(self) -> None:
        """Check the ranges of all fields."""
        for name in ("half_life", "prior_scale", "stated_strength"):
            value = getattr(self, name)
            if not (value > 0 and math.isfinite(value)):
                msg = f"{name} must be a finite number above 0, got {value!r}."
                raise InvalidParameterError(msg)


class Observation(NamedTuple):
    """One piece of feedback."""

    evidence: Mapping[str, float]
    """By preference key, in nats per token: the evidence of the response; for a comparison, better minus worse."""
    is_comparison: bool
    is_positive: bool = True
    """Whether the response was liked; always true for a comparison."""


class _Prior(NamedTuple):
    mean: Array  # (K + 1,)
    precision: Array  # (K + 1,), diagonal


class _Data(NamedTuple):
    design: Array  # (N, K + 1)
    labels: Array  # (N,)
    counts: Array  # (N,), the weights w of the feedback

    def part(self, begin: int, end: int) -> "_Data":
        return _Data(self.design[begin:end], self.labels[begin:end], self.counts[begin:end])


@dataclass(frozen=True, slots=True)
class WeightFit:
    """The fitted weights of K preferences, from N pieces of feedback.

    All values have the same scale: the largest absolute weight equals the confidence.
    """

    weights: Array
    """`(K,)`: the fitted weights."""
    confidence: float
    """From 0 to 1: 2 P - 1, with P the posterior probability that θ along the fitted direction is above 0 (Laplace)."""
    std_errors: Array
    """`(K,)`: the standard errors of the weights."""
    start: Array
    """`(K,)`: the prior means, which are the parts of the weights that come from the stated weights."""
    effects: Array
    """`(N, K)`: how much each piece of feedback moved each weight; `start + effects.sum(0)` are the weights."""


def fit_weights(
    keys: Sequence[str], observations: Sequence[Observation], start: Sequence[float], config: LearningConfig
) -> WeightFit:
    """Fit the weights of a user's preferences to their feedback.

    Args:
        keys: The keys of the K preferences. Feedback without evidence for a key does not move its weight.
        observations: The N pieces of feedback, oldest first.
        start: Per preference, the stated weight from -1 to 1, or 0 if it was not stated.
        config: How fast and how far weights follow feedback.
    """
    mean = config.stated_strength * config.prior_scale * np.asarray(start, dtype=np.float64)
    features, is_comparison = _features(keys, observations)
    prior = _Prior(np.append(mean, 0.0), np.append(np.full(len(keys), config.prior_scale**-2), _INTERCEPT_SCALE**-2))
    # The last column belongs to the intercept b, which cancels in comparisons.
    data = _Data(
        np.column_stack([features, np.where(is_comparison, 0.0, 1.0)]),
        np.array([float(observation.is_positive) for observation in observations]),
        np.ones(len(observations)),
    )
    ages = np.arange(len(observations))[::-1]
    is_recent = ages < _num_since_change(data, prior)
    data = data._replace(counts=is_recent * 0.5 ** (ages / config.half_life))
    theta_and_b = _maximise(data, prior)
    theta = theta_and_b[:-1]
    residuals = data.counts * (data.labels - expit(data.design @ theta_and_b))
    effects = config.prior_scale**2 * residuals[:, None] * features
    covariance: Array = np.linalg.inv(_hessian(data, prior, theta_and_b))[:-1, :-1]
    confidence, scale = _confidence(theta, covariance)
    return WeightFit(theta * scale, confidence, np.sqrt(np.diag(covariance)) * scale, mean * scale, effects * scale)


def _features(keys: Sequence[str], observations: Sequence[Observation]) -> tuple[Array, NDArray[np.bool_]]:
    """Return standardised evidence, `(N, K)`, and which rows are comparisons, `(N,)`. These are not centred."""
    is_comparison = np.array([observation.is_comparison for observation in observations], dtype=bool)
    raw = np.array([[row.evidence.get(key, np.nan) for key in keys] for row in observations], dtype=np.float64)
    raw = raw.reshape(len(observations), len(keys))
    known = ~np.isnan(raw)
    likes = known & ~is_comparison[:, None]
    sums = np.where(likes, raw, 0.0).sum(axis=0)
    means = sums / np.maximum(likes.sum(axis=0), 1)
    centred = np.where(known, raw - np.where(is_comparison[:, None], 0.0, means), 0.0)
    # The difference of two responses has twice the variance of one response.
    squares = (centred**2 * np.where(is_comparison, 0.5, 1.0)[:, None]).sum(axis=0)
    num_known = known.sum(axis=0)
    pooled = squares.sum() / max(num_known.sum(), 1)
    variances = (squares + _NUM_PSEUDO_OBSERVATIONS * pooled) / (num_known + _NUM_PSEUDO_OBSERVATIONS)
    return centred / np.sqrt(np.maximum(variances, _TINY)), is_comparison


def _num_since_change(data: _Data, prior: _Prior) -> int:
    """Return the number of pieces of feedback since the user's preferences changed; all if they did not change.

    Compares two models by their marginal likelihoods (Laplace): one set of weights for all feedback, or one set before
    the change and another after it.
    """
    num_all = len(data.labels)
    whole = _log_marginal_likelihood(data, prior) if num_all > min(_SINCE_CHANGE) else 0.0
    gains = {
        since: _log_marginal_likelihood(data.part(0, num_all - since), prior)
        + _log_marginal_likelihood(data.part(num_all - since, num_all), prior)
        - whole
        for since in _SINCE_CHANGE
        if since < num_all
    }
    best = max(gains, key=gains.__getitem__, default=num_all)
    return best if gains.get(best, 0.0) > _CHANGE_PENALTY else num_all


def _log_marginal_likelihood(data: _Data, prior: _Prior) -> float:
    """Return the log marginal likelihood by Laplace's method, up to a constant, in nats."""
    theta = _maximise(data, prior)
    _, log_volume = np.linalg.slogdet(_hessian(data, prior, theta))
    return float(0.5 * np.log(prior.precision).sum() - 0.5 * log_volume - _loss(theta, data, prior)[0])


def _maximise(data: _Data, prior: _Prior) -> Array:
    """Return the maximiser of the log posterior, which is concave: θ and b, `(K + 1,)`."""

    def loss(theta: Array) -> tuple[float, Array]:
        return _loss(theta, data, prior)

    def hessian(theta: Array) -> Array:
        return _hessian(data, prior, theta)

    options: Any = {"gtol": _GRADIENT_TOLERANCE}
    theta: Array = minimize(loss, prior.mean, jac=True, hess=hessian, method="trust-exact", options=options).x
    return theta


def _loss(theta: Array, data: _Data, prior: _Prior) -> tuple[float, Array]:
    """Return the negative log posterior up to a constant, and its gradient, `(K + 1,)`."""
    logits = data.design @ theta
    distance = theta - prior.mean
    value = data.counts @ (np.logaddexp(0.0, logits) - data.labels * logits) + 0.5 * prior.precision @ distance**2
    gradient = data.design.T @ (data.counts * (expit(logits) - data.labels)) + prior.precision * distance
    return float(value), gradient


def _hessian(data: _Data, prior: _Prior, theta: Array) -> Array:
    probs = expit(data.design @ theta)
    curvature = data.counts * probs * (1 - probs)
    hessian: Array = (data.design.T * curvature) @ data.design + np.diag(prior.precision)
    return hessian


def _confidence(theta: Array, covariance: Array) -> tuple[float, float]:
    """Return the confidence in the direction of θ, and the factor that scales the largest |θ_k| to it."""
    length = float(np.linalg.norm(theta))
    if length < _TINY:  # the limit as θ goes to 0 along the most uncertain direction
        variance = float(np.diag(covariance).max(initial=_TINY))
        return 0.0, math.sqrt(2 / math.pi / variance)
    direction = theta / length
    deviation = math.sqrt(float(direction @ covariance @ direction))
    confidence = math.erf(length / deviation / math.sqrt(2))
    return confidence, confidence / float(np.abs(theta).max())
