"""Reads what `PreferenceMemory.export` returned. Everything is checked before anything is written."""

import math
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple, cast

from langgraph.store.base import PutOp

from langchain_amulet.exceptions import ImportFormatError
from langchain_amulet.memory.items import (
    FEEDBACK,
    HISTORY,
    PREFERENCES,
    WEIGHTS_KEY,
    change_in,
    event_in,
    is_storable_text,
    is_weight,
    key_of,
    preference_in,
    printable,
    to_event_value,
)
from langchain_amulet.memory.lengths import MAX_TEXT_LENGTH, is_too_long
from langchain_amulet.memory.store_ops import namespace_of, put
from langchain_amulet.preferences import MAX_WEIGHT

FORMAT = 1
_MAX_DEPTH = 50
_MAX_INTEGER = 2**63  # databases refuse larger ones
_PREFERENCE = (
    f"a text of at most {MAX_TEXT_LENGTH:,} characters, a weight from {-MAX_WEIGHT:g} to {MAX_WEIGHT:g}, and if it has "
    "them a source, a time of expiry with a time zone, and an opposite no longer than a text may be"
)
_KEY = "a key that is a text, without null characters and lone surrogates"
_VALUE = "a JSON object with finite numbers, without null characters and lone surrogates"
_WEIGHTS = f'as {WEIGHTS_KEY}, per key "stated" and "learned", each from {-MAX_WEIGHT:g} to {MAX_WEIGHT:g}'
_CHANGE = f"{_PREFERENCE}, an action and a time in nanoseconds"
_EVENT = "a time in nanoseconds, a kind, and finite evidence per key"


class Import(NamedTuple):
    """What to write, from the result of `export`."""

    puts: list[PutOp]
    """The writes of all items but the learned weights."""
    keys: frozenset[str]
    """The keys of the imported preferences."""
    weights: dict[str, Any]
    """By key of a preference, its learned weight and the stated weight at the time of learning."""


def read_export(user_id: str, exported: object) -> Import:
    """Convert the result of `export` to writes for this user.

    Raises:
        ImportFormatError: It is not a result of `export`. The error names what is wrong by its position.
        UserIdError: The user id is empty or not a string.
    """
    if (problem := _problem(exported)) is not None:
        raise _not_exported(problem)
    sections = cast("Mapping[str, Mapping[str, Any]]", exported)
    items = dict(_entries(PREFERENCES, sections))
    weights = next((_weights(value, position) for position, (key, value) in items.items() if key == WEIGHTS_KEY), {})
    preferences = [
        _put_preference(user_id, position, key, value) for position, (key, value) in items.items() if key != WEIGHTS_KEY
    ]
    others = [
        *(_put_change(user_id, position, *item) for position, item in _entries(HISTORY, sections)),
        *(_put_event(user_id, position, *item) for position, item in _entries(FEEDBACK, sections)),
    ]
    return Import([*preferences, *others], frozenset(op.key for op in preferences), weights)


def _problem(exported: object) -> str | None:
    if not isinstance(exported, Mapping):
        return f"it is {type(exported).__name__}, not a mapping"
    if "format" not in exported:
        return "there is no format"
    if (found := exported["format"]) != FORMAT:
        return f"the format is {found if isinstance(found, int) else type(found).__name__}"
    wrong = [root for root in (PREFERENCES, HISTORY, FEEDBACK) if not isinstance(exported.get(root), Mapping)]
    return f"{wrong[0]} is missing or is not a mapping" if wrong else None


def _put_preference(user_id: str, position: int, key: str, value: Mapping[str, Any]) -> PutOp:
    preference = preference_in(value)
    if preference is None or is_too_long(preference):
        raise _refused(PREFERENCES, position, _PREFERENCE)
    imported = {"lineage": key, **value, "user_id": printable(user_id)}
    return put(namespace_of(PREFERENCES, user_id), key_of(preference.text), imported, preference.expires_at)


def _put_change(user_id: str, position: int, key: str, value: Mapping[str, Any]) -> PutOp:
    change = change_in(value)
    if change is None or is_too_long(change.preference):
        raise _refused(HISTORY, position, _CHANGE)
    return put(namespace_of(HISTORY, user_id), key, {**value}, change.preference.expires_at)


def _put_event(user_id: str, position: int, key: str, value: Mapping[str, Any]) -> PutOp:
    if (event := event_in(value)) is None:
        raise _refused(FEEDBACK, position, _EVENT)
    return put(namespace_of(FEEDBACK, user_id), key, to_event_value(event))


def _entries(
    root: str, sections: Mapping[str, Mapping[str, Any]]
) -> Iterator[tuple[int, tuple[str, Mapping[str, Any]]]]:
    """Yield `(position, (key, value))` of each entry of a section.

    Raises:
        ImportFormatError: Databases cannot store a key or value.
    """
    for position, (key, value) in enumerate([*sections[root].items()], start=1):
        if not is_storable_text(key) or not key:
            raise _refused(root, position, _KEY)
        if not isinstance(value, Mapping) or not _is_storable({**value}):
            raise _refused(root, position, _VALUE)
        yield position, (key, value)


def _is_storable(value: Any, depth: int = 0) -> bool:
    """Whether every database can store this JSON value."""
    if isinstance(value, list | dict):
        parts = [*value.keys(), *value.values()] if isinstance(value, dict) else value
        has_text_keys = isinstance(value, list) or all(isinstance(key, str) for key in value)
        return depth < _MAX_DEPTH and has_text_keys and all(_is_storable(part, depth + 1) for part in parts)
    if isinstance(value, int):
        return -_MAX_INTEGER <= value < _MAX_INTEGER
    if isinstance(value, float):
        return math.isfinite(value)
    return value is None or is_storable_text(value)


def _weights(value: Mapping[str, Any], position: int) -> dict[str, Any]:
    if not all(_is_learned_weight(weight) for weight in value.values()):
        raise _refused(PREFERENCES, position, _WEIGHTS)
    return {key: {"stated": weight["stated"], "learned": weight["learned"]} for key, weight in value.items()}


def _is_learned_weight(value: Any) -> bool:
    return isinstance(value, Mapping) and is_weight(value.get("stated")) and is_weight(value.get("learned"))


def _refused(root: str, position: int, needed: str) -> ImportFormatError:
    return _not_exported(f"entry {position} of {root} needs {needed}")


def _not_exported(problem: str) -> ImportFormatError:
    return ImportFormatError(
        f"Not a result of PreferenceMemory.export (format {FORMAT}): {problem}. Pass the object that export returned, "
        "or the same after a round trip through JSON; nothing was written."
    )
