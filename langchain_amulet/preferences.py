"""`Preference`, and the plan of prompt streams for a list of weighted preferences."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal, NamedTuple, TypeAlias, get_args

from langchain_amulet.caller_warnings import warn_caller
from langchain_amulet.exceptions import InvalidParameterError, PreferenceError

DEFAULT_MAX_STREAMS = 4
PREFERENCES_SLOT = "{preferences}"
"""The placeholder for the texts of preferences in a wording."""
DEFAULT_WORDING = PREFERENCES_SLOT
"""Prompts contain the texts of preferences and nothing around them."""
MAX_WEIGHT = 100.0

Source: TypeAlias = Literal["stated", "learned"]
"""Where a preference comes from: the user stated it, or it was learned from their feedback."""


@dataclass(frozen=True, slots=True)
class Preference:
    """One preference of a user, in plain words.

    `repr` leaves the text out, so that logs and traces do not show it.

    Raises:
        PreferenceError: `text` is not a string, `weight` is not a number, or `expires_at` is not a `datetime`.
        InvalidParameterError: `text` contains a null character or a lone surrogate, `weight` is outside -100 to 100,
            `source` is neither "stated" nor "learned", or `expires_at` has no time zone.
    """

    text: str
    """An instruction to the model, such as "Answer as concisely as possible."."""
    weight: float = 1.0
    """Strength, from -100 to 100. 0 turns the preference off; a negative weight steers the model away from the text."""
    source: Source = "stated"
    """`"stated"` by the user, or `"learned"` from their feedback."""
    expires_at: datetime | None = None
    """The time from which the preference no longer applies, with a time zone. `None`: it does not expire."""
    opposite: str | None = None
    """The instruction that asks for the opposite, such as "Answer at length.". `None`: looked up in a table of common
    preferences. Empty: it has none."""

    def __post_init__(self) -> None:
        """Check the types and ranges of all fields."""
        if not isinstance(self.text, str):
            msg = f"Not a preference: the text must be a string, got {type(self.text).__name__}. {_REMEDY}"
            raise PreferenceError(msg)
        if any("\ud800" <= character <= "\udfff" for character in self.text):
            msg = "A preference's text contains a lone surrogate, which UTF-8 cannot encode. Decode the text again."
            raise InvalidParameterError(msg)
        if "\0" in self.text:
            msg = "A preference's text contains a null character, which databases refuse. Remove it."
            raise InvalidParameterError(msg)
        if isinstance(self.weight, bool) or not isinstance(self.weight, int | float):
            msg = f"Not a preference: the weight must be a number, got {type(self.weight).__name__}. {_REMEDY}"
            raise PreferenceError(msg)
        if not -MAX_WEIGHT <= self.weight <= MAX_WEIGHT:
            msg = (
                f"A preference's weight must be from {-MAX_WEIGHT:g} to {MAX_WEIGHT:g}, got {self.weight!r}. "
                f"1 is a like, -1 a dislike, 0 turns it off."
            )
            raise InvalidParameterError(msg)
        if self.source not in get_args(Source):
            msg = f'A preference\'s source must be "stated" or "learned", got {self.source!r}.'
            raise InvalidParameterError(msg)
        self._check_expiry()

    def _check_expiry(self) -> None:
        if self.expires_at is None:
            return
        if not isinstance(self.expires_at, datetime):
            msg = f"Not a preference: expires_at must be a datetime or None, got {type(self.expires_at).__name__}."
            raise PreferenceError(msg)
        if self.expires_at.utcoffset() is None:
            msg = "expires_at has no time zone. Give one, for example datetime.now(UTC) + timedelta(days=30)."
            raise InvalidParameterError(msg)

    def __repr__(self) -> str:
        """Show the weight, and the source and expiry if they are not the defaults, but never the text."""
        fields = [f"weight={self.weight!r}"]
        if self.source != "stated":
            fields.append(f"source={self.source!r}")
        if self.expires_at is not None:
            fields.append(f"expires_at={self.expires_at.isoformat()!r}")
        return f"Preference({', '.join(fields)})"

    @property
    def is_expired(self) -> bool:
        """Whether `expires_at` has passed."""
        return self.expires_at is not None and self.expires_at <= datetime.now(UTC)


_REMEDY = 'Give a string, Preference("...", weight=1.0), a list of those, or None for a plain answer.'

PreferenceLike: TypeAlias = str | Preference | Sequence[str | Preference] | None
"""Any form in which preferences are accepted. `None` and an empty list mean a plain answer."""


def as_preferences(value: PreferenceLike) -> tuple[Preference, ...]:
    """Convert a string, a `Preference`, a sequence of these, or `None` to a tuple of `Preference`.

    Raises:
        PreferenceError: `value` has another type.
        InvalidParameterError: A text contains a null character or a lone surrogate.
    """
    if value is None:
        return ()
    if isinstance(value, str | Preference):
        value = [value]
    if not isinstance(value, Sequence) or isinstance(value, bytes):
        msg = f"Not a preference: got {type(value).__name__}. {_REMEDY}"
        raise PreferenceError(msg)
    return tuple(item if isinstance(item, Preference) else Preference(item) for item in value)


class StreamPlan(NamedTuple):
    """The prompt streams for a list of preferences, the base stream first."""

    preferences: tuple[tuple[str, ...], ...]
    """Per stream, the preference texts in its prompt."""
    weights: tuple[float, ...]
    """Per stream after the first, its weight v. Empty if there is only one stream."""

    def __repr__(self) -> str:
        """Show how many texts each stream has, but never a text."""
        return f"StreamPlan(num_texts={[len(texts) for texts in self.preferences]}, weights={self.weights})"


class _Step(NamedTuple):
    texts: tuple[str, ...]
    size: float


def plan_streams(
    preferences: Sequence[Preference], guidance_scale: float, *, max_streams: int = DEFAULT_MAX_STREAMS
) -> StreamPlan:
    """Plan the fewest prompt streams that express a user's weighted preferences.

    Sort the distinct positive weights, u_1 > ... > u_m > u_{m+1} = 0. The prompt of stream j contains all preferences
    of weight at least u_j, and the stream has the weight u_j − u_{j+1}. So preferences of equal weight share a stream,
    the stream weights sum to the largest preference weight, and the policy is continuous in the weights. Negative
    weights are treated the same way by |weight|, and their streams are subtracted.

    One stream is enough in two cases: the base stream if there are no preferences or `guidance_scale` is 0, and the
    preference stream if it is the only one and its weight times `guidance_scale` is exactly 1.

    Args:
        preferences: The user's preferences, in the order in which a prompt lists them.
        guidance_scale: w, dimensionless.
        max_streams: The maximum number of streams, including the base stream. If more are needed, the closest weights
            are treated as equal, with a warning.

    Raises:
        InvalidParameterError: `max_streams` is less than 2, and there is a preference to follow.
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
    """Return a step per distinct |weight|, in falling order.

    A step contains all texts of at least this |weight|; its size is the difference to the next |weight|, or to 0.
    """
    levels = sorted({abs(p.weight) for p in preferences}, reverse=True)
    return [
        _Step(tuple(p.text for p in preferences if abs(p.weight) >= level), level - following)
        for level, following in zip(levels, [*levels, 0.0][1:], strict=True)
    ]


def _merge_smallest(likes: list[_Step], dislikes: list[_Step], max_steps: int) -> None:
    """Merge the smallest steps in place until at most `max_steps` are left; the largest weight does not change."""
    if max_steps < 1:
        msg = f"max_streams must be at least 2 (the base stream and one more), got {max_steps + 1}."
        raise InvalidParameterError(msg)
    if len(likes) + len(dislikes) > max_steps:
        msg = (
            f"These preferences need {1 + len(likes) + len(dislikes)} prompt streams; max_streams allows "
            f"{1 + max_steps}. The closest weights are treated as equal. Use fewer distinct weights, or raise "
            "max_streams."
        )
        warn_caller(msg)
    while len(likes) + len(dislikes) > max_steps:
        side = min((side for side in (dislikes, likes) if side), key=lambda side: min(step.size for step in side))
        index = min(range(len(side)), key=lambda i: side[i].size)
        size = side.pop(index).size
        if side:  # add its size to the next weaker step, or to the last one
            neighbour = min(index, len(side) - 1)
            side[neighbour] = side[neighbour]._replace(size=side[neighbour].size + size)
