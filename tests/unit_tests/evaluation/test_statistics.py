"""Statistics, against plain formulas, other libraries and simulations."""

import math

import choix
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from langchain_amulet.evaluation.analysis.statistics import bradley_terry, estimate, paired_difference, rank, win_rate
from langchain_amulet.exceptions import InvalidParameterError

values = st.lists(st.floats(-100, 100), min_size=2, max_size=30)


@given(values)
def test_one_value_per_question_is_the_plain_standard_error(x):
    result = estimate(x, range(len(x)))
    assert result.mean == pytest.approx(np.mean(x), abs=1e-9)
    assert result.stderr == pytest.approx(stats.sem(x), abs=1e-9)
    low, high = stats.ttest_1samp(x, 0).confidence_interval() if np.ptp(x) else (result.mean, result.mean)
    assert result.interval == pytest.approx((low, high), abs=1e-6)


@given(values, st.integers(2, 5))
def test_repeated_answers_do_not_reduce_the_error(x, times):
    once = estimate(x, range(len(x)))
    often = estimate(x * times, [*range(len(x))] * times)
    assert often.mean == pytest.approx(once.mean, abs=1e-9)
    assert often.stderr == pytest.approx(once.stderr, abs=1e-9)
    assert often.num_clusters == once.num_clusters


def test_intervals_of_clustered_answers_cover_the_truth():
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(500):
        x = (rng.normal(size=(20, 1)) + 0.5 * rng.normal(size=(20, 4))).ravel()
        low, high = estimate(x.tolist(), np.repeat(range(20), 4).tolist()).interval
        covered += low <= 0 <= high
    assert 0.92 < covered / 500 < 0.98


def test_the_error_of_a_single_question_is_nan():
    result = estimate([1.0, 2.0], ["q", "q"])
    assert math.isnan(result.stderr)
    assert result.interval == (-math.inf, math.inf)
    assert result.is_small


def test_ties_count_half():
    assert win_rate([1, 1, 0.5, 0], "abcd").rate == 0.625
    result = win_rate([1, 0.5, 0.75, 0.25, 0], "abcde")
    assert (result.num_wins, result.num_ties, result.num_losses) == (2, 1, 2)


@pytest.mark.parametrize("wins", [0, 3, 17, 40])
def test_independent_comparisons_have_wilsons_interval(wins):
    result = win_rate([1.0] * wins + [0.0] * (40 - wins), range(40))
    expected = stats.binomtest(wins, 40).proportion_ci(method="wilson")
    assert result.interval == pytest.approx((expected.low, expected.high), abs=0.01)


@given(st.lists(st.sampled_from([0.0, 1.0]), min_size=2, max_size=30), st.integers(2, 4))
def test_repeated_outcomes_do_not_narrow_the_interval(x, times):
    once, often = win_rate(x, range(len(x))), win_rate(x * times, [*range(len(x))] * times)
    assert often.interval == pytest.approx(once.interval, abs=1e-9)


def test_ties_and_single_questions_have_an_interval():
    ties = win_rate([0.5] * 40, range(40))
    expected = stats.binomtest(20, 40).proportion_ci(method="wilson")
    assert (ties.rate, ties.num_ties) == (0.5, 40)
    assert ties.interval == pytest.approx((expected.low, expected.high), abs=0.01)
    single = win_rate([1.0], "q")
    assert 0 < single.interval[0] < single.interval[1] <= 1
    assert single.is_small


@pytest.mark.parametrize(("x", "clusters"), [([], []), ([1.0], "ab"), ([1.0, math.nan], "ab"), ([math.inf], "a")])
def test_invalid_values_raise(x, clusters):
    with pytest.raises(InvalidParameterError):
        estimate(x, clusters)


@pytest.mark.parametrize("outcomes", [[], [1.5], [-0.1], [math.nan]])
def test_invalid_outcomes_raise(outcomes):
    with pytest.raises(InvalidParameterError):
        win_rate(outcomes, range(len(outcomes)))


def test_paired_differences_use_common_questions():
    first, second = {"a": 3.0, "b": 5.0, "c": 100.0}, {"a": 1.0, "b": 2.0, "d": 0.0}
    result = paired_difference(first, second, {key: key for key in "abcd"})
    assert (result.mean, result.num_clusters) == (2.5, 2)
    with pytest.raises(InvalidParameterError, match="question in common"):
        paired_difference({"a": 1.0}, {"b": 1.0}, {})


def test_bradley_terry_equals_choix_on_a_known_matrix():
    wins = np.array([[0, 8, 9], [2, 0, 7], [1, 3, 0]], dtype=float)
    pairs = [(i, j) for i in range(3) for j in range(3) for _ in range(int(wins[i, j]))]
    expected = choix.opt_pairwise(3, pairs, alpha=0.01)
    strengths = bradley_terry(wins)
    np.testing.assert_allclose(strengths, expected - expected.mean(), atol=0.02)
    # At the maximum, the number of wins equals its expectation under the strengths.
    chance = 1 / (1 + np.exp(strengths[None, :] - strengths[:, None]))
    np.testing.assert_allclose(wins.sum(1), ((wins + wins.T) * chance).sum(1), atol=0.05)


def test_methods_without_comparisons_are_not_ranked():
    wins = np.array([[0, 8, 0], [2, 0, 0], [0, 0, 0.0]])
    assert [each.name for each in rank("abc", {0: wins})] == ["a", "b"]


@pytest.mark.parametrize("wins", [np.triu(np.full((11, 11), 80.0), 1), 20 * (1 - np.eye(4))])
def test_rankings_of_one_question_are_finite_without_an_interval(wins):
    for each in rank([f"{i}" for i in range(len(wins))], {0: wins}):
        assert math.isfinite(each.strength)
        assert each.interval == (-math.inf, math.inf)


@pytest.mark.parametrize("wins", [{}, {0: np.ones((2, 2))}])
def test_rankings_need_matrices_of_all_methods(wins):
    with pytest.raises(InvalidParameterError, match="3 x 3"):
        rank("abc", wins)


def test_strengths_of_two_methods_are_the_log_odds():
    strengths = bradley_terry(np.array([[0.0, 300], [100, 0]]))
    assert strengths[0] - strengths[1] == pytest.approx(math.log(3), abs=0.01)


def test_rankings_recover_the_truth_within_intervals():
    rng = np.random.default_rng(0)
    truth = np.array([1.5, 0.0, -1.5])
    chance = 1 / (1 + np.exp(truth[None, :] - truth[:, None]))
    wins = {}
    for question in range(60):
        won = rng.random((3, 3)) < chance
        wins[question] = np.triu(won, 1) + np.triu(~won, 1).T.astype(float)
    ranked = rank(["good", "fair", "poor"], wins)
    assert [each.name for each in ranked] == ["good", "fair", "poor"]
    assert ranked[0].interval[0] > ranked[1].interval[1] > ranked[1].interval[0] > ranked[2].interval[1]
    for each, expected in zip(ranked, truth, strict=True):
        assert each.interval[0] - 0.3 < expected < each.interval[1] + 0.3
