"""Preferences: their forms, and what is refused."""

import math

import pytest

from langchain_amulet.exceptions import InvalidParameterError, PreferenceError
from langchain_amulet.preferences import Preference, as_preferences


def test_text_stays_out_of_repr():
    assert repr(Preference("I have diabetes.", 0.5)) == "Preference(weight=0.5)"


def test_opposite_stays_out_of_repr():
    assert repr(Preference("Be brief.", 0.5, opposite="Ramble.")) == "Preference(weight=0.5)"


@pytest.mark.parametrize(
    ("opposite", "error", "message"),
    [
        (7, PreferenceError, "the opposite must be a string, got int"),
        (["Ramble."], PreferenceError, "the opposite must be a string, got list"),
        ("Ramble\0.", InvalidParameterError, "opposite contains a null character"),
        ("Ramble \ud83d", InvalidParameterError, "opposite contains a lone surrogate"),
    ],
)
def test_opposite_is_checked_as_the_text_is(opposite, error, message):
    with pytest.raises(error, match=message) as raised:
        Preference("Be brief.", opposite=opposite)
    assert "Ramble" not in str(raised.value)


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


def test_a_null_character_is_refused():
    with pytest.raises(InvalidParameterError, match="null character"):
        Preference("Be\0 brief.")


def test_a_lone_surrogate_is_refused():
    with pytest.raises(InvalidParameterError, match="lone surrogate"):
        Preference("brief \ud83d")
