"""What a user prefers, and which prompt streams that takes."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal, NamedTuple, TypeAlias, get_args

from langchain_amulet.exceptions import InvalidParameterError, PreferenceError

DEFAULT_MAX_STREAMS = 4
PREFERENCES_SLOT = "{preferences}"
DEFAULT_WORDING = PREFERENCES_SLOT
MAX_WEIGHT = 100.0

Source: TypeAlias = Literal["stated", "learned"]
"""Where a preference comes from: the user has said it, or it was learned from what they liked."""


@dataclass(frozen=True, slots=True)
class Preference:
    """One thing that a user prefers, in plain words.

    The text stays out of `repr`, so that logs and traces that print a preference do not show it.

    Raises:
        PreferenceError: `text` is not a string, or `expires_at` no time.
        InvalidParameterError: `weight` is not a number from -100 to 100, `text` is none that can be kept, `source` is
            none of the two, or `expires_at` has no time zone.
    """

    text: str
    """An instruction to the model, such as "Answer as concisely as possible."."""
    weight: float = 1.0
    """How much it counts. 0 is off; below 0 is a dislike: the model is steered away from what the text asks for."""
    source: Source = "stated"
    """Whether the user has said it, or it was learned from their feedback."""
    expires_at: datetime | None = None
    """From when on it does not count any more; with a time zone. `None`: it stays."""

    def __post_init__(self) -> None:
        """Refuse what is no preference."""
        if not isinstance(self.text, str):
            msg = f"A preference is a text, got {type(self.text).__name__}. {_REMEDY}"
            raise PreferenceError(msg)
        if any("\ud800" <= character <= "\udfff" for character in self.text):
            msg = "A preference's text holds half a character (a lone surrogate), which no prompt can. Decode it anew."
            raise InvalidParameterError(msg)
        if "\0" in self.text:
            msg = "A preference's text holds a null character, which databases refuse. Leave it out."
            raise InvalidParameterError(msg)
        if isinstance(self.weight, bool) or not isinstance(self.weight, int | float):
            msg = f"A preference's weight is a number, got {type(self.weight).__name__}. {_REMEDY}"
            raise PreferenceError(msg)
        if not -MAX_WEIGHT <= self.weight <= MAX_WEIGHT:
            msg = (
                f"A preference's weight must be from {-MAX_WEIGHT:g} to {MAX_WEIGHT:g}, got {self.weight!r}. "
                f"1 is a like, -1 a dislike, 0 is off."
            )
            raise InvalidParameterError(msg)
        if self.source not in get_args(Source):
            msg = f'A preference\'s source is "stated" or "learned", got {self.source!r}.'
            raise InvalidParameterError(msg)
        self._check_expiry()

    def _check_expiry(self) -> None:
        if self.expires_at is None:
            return
        if not isinstance(self.expires_at, datetime):
            msg = f"A preference expires at a datetime, got {type(self.expires_at).__name__}."
            raise PreferenceError(msg)
        if self.expires_at.utcoffset() is None:
            msg = "The time when a preference expires has no time zone. Give one: datetime.now(UTC) + timedelta(...)."
            raise InvalidParameterError(msg)

    def __repr__(self) -> str:
        """What is not as always, and never the text."""
        told = [f"weight={self.weight!r}"]
        if self.source != "stated":
            told.append(f"source={self.source!r}")
        if self.expires_at is not None:
            told.append(f"expires_at={self.expires_at.isoformat()!r}")
        return f"Preference({', '.join(told)})"

    @property
    def is_expired(self) -> bool:
        """Whether its time is over."""
        return self.expires_at is not None and self.expires_at <= datetime.now(UTC)


_REMEDY = 'Give a string, Preference("...", weight=1.0), a list of those, or None for a plain answer.'

PreferenceLike: TypeAlias = str | Preference | Sequence[str | Preference] | None
"""What users may write where preferences are expected. `None` and an empty list are a plain answer."""


def as_preferences(value: PreferenceLike) -> tuple[Preference, ...]:
    """Normalise what a user wrote to preferences.

    Raises:
        PreferenceError: `value` is neither a string, a `Preference`, a sequence of them, nor `None`.
    """
    if value is None:
        return ()
    if isinstance(value, str | Preference):
        value = [value]
    if not isinstance(value, Sequence) or isinstance(value, bytes):
        msg = f"A preference cannot be a {type(value).__name__}. {_REMEDY}"
        raise PreferenceError(msg)
    return tuple(item if isinstance(item, Preference) else Preference(item) for item in value)


class StreamPlan(NamedTuple):
    """The prompt streams that a profile takes, the base stream first."""

    preferences: tuple[tuple[str, ...], ...]
    """Per stream, the preference texts that its prompt holds."""
    weights: tuple[float, ...]
    """Per stream after the first, its weight v. Empty when one stream says it all."""


class _Step(NamedTuple):
    texts: tuple[str, ...]
    size: float


def plan_streams(
    preferences: Sequence[Preference], guidance_scale: float, *, max_streams: int = DEFAULT_MAX_STREAMS
) -> StreamPlan:
    """Turn a user's weighted preferences into as few prompt streams as say the same.

    With the positive weights sorted, u_1 > ... > u_m > u_{m+1} = 0, stream j is prompted with all preferences of weight
    at least u_j and enters with weight u_j − u_{j+1}. So equal weights share a stream, the total is the largest weight
    and not the sum, and the policy is continuous in the weights. Dislikes go likewise by |weight|, subtracted.

    One stream is enough where the realigned policy is one of the model's own: the base stream for no preference or a
    guidance scale of 0, the preference stream for one step whose gain is exactly 1.

    Args:
        preferences: The user's profile, in the order in which a prompt should list it.
        guidance_scale: w, dimensionless.
        max_streams: The most streams to run, the base stream included. Beyond it the smallest steps are merged, with a
            warning.
    """
    likes = _steps([p for p in preferences if p.weight > 0 and p.text.strip()])
    dislikes = _steps([p for p in preferences if p.weight < 0 and p.text.strip()])
    if guidance_scale == 0 or not (likes or dislikes):
        return StreamPlan(((),), ())
    _merge_smallest(likes, dislikes, max_streams - 1)
    steps = likes + [step._replace(size=-step.size) for step in dislikes]
    if len(steps) == 1 and steps[0].size * guidance_scale == 1:
        return StreamPlan((steps[0].texts,), ())
    return StreamPlan(((), *(step.texts for step in steps)), tuple(step.size for step in steps))


def _steps(preferences: list[Preference]) -> list[_Step]:
    """Nested steps by falling |weight|: everything at least this strong, and the distance to the next level."""
    levels = sorted({abs(p.weight) for p in preferences}, reverse=True)
    return [
        _Step(tuple(p.text for p in preferences if abs(p.weight) >= level), level - following)
        for level, following in zip(levels, [*levels, 0.0][1:], strict=True)
    ]


def _merge_smallest(likes: list[_Step], dislikes: list[_Step], max_steps: int) -> None:
    """Round the smallest steps to zero until at most `max_steps` are left, keeping the largest weight what it is."""
    if max_steps < 1:
        msg = f"max_streams must be at least 2, the base stream and one more; got {max_steps + 1}."
        raise InvalidParameterError(msg)
    if len(likes) + len(dislikes) > max_steps:
        msg = (
            f"These preferences take {1 + len(likes) + len(dislikes)} prompt streams; max_streams allows "
            f"{1 + max_steps}, so the closest weights are treated as equal. Use fewer distinct weights, or raise it."
        )
        warnings.warn(msg, stacklevel=2)
    while len(likes) + len(dislikes) > max_steps:
        side = min((side for side in (dislikes, likes) if side), key=lambda side: min(step.size for step in side))
        index = min(range(len(side)), key=lambda i: side[i].size)
        size = side.pop(index).size
        if side:  # its neighbour takes over: the next weaker level, or the last one left
            neighbour = min(index, len(side) - 1)
            side[neighbour] = side[neighbour]._replace(size=side[neighbour].size + size)
