"""What memories keep in stores: preferences, how they changed, and what other programs' memories look like."""

import hashlib
import json
import math
import secrets
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, Literal, NamedTuple, TypeAlias, cast, get_args

from langgraph.store.base import Item, SearchItem

from langchain_amulet.exceptions import AmuletError, StoredPreferenceError
from langchain_amulet.preferences import Preference

PREFERENCES = "preferences"
HISTORY = "preference_history"
FEEDBACK = "preference_feedback"

WEIGHTS_KEY = "learned_weights"
"""Of the one item beside the preferences that is none: learning never writes what users have said."""

Action: TypeAlias = Literal["remembered", "changed"]
FeedbackKind: TypeAlias = Literal["liked", "disliked", "comparison"]


@dataclass(frozen=True, slots=True)
class PreferenceChange:
    """One entry of a user's history."""

    at: datetime
    """When, in UTC."""
    action: Action
    """Whether the preference was new then, or took the place of an earlier version."""
    preference: Preference
    """What it was from then on."""


class Kept(NamedTuple):
    """A preference of a store."""

    preference: Preference
    """As it counts: with the weight that was learned, if there is one."""
    stated: float
    """The weight that it was remembered with."""


def key_of(text: str) -> str:
    """The key of a preference: the same text is the same item, whoever writes it."""
    return hashlib.sha256(text.encode()).hexdigest()


def new_change_key() -> str:
    """Keys that sort by time and that no two writers share."""
    return f"{time.time_ns():020d}-{secrets.token_hex(8)}"


def to_fields(preference: Preference) -> dict[str, Any]:
    """A preference as JSON; what is as always is left out."""
    fields: dict[str, Any] = {"text": preference.text, "weight": preference.weight}
    if preference.source != "stated":
        fields["source"] = preference.source
    if preference.expires_at is not None:
        fields["expires_at"] = preference.expires_at.isoformat()
    return fields


def from_fields(fields: Mapping[str, Any]) -> Preference:
    """A preference from JSON.

    Raises:
        StoredPreferenceError: It is none.
    """
    try:
        expires_at = fields.get("expires_at")
        return Preference(
            fields["text"],
            fields["weight"],
            fields.get("source", "stated"),
            None if expires_at is None else datetime.fromisoformat(expires_at),
        )
    except (KeyError, TypeError, ValueError, AmuletError) as error:
        msg = "It needs a text and a weight."  # and no more: its text is private
        raise StoredPreferenceError(msg) from error


def to_value(user_id: str, preference: Preference, lineage: str) -> dict[str, Any]:
    """An item of a store.

    Args:
        user_id: Whose it is; long ids are hashed in the namespace.
        preference: What is kept.
        lineage: What its versions in the history have in common.
    """
    return {
        **to_fields(preference),
        "user_id": printable(user_id),
        "remembered_at": time.time_ns(),  # stores' own times are as coarse as a second
        "lineage": lineage,
    }


def printable(user_id: str) -> str:
    """The id as stores take it: PostgreSQL's JSON has no NUL."""
    return user_id.encode(errors="backslashreplace").decode().replace("\0", "\\x00")


def to_kept(items: Sequence[SearchItem]) -> list[Kept]:
    """The preferences that items hold and that have not expired, in the order in which they were first remembered.

    Raises:
        StoredPreferenceError: An item holds none.
    """
    learned = learned_of(items)
    stated = [_read(item) for item in in_order(items)]
    return [as_kept(preference, learned) for preference in stated if not preference.is_expired]


def in_order(items: Sequence[SearchItem]) -> list[SearchItem]:
    """Preferences as they were first remembered; what other programs have written without a time comes first."""

    def place(item: SearchItem) -> tuple[int, str]:
        at_ns = item.value.get("remembered_at")
        return (at_ns if isinstance(at_ns, int) else 0, item.key)

    return sorted((item for item in items if item.key != WEIGHTS_KEY), key=place)


def learned_of(items: Sequence[Item]) -> dict[str, Any]:
    """By the key of a preference, the weight that was learned and the one it was learned for."""
    return next((dict(item.value) for item in items if item.key == WEIGHTS_KEY), {})


def to_learned_value(weights: Mapping[str, tuple[float, float]]) -> dict[str, Any]:
    """An item of a store that holds, by the text of a preference, the stated and the learned weight."""
    return {key_of(text): {"stated": stated, "learned": learned} for text, (stated, learned) in weights.items()}


def as_kept(stated: Preference, learned: Mapping[str, Any]) -> Kept:
    """A preference with the weight learned for it, unless the user has said something else since."""
    match learned.get(key_of(stated.text)):
        case {"stated": was, "learned": int() | float() as weight} if was == stated.weight:
            return Kept(replace(stated, weight=weight), stated.weight)
    return Kept(stated, stated.weight)


def _read(item: SearchItem) -> Preference:
    try:
        return from_fields(item.value)
    except StoredPreferenceError as error:
        msg = (
            f"The item {item.key} under {item.namespace} holds no preference: it needs a text and a weight. "
            f"Delete it, or write it with PreferenceMemory.remember."
        )
        raise StoredPreferenceError(msg) from error.__cause__


def to_change(value: Mapping[str, Any]) -> PreferenceChange:
    """An entry of a user's history.

    Raises:
        StoredPreferenceError: It is none.
    """
    preference = from_fields(value)
    try:
        return PreferenceChange(datetime.fromtimestamp(value["at_ns"] / 1e9, UTC), value["action"], preference)
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        msg = "It needs a time and an action."
        raise StoredPreferenceError(msg) from error


def to_change_value(preference: Preference, action: Action, lineage: str) -> dict[str, Any]:
    """An item of a store that says what became of a preference."""
    return {**to_fields(preference), "action": action, "at_ns": time.time_ns(), "lineage": lineage}


@dataclass(frozen=True, slots=True)
class FeedbackEvent:
    """One piece of feedback: what was judged is not kept, only what it told of each preference."""

    at_ns: int
    """When, since 1970."""
    kind: FeedbackKind
    evidence: Mapping[str, float] = field(repr=False)
    """By the key of a preference, in nats per token; of a comparison, of the better response less the worse."""


def to_event(value: Mapping[str, Any]) -> FeedbackEvent:
    """One piece of feedback.

    Raises:
        StoredPreferenceError: It is none.
    """
    match value:
        case {"at_ns": int() as at_ns, "kind": str() as kind, "evidence": {**evidence}} if kind in get_args(
            FeedbackKind
        ) and all(isinstance(each, int | float) and math.isfinite(each) for each in evidence.values()):
            return FeedbackEvent(at_ns, cast("FeedbackKind", kind), cast("dict[str, float]", evidence))
    msg = "An item of a user's feedback holds none: it needs a time, a kind and evidence. Delete it."
    raise StoredPreferenceError(msg)


def to_event_value(event: FeedbackEvent) -> dict[str, Any]:
    """An item of a store that says what was judged how."""
    return {"at_ns": event.at_ns, "kind": event.kind, "evidence": dict(event.evidence)}


def memories_to_preferences(items: Sequence[SearchItem]) -> list[Preference]:
    """What langmem's tools have written, as preferences of weight 1, the last written last.

    They keep `{"content": ...}`, a text or an object of some schema, also together with the schema's name as `"kind"`.
    An object is told by its fields, in the order of its keys.
    """
    ordered = sorted(items, key=lambda item: (item.updated_at, item.key))
    texts = [usable("; ".join(_tell(item.value.get("content")))) for item in ordered]
    return [Preference(text) for text in texts if text.strip()]


def usable(text: str) -> str:
    """A text of another program's or a model's, without the characters that no preference may hold."""
    return text.encode(errors="ignore").decode().replace("\0", "")


def _tell(content: Any, name: str = "") -> Iterator[str]:
    if content is None or content == "":
        return
    if isinstance(content, Mapping):
        for key in sorted(content):
            yield from _tell(content[key], f"{name} {key}".strip())
    elif isinstance(content, list):
        for each in content:
            yield from _tell(each, name)
    else:
        text = content if isinstance(content, str) else json.dumps(content, ensure_ascii=False)
        yield f"{name}: {text}" if name else text
