"""Preferences, and the nested prompt streams planned for them."""

import math
import warnings

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from langchain_amulet.exceptions import InvalidParameterError, PreferenceError
from langchain_amulet.preferences import Preference, StreamPlan, as_preferences, plan_streams
from langchain_amulet.realignment import realign

weights = st.lists(st.sampled_from([-2.0, -1.0, -0.5, 0.0, 0.25, 0.5, 1.0, 1.5]), max_size=6)


def profile(values: list[float]) -> list[Preference]:
    return [Preference(f"text {i}", weight) for i, weight in enumerate(values)]


def quiet_plan(values: list[float], w: float = 2.0, max_streams: int = 99) -> StreamPlan:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return plan_streams(profile(values), w, max_streams=max_streams)


def test_text_stays_out_of_repr():
    assert repr(Preference("I have diabetes.", 0.5)) == "Preference(weight=0.5)"


@pytest.mark.parametrize("value", [1, b"brief", {"text": "brief"}, [1], ["brief", None], [["brief"]]])
def test_wrong_types_are_refused_with_the_accepted_ones(value):
    with pytest.raises(PreferenceError, match="Give a string"):
        as_preferences(value)


@pytest.mark.parametrize(
    ("weight", "error"),
    [("1", PreferenceError), (True, PreferenceError), (math.nan, InvalidParameterError), (101, InvalidParameterError)],
)
def test_wrong_weight_is_refused(weight, error):
    with pytest.raises(error, match="weight"):
        Preference("brief", weight)


def test_accepted_forms_of_preferences():
    brief = Preference("Be brief.")
    assert as_preferences(None) == as_preferences([]) == ()
    assert as_preferences("Be brief.") == as_preferences(brief) == as_preferences(["Be brief."]) == (brief,)


@pytest.mark.parametrize("values", [[], [0.0], [0.0, 0.0]])
def test_no_preference_gives_the_base_stream_alone(values):
    assert quiet_plan(values) == StreamPlan(((),), ())


def test_scale_zero_gives_the_base_stream_alone():
    assert quiet_plan([1.0, -1.0], w=0.0) == StreamPlan(((),), ())


@pytest.mark.parametrize("text", ["", " \n"])
def test_empty_text_is_ignored(text):
    assert plan_streams([Preference(text)], 2.0) == StreamPlan(((),), ())


def test_a_null_character_is_refused():
    with pytest.raises(InvalidParameterError, match="null character"):
        Preference("Be\0 brief.")


def test_a_lone_surrogate_is_refused():
    with pytest.raises(InvalidParameterError, match="lone surrogate"):
        Preference("brief \ud83d")


@pytest.mark.parametrize(("weight", "w"), [(1.0, 1.0), (0.5, 2.0)])
def test_gain_of_exactly_one_gives_the_preference_stream_alone(weight, w):
    assert quiet_plan([weight], w=w) == StreamPlan((("text 0",),), ())


def test_equal_weights_share_a_stream():
    assert quiet_plan([1.0, 1.0]) == StreamPlan(((), ("text 0", "text 1")), (1.0,))


def test_weaker_preferences_are_nested_in_the_order_of_the_profile():
    plan = quiet_plan([0.5, 1.0, -1.0, 0.25])
    assert plan.preferences == ((), ("text 1",), ("text 0", "text 1"), ("text 0", "text 1", "text 3"), ("text 2",))
    assert plan.weights == (0.5, 0.25, 0.25, -1.0)


@given(values=weights)
def test_total_gain_is_the_largest_weight_and_each_preference_has_its_own_weight(values):
    plan = quiet_plan(values, w=3.0)
    for i, value in enumerate(values):
        share = sum(v for texts, v in zip(plan.preferences[1:], plan.weights, strict=True) if f"text {i}" in texts)
        assert share == pytest.approx(value)
    liked, disliked = (sum(v for v in plan.weights if v * sign > 0) for sign in (1, -1))
    assert liked == pytest.approx(max([0.0, *values]))
    assert disliked == pytest.approx(min([0.0, *values]))


@given(values=weights, max_streams=st.integers(2, 5))
def test_merging_obeys_max_streams_and_keeps_the_largest_weight(values, max_streams):
    plan = quiet_plan(values, w=3.0, max_streams=max_streams)
    assert len(plan.preferences) <= max_streams
    strongest = max(values, key=lambda v: (abs(v), v), default=0.0)
    same_side = [v for v in plan.weights if v * strongest > 0]
    assert sum(same_side) == pytest.approx(strongest)


def test_merging_warns():
    with pytest.warns(UserWarning, match="need 4 prompt streams; max_streams allows 3"):
        plan = plan_streams(profile([1.0, 0.9, 0.2]), 2.0, max_streams=3)
    assert plan.preferences == ((), ("text 0", "text 1"), ("text 0", "text 1", "text 2"))
    assert plan.weights == pytest.approx((0.8, 0.2))


def test_max_streams_below_two_is_refused():
    with pytest.raises(InvalidParameterError, match="at least 2"):
        plan_streams(profile([1.0]), 2.0, max_streams=1)


@given(epsilon=st.floats(1e-9, 1e-6))
def test_policy_is_continuous_where_two_weights_become_equal(epsilon):
    generator = torch.Generator().manual_seed(0)
    base, alone, joint = torch.randn(3, 20, dtype=torch.float64, generator=generator)
    logits = {(): base, ("text 0",): alone, ("text 1",): alone, ("text 0", "text 1"): joint}

    def policy(values: list[float]) -> torch.Tensor:
        plan = quiet_plan(values)
        prefs = torch.stack([logits[texts] for texts in plan.preferences[1:]])
        return realign(base, prefs, 2.0, weights=torch.tensor(plan.weights, dtype=torch.float64))

    torch.testing.assert_close(policy([1.0, 1.0 - epsilon]), policy([1.0, 1.0]), atol=1e-4, rtol=0)
