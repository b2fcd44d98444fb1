"""`Preference`: what a user prefers, in plain words."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal, TypeAlias, get_args

from langchain_amulet.exceptions import InvalidParameterError, PreferenceError

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

    `repr` leaves out the text and the opposite, so that logs and traces do not show them.

    Raises:
        PreferenceError: `text` or `opposite` is not a string, `weight` is not a number, or `expires_at` is not a
            `datetime`.
        InvalidParameterError: `text` or `opposite` contains a null character or a lone surrogate, `weight` is outside
            -100 to 100, `source` is neither "stated" nor "learned", or `expires_at` has no time zone.
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
        _check_text(self.text, "text")
        if self.opposite is not None:
            _check_text(self.opposite, "opposite")
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
        """Show the weight, and the source and expiry if they are not the defaults, but neither text nor opposite."""
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


def _check_text(text: object, name: str) -> None:
    if not isinstance(text, str):
        msg = f"Not a preference: the {name} must be a string, got {type(text).__name__}. {_REMEDY}"
        raise PreferenceError(msg)
    if any("\ud800" <= character <= "\udfff" for character in text):
        msg = f"A preference's {name} contains a lone surrogate, which UTF-8 cannot encode. Decode the text again."
        raise InvalidParameterError(msg)
    if "\0" in text:
        msg = f"A preference's {name} contains a null character, which databases refuse. Remove it."
        raise InvalidParameterError(msg)


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
