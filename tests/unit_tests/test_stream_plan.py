"""The prompt streams planned for weighted preferences, and how much each of them counts."""

import itertools
import math
import warnings
import zlib
from collections.abc import Sequence
from typing import get_args

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from langchain_amulet.exceptions import InvalidParameterError
from langchain_amulet.preferences import Preference
from langchain_amulet.realignment import RealignmentConfig, realign, realign_streams
from langchain_amulet.realignment.config import Contrast
from langchain_amulet.stream_plan import BASE_PLAN, NEUTRAL_INSTRUCTION, Stream, StreamPlan, _Step, _Wish, plan_streams

CONTRASTS = get_args(Contrast)
WEIGHTS = (-2.0, -1.0, -0.5, 0.0, 0.25, 0.5, 1.0, 1.5)
OPPOSITE = Preference("Be brief.", opposite="Be long.")
FACT = Preference("I am vegan.", opposite="")

Wish = tuple[float, str, str]  # gain, text, opposite

profiles = st.lists(st.tuples(st.sampled_from(WEIGHTS), st.sampled_from(["", "Be long.", "Be rude."])), max_size=5).map(
    lambda values: [Preference(f"text {i}", w, opposite=o) for i, (w, o) in enumerate(values)]
)
scales = st.sampled_from([0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 5.648699])
contrasts = st.sampled_from(CONTRASTS)


def plan(
    preferences: Sequence[Preference], w: float = 2.0, contrast: Contrast = "base", max_streams: int = 99, **limits
) -> StreamPlan:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return plan_streams(preferences, RealignmentConfig(w, contrast=contrast), max_streams=max_streams, **limits)


def profile(values: Sequence[float], opposite: str = "") -> list[Preference]:
    return [Preference(f"text {i}", weight, opposite=opposite) for i, weight in enumerate(values)]


def coefficients(plan: StreamPlan, mixture: str = "target") -> dict[tuple[str, ...], float]:
    return dict(zip(plan.preferences, getattr(plan.coefficients, mixture), strict=True))


def log_policy(texts: Sequence[str]) -> Tensor:
    """Return a random log-policy in float64, `(V,)`, the same for the same texts."""
    random = torch.Generator().manual_seed(zlib.crc32("\n".join(texts).encode()))
    return torch.randn(20, dtype=torch.float64, generator=random).log_softmax(-1)


def policy(plan: StreamPlan, mixture: str = "target") -> Tensor:
    logits = torch.stack([log_policy(texts) for texts in plan.preferences])
    values = torch.tensor(getattr(plan.coefficients, mixture), dtype=torch.float64)
    return realign_streams(logits, values, values)


def literal_policy(preferences: Sequence[Preference], w: float, contrast: Contrast) -> Tensor:
    """Return log q by the formula, level by level."""
    likes: list[Wish] = []
    dislikes: list[Wish] = []
    for each in preferences:
        gain, opposite = w * each.weight, (each.opposite or "") if contrast == "opposite" else ""
        if gain < 0 and opposite:
            likes.append((-gain, opposite, each.text))
        elif gain:
            (likes if gain > 0 else dislikes).append((abs(gain), each.text, opposite))
    base = log_policy(())
    log_q = max(0.0, 1 - max([0.0, *(gain for gain, _, _ in likes)])) * base
    for gain, following, joint in literal_levels(likes):
        opposites = list(dict.fromkeys(opposite for _, _, opposite in joint if opposite))
        away = {"base": [], "neutral": [NEUTRAL_INSTRUCTION], "opposite": opposites}[contrast]
        log_q = log_q + (gain - following) * log_policy([text for _, text, _ in joint])
        log_q = log_q - (max(gain, 1.0) - max(following, 1.0)) * log_policy(away)
    for gain, following, joint in literal_levels(dislikes):
        log_q = log_q - (gain - following) * (log_policy([text for _, text, _ in joint]) - base)
    return log_q.log_softmax(-1)


def literal_levels(wishes: list[Wish]) -> list[tuple[float, float, list[Wish]]]:
    """Return per level g_j: it, g_{j+1}, and all wishes of gain at least g_j."""
    levels = [*sorted({gain for gain, _, _ in wishes}, reverse=True), 0.0]
    return [(gain, following, [w for w in wishes if w[0] >= gain]) for gain, following in itertools.pairwise(levels)]


def assert_equal(a: Tensor, b: Tensor, atol: float = 1e-9) -> None:
    torch.testing.assert_close(a, b, atol=atol, rtol=0)


# The formula


@given(preferences=profiles, w=scales, contrast=contrasts)
def test_policy_is_the_literal_formula(preferences, w, contrast):
    assert_equal(policy(plan(preferences, w, contrast)), literal_policy(preferences, w, contrast))


@given(preferences=profiles, w=scales, contrast=contrasts)
def test_coefficients_sum_to_one(preferences, w, contrast):
    planned = plan(preferences, w, contrast).coefficients
    for mixture in (planned.target, planned.reference, planned.unsteered):
        assert math.fsum(mixture) == pytest.approx(1, abs=1e-9)


@given(preferences=profiles, w=scales)
def test_contrast_with_the_base_is_realign(preferences, w):
    planned = plan(preferences, w)
    ordered = coefficients(planned)
    likes = [gain for texts, gain in ordered.items() if texts]
    logits = [log_policy(texts) for texts in ordered if texts]
    if likes:
        expected = realign(log_policy(()), torch.stack(logits), 1.0, weights=torch.tensor(likes, dtype=torch.float64))
        assert_equal(policy(planned), expected)


# Which streams run


@pytest.mark.parametrize("contrast", CONTRASTS)
@pytest.mark.parametrize(
    "preferences", [[], profile([0.0]), profile([0.0, 0.0]), [Preference("")], [Preference(" \n")]]
)
def test_no_preference_gives_the_base_stream_alone(preferences, contrast):
    assert plan(preferences, contrast=contrast) == BASE_PLAN


@pytest.mark.parametrize("contrast", CONTRASTS)
def test_scale_zero_gives_the_base_stream_alone(contrast):
    assert plan(profile([1.0, -1.0], "opposite"), 0.0, contrast) == BASE_PLAN


@pytest.mark.parametrize("contrast", CONTRASTS)
@pytest.mark.parametrize(("weight", "w"), [(1.0, 1.0), (0.5, 2.0)])
def test_gain_of_exactly_one_gives_the_preference_stream_alone(weight, w, contrast):
    planned = plan(profile([weight], "opposite"), w, contrast)
    assert (planned.streams, planned.coefficients.target) == ((Stream("preference", ("text 0",)),), (1.0,))
    assert not planned.is_plain


@pytest.mark.parametrize("contrast", CONTRASTS)
@pytest.mark.parametrize("w", [0.3, 0.999, 1.001, 2.0, 50.0])
def test_one_preference_takes_two_streams_at_any_other_gain(w, contrast):
    assert len(plan([OPPOSITE], w, contrast).streams) == 2


def test_equal_weights_share_a_stream():
    assert coefficients(plan(profile([1.0, 1.0]))) == {(): -1.0, ("text 0", "text 1"): 2.0}


def test_weaker_preferences_are_nested_in_the_order_of_the_profile():
    assert coefficients(plan(profile([0.5, 1.0, -1.0, 0.25]))) == {
        (): 1.0,
        ("text 1",): 1.0,
        ("text 0", "text 1"): 0.5,
        ("text 0", "text 1", "text 3"): 0.5,
        ("text 2",): -2.0,
    }


def test_gains_above_and_below_one_share_the_contrast_of_the_stronger():
    preferences = [OPPOSITE, Preference("Be kind.", 1 / 6, opposite="Be rude.")]
    assert coefficients(plan(preferences, 3.0, "opposite")) == pytest.approx(
        {("Be brief.",): 2.5, ("Be brief.", "Be kind."): 0.5, ("Be long.",): -2.0}
    )


def test_neutral_contrast_is_one_stream_for_all_gains():
    assert coefficients(plan(profile([1.0, 0.5, 0.25]), 4.0, "neutral")) == {
        ("text 0",): 2.0,
        ("text 0", "text 1"): 1.0,
        ("text 0", "text 1", "text 2"): 1.0,
        (NEUTRAL_INSTRUCTION,): -3.0,
    }


def test_what_has_no_opposite_is_left_out_of_the_contrast():
    assert coefficients(plan([FACT, OPPOSITE], 3.0, "opposite")) == {
        ("I am vegan.", "Be brief."): 3.0,
        ("Be long.",): -2.0,
    }


@pytest.mark.parametrize("opposite", ["", " \n"])
def test_without_any_opposite_the_contrast_is_the_callers_own_prompt(opposite):
    preferences = profile([1.0, 0.5], opposite)
    assert plan(preferences, 3.0, "opposite") == plan(preferences, 3.0, "base")


@pytest.mark.parametrize("opposite", ["", "x"])
def test_equal_opposites_share_a_stream_and_stand_in_it_once(opposite):
    planned = plan([Preference("a", opposite="x"), Preference("b", 0.6, opposite=opposite)], 5.0, "opposite")
    assert coefficients(planned) == {("a",): 2.0, ("a", "b"): 3.0, ("x",): -4.0}


@given(weight=st.sampled_from([-2.0, -1.0, -0.1, 0.3, 1.0]), w=scales)
def test_a_dislike_is_a_like_of_its_opposite(weight, w):
    mirrored = Preference("Be long.", -weight, opposite="Be brief.")
    others = [FACT, Preference("Be kind.", 0.5, opposite="Be rude.")]
    direct = plan([Preference("Be brief.", weight, opposite="Be long."), *others], w, "opposite")
    assert direct == plan([mirrored, *others], w, "opposite")


@pytest.mark.parametrize("contrast", CONTRASTS)
def test_a_dislike_without_an_opposite_is_subtracted_against_the_base(contrast):
    assert coefficients(plan([Preference("I am vegan.", -1.0, opposite="")], 2.0, contrast)) == {
        (): 3.0,
        ("I am vegan.",): -2.0,
    }


@given(preferences=profiles, w=scales, contrast=contrasts)
def test_every_stream_counts_somewhere_and_no_two_are_equal(preferences, w, contrast):
    planned = plan(preferences, w, contrast)
    values = zip(*(getattr(planned.coefficients, name) for name in ("target", "reference", "unsteered")), strict=True)
    assert all(any(each) for each in values)
    assert len(set(planned.preferences)) == len(planned.streams)


# The reference, and where style is off


@given(preferences=profiles, w=scales, contrast=contrasts)
def test_reference_mixes_the_base_and_the_preferences_only(preferences, w, contrast):
    planned = plan(preferences, w, contrast)
    for stream, value in zip(planned.streams, planned.coefficients.reference, strict=True):
        assert value >= 0
        assert value == 0 or stream.kind != "contrast"


@given(preferences=profiles, w=scales)
def test_reference_does_not_depend_on_the_contrast_if_there_is_no_dislike(preferences, w):
    likes = [each for each in preferences if each.weight > 0]
    base, other = (policy(plan(likes, w, contrast), "reference") for contrast in ("base", "opposite"))
    assert_equal(base, other)


@given(preferences=profiles, w=scales, contrast=contrasts)
def test_without_style_the_gains_are_at_most_one(preferences, w, contrast):
    unsteered = policy(plan(preferences, w, contrast), "unsteered")
    assert_equal(unsteered, policy(plan(preferences, w, contrast, max_gain=1.0)))


@given(preferences=profiles, w=scales.filter(lambda w: w >= 4), contrast=contrasts)
def test_without_style_strong_likes_are_plain_prompting(preferences, w, contrast):
    likes = [each for each in preferences if each.weight > 0]
    unsteered = policy(plan(likes, w, contrast), "unsteered")
    assert_equal(unsteered, log_policy([each.text for each in likes]))


# Continuity, without merging and guards


@given(preferences=profiles, w=st.floats(0, 6), contrast=contrasts)
def test_policy_is_continuous_in_the_scale(preferences, w, contrast):
    assert_equal(policy(plan(preferences, w, contrast)), policy(plan(preferences, w + 1e-7, contrast)), atol=1e-4)


@pytest.mark.parametrize("contrast", CONTRASTS)
@pytest.mark.parametrize("gain", [0.0, 1.0, 2.0])
def test_policy_is_continuous_where_streams_come_and_go(gain, contrast):
    below, at, above = (policy(plan([OPPOSITE], w, contrast)) for w in (max(gain - 1e-7, 0), gain, gain + 1e-7))
    assert_equal(below, at, atol=1e-4)
    assert_equal(at, above, atol=1e-4)


@given(preferences=profiles, index=st.integers(0, 4), step=st.sampled_from([-1e-7, 1e-7]), contrast=contrasts)
def test_policy_is_continuous_in_the_weights(preferences, index, step, contrast):
    """Weights are drawn from few values, so that they are often equal to others, 0, or 1 / w."""
    moved = [
        Preference(each.text, each.weight + step * (i == index), opposite=each.opposite)
        for i, each in enumerate(preferences)
    ]
    assert_equal(policy(plan(preferences, 2.0, contrast)), policy(plan(moved, 2.0, contrast)), atol=1e-4)


@pytest.mark.parametrize("step", [-1e-7, 1e-7])
def test_policy_is_continuous_where_a_like_becomes_a_dislike(step):
    moved = Preference("Be kind.", step, opposite="Be rude.")
    assert_equal(policy(plan([OPPOSITE, moved], 3.0, "opposite")), policy(plan([OPPOSITE], 3.0, "opposite")), 1e-4)


# Merging


@given(preferences=profiles, w=scales, contrast=contrasts, max_streams=st.integers(2, 5))
def test_merging_obeys_max_streams_and_keeps_the_largest_gain(preferences, w, contrast, max_streams):
    planned = plan(preferences, w, contrast, max_streams)
    assert len(planned.streams) <= max_streams
    values = [w * each.weight for each in preferences]
    strongest = max(values, key=lambda v: (abs(v), v), default=0.0)
    if contrast != "opposite":  # which turns dislikes into likes
        others = ((), (NEUTRAL_INSTRUCTION,))  # neither likes nor dislikes
        same_side = [v for texts, v in coefficients(planned).items() if v * strongest > 0 and texts not in others]
        assert sum(same_side) == pytest.approx(strongest)


def test_merging_warns():
    with pytest.warns(UserWarning, match="need 4 prompt streams; max_streams allows 3"):
        planned = plan_streams(profile([1.0, 0.9, 0.2]), RealignmentConfig(2.0), max_streams=3)
    assert coefficients(planned) == pytest.approx(
        {(): -1.0, ("text 0", "text 1"): 1.6, ("text 0", "text 1", "text 2"): 0.4}
    )


def test_two_gains_above_one_take_four_streams_with_their_opposites():
    preferences = [OPPOSITE, Preference("Be kind.", 0.5, opposite="Be rude.")]
    assert len(plan(preferences, 3.0, "opposite").streams) == 4
    assert coefficients(plan(preferences, 3.0, "opposite", max_streams=3)) == {
        ("Be brief.", "Be kind."): 3.0,
        ("Be long.", "Be rude."): -2.0,
    }


def test_the_contrast_becomes_the_base_before_a_preference_is_left_out():
    preferences = [OPPOSITE, Preference("I am vegan.", -0.1, opposite="")]
    merged = plan(preferences, 3.0, "opposite", max_streams=3)
    assert merged == plan(preferences, 3.0, "base")


def test_the_weaker_side_is_left_out_if_two_streams_must_do():
    assert plan(profile([1.0, -0.5]), max_streams=2) == plan(profile([1.0]))


def test_max_streams_below_two_is_refused():
    with pytest.raises(InvalidParameterError, match="at least 2"):
        plan(profile([1.0]), max_streams=1)


# Traces


@given(preferences=profiles, w=scales, contrast=contrasts)
def test_a_traceable_plan_has_the_callers_own_prompt_and_the_same_policies(preferences, w, contrast):
    planned = plan(preferences, w, contrast)
    traceable = planned.traceable
    assert [stream.kind for stream in traceable.streams].count("base") == 1
    assert traceable.streams[: len(planned.streams)] == planned.streams
    for mixture in ("target", "reference", "unsteered"):
        assert_equal(policy(traceable, mixture), policy(planned, mixture))


@given(preferences=profiles, w=scales, contrast=contrasts)
def test_the_compared_policies_are_mixtures_of_the_streams_of_their_kind(preferences, w, contrast):
    traceable = plan(preferences, w, contrast).traceable
    compared = traceable.compared
    kinds = {"base": compared.base, "preference": compared.prompted, "contrast": compared.contrast or ()}
    assert compared.prompted == compared.base or compared.gain_of(compared.prompted) == pytest.approx(1.0)
    for kind, values in kinds.items():
        assert sum(values) == pytest.approx(1.0 if values else 0.0)
        used = {stream.kind for stream, value in zip(traceable.streams, values, strict=False) if value}
        assert used <= {kind, "base"} if kind == "preference" else used <= {kind}


@pytest.mark.parametrize("w", [1.0, 1.5, 4.0])
def test_the_prompted_policy_is_the_reference_from_gain_one_on(w):
    traceable = plan([OPPOSITE], w, "opposite").traceable
    assert traceable.compared.prompted == traceable.coefficients.reference


@pytest.mark.parametrize("contrast", CONTRASTS)
@pytest.mark.parametrize(
    ("weights", "gain"), [([1.0], 3.0), ([0.2], 0.6), ([1.0, 0.5], 3.0), ([-1.0], -3.0), ([], 0.0)]
)
def test_the_gain_of_the_target_is_the_largest_gain_of_the_preferences(contrast, weights, gain):
    traceable = plan(profile(weights), 3.0, contrast).traceable
    assert traceable.compared.gain_of(traceable.coefficients.target) == pytest.approx(gain)


def test_what_an_answer_is_steered_away_from_is_compared_if_it_is_not_the_callers_prompt():
    def contrast_of(preferences, **settings):
        traceable = plan(preferences, **settings).traceable
        return traceable.compared.contrast, [stream.texts for stream in traceable.streams]

    assert contrast_of([OPPOSITE], contrast="opposite") == ((0.0, 1.0, 0.0), [("Be brief.",), ("Be long.",), ()])
    assert contrast_of([OPPOSITE], contrast="base")[0] is None
    assert contrast_of([Preference("Be rude.", -1.0)]) == ((0.0, 1.0), [(), ("Be rude.",)])


def test_steps_of_a_plan_show_no_text():
    assert repr(_Step((_Wish("secret", "terces", 2.0),), 1.0)) == "_Step(wishes=(_Wish(gain=2.0),), size=1.0)"
