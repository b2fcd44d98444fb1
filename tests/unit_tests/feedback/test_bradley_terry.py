"""Weights fitted to feedback: the model, its exact decomposition, and simulated users."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import minimize

from langchain_amulet.exceptions import InvalidParameterError
from langchain_amulet.feedback.bradley_terry import LearningConfig, Observation, fit_weights
from tests.fakes.simulated_users import Evidence, mean_course

KEYS = ["brief", "kind", "formal"]
values = st.floats(-2, 2, allow_nan=False)
observations = st.lists(
    st.builds(
        Observation,
        st.dictionaries(st.sampled_from(KEYS), values),
        is_comparison=st.booleans(),
        is_positive=st.booleans(),
    ).map(lambda event: event._replace(is_positive=True) if event.is_comparison else event),
    max_size=12,
)
starts = st.lists(st.floats(-1, 1), min_size=3, max_size=3)


def compared(**evidence: float) -> Observation:
    return Observation(evidence, is_comparison=True)


@given(observations, starts)
def test_start_and_effects_sum_up_to_the_weights(feedback, start):
    fitted = fit_weights(KEYS, feedback, start, LearningConfig())
    np.testing.assert_allclose(fitted.start + fitted.effects.sum(axis=0), fitted.weights, atol=1e-5)


@given(observations, starts)
def test_the_largest_weight_is_the_confidence(feedback, start):
    fitted = fit_weights(KEYS, feedback, start, LearningConfig())
    assert 0 <= fitted.confidence <= 1
    assert np.abs(fitted.weights).max() == pytest.approx(fitted.confidence if np.abs(fitted.weights).any() else 0)


@given(observations)
def test_swapping_better_and_worse_negates_the_weights(feedback):
    feedback = [event for event in feedback if event.is_comparison]
    swapped = [event._replace(evidence={key: -x for key, x in event.evidence.items()}) for event in feedback]
    start = [0.0] * 3
    np.testing.assert_allclose(
        fit_weights(KEYS, feedback, start, LearningConfig()).weights,
        -fit_weights(KEYS, swapped, start, LearningConfig()).weights,
        atol=1e-5,
    )


def test_equals_the_literal_posterior_maximised_by_another_method():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(12, 3))
    half_life, tau = 7.0, 0.8
    fitted = fit_weights(
        KEYS,
        [compared(**dict(zip(KEYS, row, strict=True))) for row in x],
        [0.5, 0, 0],
        LearningConfig(half_life=half_life, prior_scale=tau, stated_strength=2),
    )
    scale = np.sqrt(((x**2).sum(0) / 2 + 2 * (x**2).sum() / 2 / x.size) / (len(x) + 2))
    counts = 0.5 ** (np.arange(12)[::-1] / half_life)
    mean = np.array([2 * tau * 0.5, 0, 0])

    def loss(theta):
        return (counts * np.log1p(np.exp(-(x / scale) @ theta))).sum() + ((theta - mean) ** 2).sum() / (2 * tau**2)

    theta = minimize(loss, np.zeros(3), method="Nelder-Mead", options={"xatol": 1e-8, "fatol": 1e-12}).x
    np.testing.assert_allclose(fitted.weights / fitted.confidence, theta / np.abs(theta).max(), atol=1e-4)


def test_likes_equal_the_literal_posterior_and_its_curvature():
    rng = np.random.default_rng(1)
    x, is_liked = rng.normal(size=(14, 3)), rng.random(14) < 0.5
    feedback = [
        Observation(dict(zip(KEYS, row, strict=True)), is_comparison=False, is_positive=bool(liked))
        for row, liked in zip(x, is_liked, strict=True)
    ]
    fitted = fit_weights(KEYS, feedback, [0.5, 0, 0], LearningConfig(half_life=7.0, prior_scale=0.8))
    centred = x - x.mean(0)
    z = centred / np.sqrt(((centred**2).sum(0) + 2 * (centred**2).mean()) / (len(x) + 2))
    counts = 0.5 ** (np.arange(14)[::-1] / 7.0)

    def loss(theta_b):
        *theta, b = theta_b
        logits = np.where(is_liked, 1, -1) * (z @ theta + b)
        prior = ((theta - np.array([0.8, 0, 0])) ** 2).sum() / (2 * 0.8**2) + b**2 / (2 * 2.0**2)
        return (counts * np.log1p(np.exp(-logits))).sum() + prior

    best = minimize(loss, np.zeros(4), method="Nelder-Mead", options={"xatol": 1e-9, "fatol": 1e-14, "maxiter": 9999}).x
    np.testing.assert_allclose(fitted.weights / fitted.confidence, best[:3] / np.abs(best[:3]).max(), atol=1e-4)
    steps = 1e-3 * np.eye(4)
    hessian = np.array(
        [
            [loss(best + a + b) - loss(best + a - b) - loss(best - a + b) + loss(best - a - b) for a in steps]
            for b in steps
        ]
    ) / (4 * 1e-3**2)
    errors = np.sqrt(np.diag(np.linalg.inv(hessian)))[:3]
    unit = fitted.confidence / np.abs(best[:3]).max()
    np.testing.assert_allclose(fitted.std_errors, errors * unit, rtol=1e-3)


def test_without_feedback_the_stated_weights_remain():
    fitted = fit_weights(KEYS, [], [1.0, -0.5, 0.0], LearningConfig())
    np.testing.assert_allclose(fitted.weights / fitted.confidence, [1.0, -0.5, 0.0])
    assert fitted.confidence > 0.9


def test_without_feedback_and_stated_weights_all_weights_are_zero():
    fitted = fit_weights(KEYS, [], [0.0] * 3, LearningConfig())
    assert not fitted.weights.any()
    almost = fit_weights(KEYS, [], [1e-7, 0.0, 0.0], LearningConfig())
    np.testing.assert_allclose(fitted.std_errors, almost.std_errors, rtol=1e-4)  # as uncertain as just above 0


def test_fit_without_preferences_is_empty():
    assert fit_weights([], [compared(brief=1.0)], [], LearningConfig()).weights.shape == (0,)


def test_a_preference_without_evidence_stays_at_its_start():
    fitted = fit_weights(KEYS, [compared(brief=1.0)] * 5, [0.0, 0.7, 0.0], LearningConfig())
    assert fitted.effects[:, 1].tolist() == [0.0] * 5
    assert fitted.start[1] == fitted.weights[1] > 0


def test_confidence_grows_with_consistent_feedback():
    fitted = [fit_weights(KEYS, [compared(brief=1.0, kind=0.1)] * n, [0.0] * 3, LearningConfig()) for n in (1, 3, 10)]
    assert fitted[0].confidence < fitted[1].confidence < fitted[2].confidence
    assert fitted[2].std_errors[0] / fitted[2].weights[0] < fitted[0].std_errors[0] / fitted[0].weights[0]


def test_likes_and_dislikes_are_told_apart_by_evidence():
    liked = Observation({"brief": 1.0, "kind": 0.2}, is_comparison=False)
    disliked = Observation({"brief": -1.0, "kind": 0.1}, is_comparison=False, is_positive=False)
    fitted = fit_weights(KEYS, [liked, disliked] * 4, [0.0] * 3, LearningConfig())
    assert fitted.weights[0] > 0.5
    assert abs(fitted.weights[1]) < fitted.weights[0] / 2


def test_newer_of_two_contradicting_comparisons_counts_more():
    for_it, against_it = compared(brief=1.0), compared(brief=-1.0)
    assert fit_weights(KEYS, [for_it, against_it], [0.0] * 3, LearningConfig(half_life=2)).weights[0] < 0


@pytest.mark.parametrize("name", ["half_life", "prior_scale", "stated_strength"])
@pytest.mark.parametrize("value", [0.0, -1.0, float("nan"), float("inf")])
def test_invalid_config_is_refused(name, value):
    with pytest.raises(InvalidParameterError, match=name):
        LearningConfig(**{name: value})


# Simulated users with hidden weights over six preferences; the evidence is of answers of SmolLM2


@pytest.fixture(scope="module")
def evidence() -> Evidence:
    return Evidence.load()


def test_twenty_comparisons_reach_nine_tenths_of_the_accuracy_of_the_true_weights(evidence):
    course = mean_course(evidence, [20], 60)
    assert course.learned[0] / course.ceiling[0] >= 0.9


def test_a_change_of_mind_is_learned_within_twenty_more_comparisons(evidence):
    course = mean_course(evidence, [22, 40], 60, flips_at=20)
    shares = course.learned / course.ceiling
    assert shares[0] < 0.65
    assert shares[1] >= 0.9


def test_accuracy_with_noise_and_an_unknown_preference(evidence):
    course = mean_course(evidence, [20], 60, num_weights=7, noise=0.1)
    assert course.learned[0] / course.ceiling[0] > 0.84
