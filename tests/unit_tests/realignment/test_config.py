"""`RealignmentConfig`: presets, ranges, and what it says about its guards."""

import math

import pytest

from langchain_amulet.exceptions import InvalidParameterError
from langchain_amulet.realignment import RealignmentConfig


def test_presets_are_points_on_one_scale():
    assert RealignmentConfig() == RealignmentConfig(guidance_scale=8.0, plausibility=0.1, max_kl=None, contrast="base")
    assert RealignmentConfig.paper().guidance_scale == pytest.approx(5.648699, abs=1e-6)
    assert RealignmentConfig.paper() == RealignmentConfig.amulet(plausibility=0.0)
    assert RealignmentConfig.amulet(num_iterations=0).guidance_scale == 1
    assert RealignmentConfig.linear_alignment(2.0) == RealignmentConfig.classifier_free_guidance(3.0)
    assert RealignmentConfig.linear_alignment(2.0).plausibility == 0
    authors = RealignmentConfig.linear_alignment(5.0, nucleus=0.8, nucleus_temperature=0.5)
    assert (authors.guidance_scale, authors.nucleus, authors.nucleus_temperature) == (6.0, 0.8, 0.5)


@pytest.mark.parametrize(
    ("values", "remedy"),
    [
        ({"guidance_scale": -1.0}, "Preference of negative weight"),
        ({"guidance_scale": 1e5}, "from 0 to 10000"),
        ({"guidance_scale": math.nan}, "finite number"),
        ({"guidance_scale": "2"}, "finite number"),
        ({"plausibility": 1.5}, "Use 0 to turn it off"),
        ({"max_kl": -0.1}, "use None to turn it off"),
        ({"nucleus": 0.0}, "Use None to turn it off"),
        ({"nucleus": 1.5}, "Use None to turn it off"),
        ({"nucleus_temperature": 0.0}, "nucleus_temperature"),
        ({"entropy_floor": 1.5}, "Use 0 to turn it off"),
    ],
)
def test_config_refuses_values_out_of_range(values, remedy):
    with pytest.raises(InvalidParameterError, match=remedy):
        RealignmentConfig(**values)


def test_active_guards_are_those_that_are_on():
    assert RealignmentConfig().active_guards == {"plausibility": 0.1}
    assert RealignmentConfig(plausibility=0.0, max_kl=0.0).active_guards == {"max_kl": 0.0}
    assert RealignmentConfig(plausibility=0.0, nucleus_temperature=0.5, entropy_floor=0.0).active_guards == {}
    assert RealignmentConfig(plausibility=0.0, entropy_floor=0.5).active_guards == {"entropy_floor": 0.5}


def test_temperature_of_the_nucleus_is_active_with_the_nucleus():
    config = RealignmentConfig(plausibility=0.0, nucleus=0.8)
    assert config.active_guards == {"nucleus": 0.8, "nucleus_temperature": 1.0}


def test_has_guards_if_any_is_on():
    assert not RealignmentConfig.paper().has_guards
    assert RealignmentConfig(plausibility=0.0, nucleus=1.0).has_guards


def test_without_guards_keeps_the_scale_unless_another_is_given():
    guarded = RealignmentConfig(3.0, plausibility=0.2, max_kl=1.0, nucleus=0.8, entropy_floor=0.5)
    assert guarded.without_guards() == RealignmentConfig(3.0, plausibility=0.0)
    assert guarded.without_guards(0.0) == RealignmentConfig(0.0, plausibility=0.0)
