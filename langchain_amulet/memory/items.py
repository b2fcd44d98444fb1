"""The items that a memory writes to a store, and their conversion from and to JSON."""

import hashlib
import json
import secrets
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, Literal, NamedTuple, TypeAlias, cast, get_args

from langgraph.store.base import Item, SearchItem

from langchain_amulet.exceptions import StoredPreferenceError
from langchain_amulet.preferences import MAX_WEIGHT, Preference

PREFERENCES = "preferences"
HISTORY = "preference_history"
FEEDBACK = "preference_feedback"

WEIGHTS_KEY = "learned_weights"
"""The key of the item that holds learned weights. It is stored beside the preferences, so that learning never changes
what users have stated."""

_END_NS = 253_402_300_799_000_000_000  # the year 10000
_MAX_GAIN = 1e6  # nats per token; far beyond what a model yields, and squares of it are finite

Action: TypeAlias = Literal["remembered", "changed"]
FeedbackKind: TypeAlias = Literal["liked", "disliked", "comparison"]


@dataclass(frozen=True, slots=True)
class PreferenceChange:
    """One entry of a user's history."""

    at: datetime
    """The time of the change, in UTC."""
    action: Action
    """Whether the preference was new, or replaced an earlier version."""
    preference: Preference
    """The preference after the change."""


class StoredPreference(NamedTuple):
    """A preference as read from a store."""

    preference: Preference
    """The preference with its effective weight: the learned one, if there is one."""
    stated_weight: float
    """The weight with which the preference was remembered."""


def key_of(text: str) -> str:
    """Return the key of a preference: the SHA-256 of its text, so that all programs use the same key."""
    return hashlib.sha256(text.encode()).hexdigest()


def new_change_key() -> str:
    """Return a new key that sorts by time and is unique among all writers."""
    return f"{time.time_ns():020d}-{secrets.token_hex(8)}"


def to_fields(preference: Preference) -> dict[str, Any]:
    """Convert a preference to JSON; `source`, `expires_at` and `opposite` are left out if they have their defaults."""
    # Some stores refuse subclasses of numbers, such as NumPy's.
    weight = float(preference.weight) if isinstance(preference.weight, float) else int(preference.weight)
    fields: dict[str, Any] = {"text": preference.text, "weight": weight}
    if preference.source != "stated":
        fields["source"] = preference.source
    if preference.expires_at is not None:
        fields["expires_at"] = preference.expires_at.isoformat()
    if preference.opposite is not None:
        fields["opposite"] = preference.opposite
    return fields


def from_fields(fields: Mapping[str, Any]) -> Preference:
    """Convert JSON to a preference.

    Raises:
        StoredPreferenceError: A field is missing or has a wrong type or value.
    """
    if (preference := preference_in(fields)) is None:
        msg = "A stored preference needs a text and a weight."  # without its text, which is private
        raise StoredPreferenceError(msg)
    return preference


def preference_in(fields: Any) -> Preference | None:
    """Convert JSON to a preference; return `None` if a field is missing or has a wrong type or value.

    It raises nothing, since the errors of the date parser quote the field.
    """
    try:
        expires_at = fields.get("expires_at")
        return Preference(
            fields["text"],
            fields["weight"],
            fields.get("source", "stated"),
            None if expires_at is None else datetime.fromisoformat(expires_at),
            fields.get("opposite"),
        )
    except (KeyError, TypeError, ValueError, AttributeError):
        return None


def to_value(user_id: str, preference: Preference, lineage: str) -> dict[str, Any]:
    """Return the value of a preference's item.

    Args:
        user_id: The user, also stored in the value since the namespace holds only a hash of a long id.
        preference: The preference to store.
        lineage: An id that all versions of this preference share in the history.
    """
    return {
        **to_fields(preference),
        "user_id": printable(user_id),
        "remembered_at": time.time_ns(),  # some stores round their own times to seconds
        "lineage": lineage,
    }


def printable(user_id: str) -> str:
    """Return the id with escapes for characters that stores refuse: PostgreSQL's JSON allows no null character."""
    return user_id.encode(errors="backslashreplace").decode().replace("\0", "\\x00")


def to_stored_preferences(items: Sequence[SearchItem]) -> list[StoredPreference]:
    """Convert items to preferences, without expired ones, in the order in which they were first remembered.

    Raises:
        StoredPreferenceError: An item is not a preference.
    """
    learned = learned_weights(items)
    stated = [_read(item) for item in in_order(items)]
    return [with_learned_weight(preference, learned) for preference in stated if not preference.is_expired]


def in_order(items: Sequence[SearchItem]) -> list[SearchItem]:
    """Sort the items of preferences by the time of their first version. Items without a time come first."""

    def place(item: SearchItem) -> tuple[int, str]:
        at_ns = item.value.get("remembered_at")
        return (at_ns if isinstance(at_ns, int) else 0, item.key)

    return sorted((item for item in items if item.key != WEIGHTS_KEY), key=place)


def learned_weights(items: Sequence[Item]) -> dict[str, Any]:
    """Return, by key of a preference, its learned weight and the stated weight at the time of learning."""
    return next((dict(item.value) for item in items if item.key == WEIGHTS_KEY), {})


def to_learned_value(weights: Mapping[str, tuple[float, float]]) -> dict[str, Any]:
    """Return the value of the item of learned weights, from (stated, learned) weights by preference text."""
    return {key_of(text): {"stated": stated, "learned": learned} for text, (stated, learned) in weights.items()}


def is_weight(value: Any) -> bool:
    """Whether this is a number in the range of weights. NaN and booleans are not."""
    return not isinstance(value, bool) and isinstance(value, int | float) and -MAX_WEIGHT <= value <= MAX_WEIGHT


def with_learned_weight(stated: Preference, learned: Mapping[str, Any]) -> StoredPreference:
    """Return a preference with its learned weight, unless the user has stated another weight since.

    A learned weight that is not a weight is ignored, so that it does not make the preference unreadable.
    """
    match learned.get(key_of(stated.text)):
        case {"stated": stated_then, "learned": weight} if stated_then == stated.weight and is_weight(weight):
            return StoredPreference(replace(stated, weight=weight), stated.weight)
    return StoredPreference(stated, stated.weight)


def _read(item: SearchItem) -> Preference:
    if (preference := preference_in(item.value)) is None:
        msg = (
            f"The item {item.key} in {item.namespace} is not a preference: it needs a text and a weight. "
            f"Delete it, or write it with PreferenceMemory.remember."
        )
        raise StoredPreferenceError(msg)
    return preference


def to_change(value: Mapping[str, Any]) -> PreferenceChange:
    """Convert the value of an item to an entry of the history.

    Raises:
        StoredPreferenceError: A field is missing or has a wrong type or value.
    """
    if (change := change_in(value)) is None:
        msg = "A stored change of a preference needs a preference, a time and an action."
        raise StoredPreferenceError(msg)
    return change


def change_in(value: Mapping[str, Any]) -> PreferenceChange | None:
    """Convert the value of an item to an entry of the history; return `None` if a field is missing or wrong."""
    preference, at, action = preference_in(value), time_in(value.get("at_ns")), value.get("action")
    if preference is None or at is None or action not in get_args(Action):
        return None
    return PreferenceChange(at, cast("Action", action), preference)


def time_in(at_ns: Any) -> datetime | None:
    """Convert nanoseconds since 1970 to a time; return `None` if they are not a number in the range of dates."""
    if isinstance(at_ns, bool) or not isinstance(at_ns, int | float) or not 0 <= at_ns < _END_NS:
        return None
    return datetime.fromtimestamp(at_ns / 1e9, UTC)


def to_change_value(preference: Preference, action: Action, lineage: str) -> dict[str, Any]:
    """Return the value of an item of the history."""
    return {**to_fields(preference), "action": action, "at_ns": time.time_ns(), "lineage": lineage}


@dataclass(frozen=True, slots=True)
class FeedbackEvent:
    """One piece of feedback. It contains the evidence for each preference, but not the judged text."""

    at_ns: int
    """Nanoseconds since 1970."""
    kind: FeedbackKind
    evidence: Mapping[str, float] = field(repr=False)
    """By key of a preference: the mean log-probability gain of the response, in nats per token. For a comparison, the
    gain of the better response minus the gain of the worse one."""


def to_event(value: Mapping[str, Any]) -> FeedbackEvent:
    """Convert the value of an item to a piece of feedback.

    Raises:
        StoredPreferenceError: A field is missing or has a wrong type or value.
    """
    if (event := event_in(value)) is None:
        msg = "A stored piece of feedback needs a time, a kind and finite evidence. Delete the item."
        raise StoredPreferenceError(msg)
    return event


def event_in(value: Mapping[str, Any]) -> FeedbackEvent | None:
    """Convert the value of an item to a piece of feedback; return `None` if a field is missing or wrong."""
    match value:
        case {"at_ns": int() as at_ns, "kind": str() as kind, "evidence": {**evidence}} if (
            time_in(at_ns) is not None and kind in get_args(FeedbackKind) and all(map(_is_gain, evidence.values()))
        ):
            return FeedbackEvent(at_ns, cast("FeedbackKind", kind), cast("dict[str, float]", evidence))
    return None


def _is_gain(value: Any) -> bool:
    return not isinstance(value, bool) and isinstance(value, int | float) and abs(value) <= _MAX_GAIN


def to_event_value(event: FeedbackEvent) -> dict[str, Any]:
    """Return the value of an item of feedback."""
    return {"at_ns": event.at_ns, "kind": event.kind, "evidence": dict(event.evidence)}


def memories_to_preferences(items: Sequence[SearchItem]) -> list[Preference]:
    """Convert items of langmem's tools to preferences of weight 1, in the order in which they were written.

    An item is `{"content": ...}`, where the content is a text or an object of some schema; its `"kind"` may be
    the name of the schema. An object becomes a text that lists its fields in the order of their names.
    """
    ordered = sorted(items, key=lambda item: (item.updated_at, item.key))
    texts = [usable("; ".join(_lines(item.value.get("content")))) for item in ordered]
    return [Preference(text) for text in texts if text.strip()]


def is_storable_text(value: Any) -> bool:
    """Whether this is a text without null characters and lone surrogates, which databases refuse."""
    return isinstance(value, str) and usable(value) == value


def usable(text: str) -> str:
    """Remove characters that a preference must not contain, from a text written by another program or a model."""
    return text.encode(errors="ignore").decode().replace("\0", "")


def _lines(content: Any, name: str = "") -> Iterator[str]:
    """Yield one line per text or number in a JSON value, prefixed with the names of the enclosing fields."""
    if content is None or content == "":
        return
    if isinstance(content, Mapping):
        for key in sorted(content):
            yield from _lines(content[key], f"{name} {key}".strip())
    elif isinstance(content, list):
        for element in content:
            yield from _lines(element, name)
    else:
        text = content if isinstance(content, str) else json.dumps(content, ensure_ascii=False)
        yield f"{name}: {text}" if name else text
