"""What memories keep in stores: preferences, how they changed, and what other programs' memories look like."""

import hashlib
import json
import secrets
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal, TypeAlias

from langgraph.store.base import SearchItem

from langchain_amulet.exceptions import AmuletError, StoredPreferenceError
from langchain_amulet.preferences import Preference

PREFERENCES = "preferences"
HISTORY = "preference_history"
FEEDBACK = "preference_feedback"

Action: TypeAlias = Literal["remembered", "changed"]


@dataclass(frozen=True, slots=True)
class PreferenceChange:
    """One entry of a user's history."""

    at: datetime
    """When, in UTC."""
    action: Action
    """Whether the preference was new then, or took the place of an earlier version."""
    preference: Preference
    """What it was from then on."""


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


def to_preferences(items: Sequence[SearchItem]) -> list[Preference]:
    """The preferences that items hold and that have not expired, in the order in which they were first remembered.

    Raises:
        StoredPreferenceError: An item holds none.
    """
    preferences = [_read(item) for item in in_order(items)]
    return [preference for preference in preferences if not preference.is_expired]


def in_order(items: Sequence[SearchItem]) -> list[SearchItem]:
    """As they were first remembered; what other programs have written without a time comes first."""

    def place(item: SearchItem) -> tuple[int, str]:
        at_ns = item.value.get("remembered_at")
        return (at_ns if isinstance(at_ns, int) else 0, item.key)

    return sorted(items, key=place)


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


def memories_to_preferences(items: Sequence[SearchItem]) -> list[Preference]:
    """What langmem's tools have written, as preferences of weight 1, the last written last.

    They keep `{"content": ...}`, a text or an object of some schema, also together with the schema's name as `"kind"`.
    An object is told by its fields, in the order of its keys.
    """
    ordered = sorted(items, key=lambda item: (item.updated_at, item.key))
    texts = ["; ".join(_tell(item.value.get("content"))) for item in ordered]
    return [Preference(text) for text in texts if text.strip()]


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
