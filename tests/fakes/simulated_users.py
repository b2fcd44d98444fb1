"""Simulated users with hidden weights who choose between two answers by a Bradley-Terry model, and a learner."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from langchain_amulet.feedback.bradley_terry import LearningConfig, Observation, fit_weights

EVIDENCE_FILE = Path(__file__).parents[1] / "data" / "feedback_evidence.json"
SHARPNESS = 3.0  # log-odds of a choice, per standard deviation of utility
NUM_KNOWN = 6
_FIRST_SEED = 10_000  # users with lower seeds were used to choose the defaults of LearningConfig

PREFERENCES = (
    "Answer as concisely as possible.",
    "Be cheerful and enthusiastic.",
    "Give concrete examples.",
    "Use simple words, as for a child.",
    "Write formally, like a scientist.",
    "Write a numbered list of steps.",
    "Tell a personal story.",  # not in the memories
)

Array = NDArray[np.float64]


class Evidence(NamedTuple):
    """Evidence for K preferences, in nats per token, of A answers to each of Q questions: `(Q, A, K)`."""

    train: Array
    test: Array

    @classmethod
    def load(cls) -> "Evidence":
        """Load the evidence that the benchmark saved."""
        values = np.array(json.loads(EVIDENCE_FILE.read_text())["evidence"])
        return cls.split(values)

    @classmethod
    def split(cls, values: Array) -> "Evidence":
        """Hold out every third question."""
        held_out = np.arange(len(values)) % 3 == 2
        return cls(values[~held_out], values[held_out])


class User(NamedTuple):
    """A simulated user."""

    weights: Array  # of standardised evidence; scaled so that utilities have a standard deviation of 1
    noise: float  # the share of random choices

    def choose(self, difference: Array, rng: np.random.Generator) -> bool:
        """Whether the user chooses the first of two answers, by the difference of their evidence."""
        if rng.random() < self.noise:
            return bool(rng.random() < 0.5)
        return bool(rng.random() < expit(SHARPNESS * difference @ self.weights))


def random_user(
    standardised: Array, rng: np.random.Generator, *, num_weights: int = NUM_KNOWN, noise: float = 0
) -> User:
    weights = np.zeros(standardised.shape[-1])
    weights[:num_weights] = rng.uniform(-1, 1, num_weights)
    return User(weights / (standardised.reshape(-1, len(weights)) @ weights).std(), noise)


def random_pairs(values: Array, number: int, rng: np.random.Generator) -> Array:
    """The evidence of one answer minus that of another one to the same question, `(number, K)`."""
    questions = rng.integers(len(values), size=number)
    pairs = np.array([rng.choice(values.shape[1], 2, replace=False) for _ in range(number)])
    return values[questions, pairs[:, 0]] - values[questions, pairs[:, 1]]


class Course(NamedTuple):
    """Accuracy on held-out choices at each checkpoint, of the learned and of the true weights."""

    learned: Array
    ceiling: Array


def learn(
    evidence: Evidence,
    checkpoints: Sequence[int],
    *,
    seed: int,
    flips_at: int | None = None,
    num_weights: int = NUM_KNOWN,
    noise: float = 0.0,
    config: LearningConfig | None = None,
) -> Course:
    """Fit weights to the comparisons of one random user."""
    rng = np.random.default_rng(seed)
    scale = evidence.train.std(axis=(0, 1))
    train, test = evidence.train / scale, evidence.test / scale
    user = random_user(train - train.mean(axis=(0, 1)), rng, num_weights=num_weights, noise=noise)
    held_out = random_pairs(test, 400, rng)
    before = np.array([user.choose(pair, rng) for pair in held_out])
    after = np.array([user._replace(weights=-user.weights).choose(pair, rng) for pair in held_out])
    keys = [str(k) for k in range(NUM_KNOWN)]
    observations: list[Observation] = []
    learned, ceiling = [], []
    for number in range(max(checkpoints) + 1):
        has_flipped = flips_at is not None and number >= flips_at
        now = user._replace(weights=-user.weights) if has_flipped else user
        if number in checkpoints:
            weights = fit_weights(keys, observations, [0.0] * NUM_KNOWN, config or LearningConfig()).weights
            is_flipped = flips_at is not None and number > flips_at
            choices, truth = (after, -user.weights) if is_flipped else (before, user.weights)
            learned.append(accuracy(held_out[:, :NUM_KNOWN] @ weights, choices))
            ceiling.append(accuracy(held_out @ truth, choices))
        pair = random_pairs(train, 1, rng)[0]
        observed = (pair if now.choose(pair, rng) else -pair) * scale
        observations.append(Observation(dict(zip(keys, map(float, observed), strict=False)), is_comparison=True))
    return Course(np.array(learned), np.array(ceiling))


def accuracy(differences: Array, choices: NDArray[np.bool_]) -> float:
    """The share of choices that are predicted correctly; a difference of 0 counts half."""
    return float(np.where(differences == 0, 0.5, (differences > 0) == choices).mean())


def mean_course(evidence: Evidence, checkpoints: Sequence[int], num_users: int, **kwargs: object) -> Course:
    """The courses of many users, averaged."""
    seeds = range(_FIRST_SEED, _FIRST_SEED + num_users)
    courses = [learn(evidence, checkpoints, seed=seed, **kwargs) for seed in seeds]
    return Course(
        np.mean([course.learned for course in courses], axis=0), np.mean([course.ceiling for course in courses], axis=0)
    )
