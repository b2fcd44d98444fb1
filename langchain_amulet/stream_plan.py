"""`plan_streams`: the prompt streams that express weighted preferences, and how much each of them counts."""

import math
from collections import defaultdict
from collections.abc import Sequence
from typing import Literal, NamedTuple, TypeAlias

from langchain_amulet.caller_warnings import warn_caller
from langchain_amulet.exceptions import InvalidParameterError
from langchain_amulet.opposites import opposite_of
from langchain_amulet.preferences import Preference
from langchain_amulet.realignment import RealignmentConfig, StreamCoefficients
from langchain_amulet.realignment.coefficients import reference_gains, with_base
from langchain_amulet.realignment.comparison import ComparedPolicies
from langchain_amulet.realignment.config import Contrast

DEFAULT_MAX_STREAMS = 4
NEUTRAL_INSTRUCTION = "Answer in your usual way."
"""What prompts contain in place of preferences, if these are contrasted with a neutral instruction."""

StreamKind: TypeAlias = Literal["base", "preference", "contrast"]
_NEGLIGIBLE = 1e-9  # a coefficient that comes from rounding


class Stream(NamedTuple):
    """One prompt stream."""

    kind: StreamKind
    texts: tuple[str, ...]
    """The preferences in its prompt, or what stands in their place. Empty for the caller's own prompt."""

    def __repr__(self) -> str:
        """Show how many texts the stream has, but never a text."""
        return f"Stream({self.kind!r}, num_texts={len(self.texts)})"


class StreamPlan(NamedTuple):
    """The prompt streams for a list of preferences."""

    streams: tuple[Stream, ...]
    """The caller's own prompt first, if it is among them; then preferences, then contrasts."""
    coefficients: StreamCoefficients
    """How much each stream counts."""

    @property
    def preferences(self) -> tuple[tuple[str, ...], ...]:
        """Per stream, the texts in its prompt."""
        return tuple(stream.texts for stream in self.streams)

    @property
    def is_plain(self) -> bool:
        """Whether the caller's own prompt is the only stream."""
        return [stream.kind for stream in self.streams] == ["base"]

    @property
    def traceable(self) -> "StreamPlan":
        """This plan with the caller's own prompt at the end, without effect, if it is not among the streams."""
        if any(stream.kind == "base" for stream in self.streams):
            return self
        target, reference, unsteered = (
            self.coefficients.target,
            self.coefficients.reference,
            self.coefficients.unsteered,
        )
        coefficients = StreamCoefficients((*target, 0.0), (*reference, 0.0), (*unsteered, 0.0))
        return StreamPlan((*self.streams, Stream("base", ())), coefficients)

    @property
    def compared(self) -> ComparedPolicies:
        """What a trace compares the answer with. The plan contains the caller's own prompt.

        Plain prompting is the reference policy without its part of the caller's prompt. Where all preferences are
        dislikes, it is the caller's prompt.
        """
        base = self._share("base", [1.0] * len(self.streams))
        assert base is not None, "a traceable plan contains the caller's own prompt"
        prompted = self._share("preference", self.coefficients.reference)
        steered: StreamKind = "preference" if prompted else "contrast"
        return ComparedPolicies(
            base,
            prompted or base,
            self._share("contrast", [-value for value in self.coefficients.target]),
            tuple(float(stream.kind == steered) for stream in self.streams),
        )

    def _share(self, kind: StreamKind, values: Sequence[float]) -> tuple[float, ...] | None:
        """Return the positive values of the streams of one kind, scaled to the sum 1; `None` if there are none."""
        kept = [max(value, 0.0) * (stream.kind == kind) for stream, value in zip(self.streams, values, strict=True)]
        return tuple(value / math.fsum(kept) for value in kept) if any(kept) else None


BASE_PLAN = StreamPlan((Stream("base", ()),), StreamCoefficients((1.0,), (1.0,), (1.0,)))
"""The plan of an answer without preferences."""


class _Wish(NamedTuple):
    text: str
    opposite: str  # empty if it has none
    gain: float

    def __repr__(self) -> str:  # tools that record local variables show it
        return f"_Wish(gain={self.gain})"


class _Step(NamedTuple):
    wishes: tuple[_Wish, ...]
    size: float  # by how much its gain exceeds the next one, above 0


def plan_streams(
    preferences: Sequence[Preference],
    realignment: RealignmentConfig,
    *,
    max_streams: int = DEFAULT_MAX_STREAMS,
    max_gain: float = math.inf,
) -> StreamPlan:
    """Plan the fewest prompt streams that express a user's weighted preferences.

    The gain of a preference is g = w · weight. Sort the distinct positive gains, g_1 > ... > g_m > g_{m+1} = 0. The
    prompt of stream p_j contains all preferences of gain at least g_j, and that of o_j what they are contrasted with:

        log q = max(0, 1 − g_1) log base + Σ_j (g_j − g_{j+1}) log p_j − Σ_j a_j log o_j − log Z
        a_j = max(g_j, 1) − max(g_{j+1}, 1)

    So up to gain 1 the policy moves from the caller's prompt to the prompted one, and beyond 1 away from the contrast.
    With the caller's prompt as contrast, this is log base + Σ_j (g_j − g_{j+1}) (log p_j − log base). Preferences of
    equal gain share a stream, the coefficients sum to 1, and the policy is continuous in gains and weights.

    A dislike is a like of its opposite if preferences are contrasted with opposites and it has one; otherwise
    Σ_j (h_j − h_{j+1}) (log d_j − log base) is subtracted, for gains −h_j and prompts d_j built the same way.

    Streams whose coefficients are all 0 are left out, and equal ones are one. So a single preference takes two streams
    at any gain, but one at gain 0 (the caller's prompt) and at gain 1 (plain prompting).

    Args:
        preferences: The user's preferences, in the order in which a prompt lists them.
        realignment: Its guidance scale w and its contrast.
        max_streams: The maximum number of streams. If more are needed, the closest gains are treated as equal, 0 among
            them, with a warning. Before that leaves out all likes or all dislikes, the caller's prompt becomes the
            contrast.
        max_gain: Larger gains are lowered to it.

    Raises:
        InvalidParameterError: `max_streams` is less than 2.
    """
    if max_streams < 2:  # noqa: PLR2004
        msg = f"max_streams must be at least 2, got {max_streams}."
        raise InvalidParameterError(msg)
    wishes = [_wish(each, realignment, max_gain) for each in preferences if each.text.strip()]
    likes = _steps([wish for wish in wishes if wish.gain > 0])
    dislikes = _steps([wish for wish in wishes if wish.gain < 0])
    plan = _planned(likes, dislikes, realignment.contrast)
    return plan if len(plan.streams) <= max_streams else _merged(likes, dislikes, realignment.contrast, max_streams)


def _wish(preference: Preference, realignment: RealignmentConfig, max_gain: float) -> _Wish:
    gain = preference.weight * realignment.guidance_scale
    limited = math.copysign(min(abs(gain), max_gain), gain)
    opposite = (opposite_of(preference) or "").strip() if realignment.contrast == "opposite" else ""
    if limited < 0 and opposite:
        return _Wish(opposite, preference.text, -limited)
    return _Wish(preference.text, opposite, limited)


def _steps(wishes: list[_Wish]) -> list[_Step]:
    """Return a step per distinct |gain|, in falling order.

    A step contains all wishes of at least this |gain|; its size is the difference to the next |gain|, or to 0.
    """
    levels = sorted({abs(wish.gain) for wish in wishes}, reverse=True)
    return [
        _Step(tuple(wish for wish in wishes if abs(wish.gain) >= level), level - following)
        for level, following in zip(levels, [*levels, 0.0][1:], strict=True)
    ]


def _planned(likes: list[_Step], dislikes: list[_Step], contrast: Contrast) -> StreamPlan:
    """Return the plan of these steps, whatever the number of its streams."""
    streams = [
        Stream("base", ()),
        *(Stream("preference", _texts(step)) for step in likes),
        *(Stream("contrast", _texts(step)) for step in dislikes),
        *(Stream("contrast", _contrast_texts(step, contrast)) for step in likes),
    ]
    gains, losses = _levels(likes), _levels(dislikes)
    target = _target(gains, losses)
    near = with_base(reference_gains([step.size for step in likes]))
    reference = [*near, *([0.0] * (len(streams) - len(near)))]
    unsteered = _target([min(gain, 1.0) for gain in gains], [min(loss, 1.0) for loss in losses])
    return _distinct(streams, target, reference, unsteered)


def _texts(step: _Step) -> tuple[str, ...]:
    return tuple(wish.text for wish in step.wishes)


def _contrast_texts(step: _Step, contrast: Contrast) -> tuple[str, ...]:
    if contrast == "neutral":
        return (NEUTRAL_INSTRUCTION,)
    opposites = dict.fromkeys(wish.opposite for wish in step.wishes if wish.opposite)  # several may have the same
    return tuple(opposites) if contrast == "opposite" else ()


def _levels(steps: list[_Step]) -> list[float]:
    """Return the |gain| of each step: its size and those of all weaker steps."""
    return [math.fsum(step.size for step in steps[i:]) for i in range(len(steps))]


def _target(gains: list[float], losses: list[float]) -> list[float]:
    """Return the coefficients of base, p_j, d_j and o_j, as `plan_streams` lists them."""
    base = max(0.0, 1 - max(gains, default=0.0)) + max(losses, default=0.0)
    beyond = [max(gain, 1.0) for gain in gains]
    return [
        base,
        *_falls(gains, 0.0),
        *(-fall for fall in _falls(losses, 0.0)),
        *(-fall for fall in _falls(beyond, 1.0)),
    ]


def _falls(levels: list[float], last: float) -> list[float]:
    """Return by how much each level exceeds the next one, and the last one exceeds `last`."""
    return [level - following for level, following in zip(levels, [*levels, last][1:], strict=True)]


def _distinct(streams: list[Stream], *mixtures: list[float]) -> StreamPlan:
    """Return the plan with one stream per prompt, without streams that count nowhere."""
    totals: dict[tuple[str, ...], list[float]] = defaultdict(lambda: [0.0] * len(mixtures))
    kept: dict[tuple[str, ...], Stream] = {}
    for stream, values in zip(streams, zip(*mixtures, strict=True), strict=True):
        kept.setdefault(stream.texts, stream)
        totals[stream.texts] = [total + value for total, value in zip(totals[stream.texts], values, strict=True)]
    rounded = {texts: [0.0 if abs(each) < _NEGLIGIBLE else each for each in values] for texts, values in totals.items()}
    used = [texts for texts, values in rounded.items() if any(values)]
    columns = zip(*(rounded[texts] for texts in used), strict=True)
    return StreamPlan(tuple(kept[texts] for texts in used), StreamCoefficients(*columns))


def _merged(likes: list[_Step], dislikes: list[_Step], contrast: Contrast, max_streams: int) -> StreamPlan:
    """Return a plan with at most `max_streams` streams, in which the largest gain does not change."""
    plan = _planned(likes, dislikes, contrast)
    msg = (
        f"These preferences need {len(plan.streams)} prompt streams; max_streams allows {max_streams}. The closest "
        f"weights are treated as equal. Use fewer distinct weights, or raise max_streams."
    )
    warn_caller(msg)
    while len(plan.streams) > max_streams:
        min_steps = 1 if contrast == "base" else 2  # a side that loses its only step is left out
        if sides := [steps for steps in (dislikes, likes) if len(steps) >= min_steps]:
            _merge_smallest(min(sides, key=lambda steps: min(step.size for step in steps)))
        else:
            contrast = "base"
        plan = _planned(likes, dislikes, contrast)
    return plan


def _merge_smallest(steps: list[_Step]) -> None:
    """Add the smallest step in place to the next weaker one, or to the last one; an only step is removed."""
    index = min(range(len(steps)), key=lambda i: steps[i].size)
    size = steps.pop(index).size
    if steps:
        neighbour = min(index, len(steps) - 1)
        steps[neighbour] = steps[neighbour]._replace(size=steps[neighbour].size + size)
