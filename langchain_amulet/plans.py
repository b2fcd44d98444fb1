"""What each method of a memory does with a store, the same for sync and async callers."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from langgraph.store.base import BaseStore, GetOp, Item, Op, PutOp, SearchItem, SearchOp

from langchain_amulet.exceptions import (
    ImportFormatError,
    InvalidParameterError,
    StoredPreferenceError,
    UnknownPreferenceError,
    UserIdError,
)
from langchain_amulet.preferences import Preference, as_preferences
from langchain_amulet.records import (
    FEEDBACK,
    HISTORY,
    PREFERENCES,
    Action,
    PreferenceChange,
    from_fields,
    in_order,
    key_of,
    memories_to_preferences,
    new_change_key,
    printable,
    to_change,
    to_change_value,
    to_preferences,
    to_value,
)
from langchain_amulet.sources import FunctionStore
from langchain_amulet.stores import Plan, find_all, namespace, put, write

_FORMAT = 1
_USER = "{langgraph_user_id}"
_CHANGEABLE = {"new_text": "text", "weight": "weight", "source": "source", "expires_at": "expires_at"}


def recall(store: BaseStore, user_id: str, langmem: tuple[str, ...] | None) -> Plan[tuple[Preference, ...]]:
    """All preferences of a user, memories that langmem has written first."""
    where = namespace(PREFERENCES, user_id)  # refuses what is no user id
    if isinstance(store, FunctionStore):
        [answer] = yield [SearchOp((PREFERENCES,), query=user_id)]
        return tuple(each for each in as_preferences(answer) if not each.is_expired)
    memories: list[Preference] = []
    if langmem is not None and _is_label(user_id):
        memories = memories_to_preferences((yield from find_all(_of_user(langmem, user_id))))
    preferences = to_preferences((yield from find_all(where)))
    known = {preference.text for preference in preferences}
    return (*(each for each in memories if each.text not in known), *preferences)


def remember(user_id: str, preference: Preference) -> Plan[Preference]:
    """Store one preference and the fact that it was; nothing is written where it is there already."""
    where, key = namespace(PREFERENCES, user_id), key_of(preference.text)
    [item] = yield [GetOp(where, key)]
    if item is None or _is_broken(item) or from_fields(item.value) != preference:
        yield _to_write(user_id, preference, item)
    return preference


def update(user_id: str, text: str, changes: Mapping[str, Any]) -> Plan[Preference]:
    """Let a changed preference take the place of another, at its place in the profile."""
    if unknown := sorted(set(changes) - set(_CHANGEABLE)):
        msg = f"A preference has no {', '.join(unknown)}. What can change: {', '.join(_CHANGEABLE)}."
        raise InvalidParameterError(msg)
    where = namespace(PREFERENCES, user_id)
    found = [item for item in in_order((yield from find_all(where))) if item.value.get("text") == text]
    if not found:
        msg = "This user has no such preference. Recall what there is, or remember it."
        raise UnknownPreferenceError(msg)
    earlier = from_fields(found[0].value)
    preference = replace(earlier, **{_CHANGEABLE[name]: value for name, value in changes.items()})
    if preference != earlier:
        replaced = [item for item in found if item.key != key_of(preference.text)]
        yield [*_to_delete(replaced), *_to_write(user_id, preference, found[0])]
    return preference


def reweigh(user_id: str, weights: Mapping[str, float]) -> Plan[None]:
    """Give preferences, by their texts, the weights that were learned; the history does not tell of it."""
    where = namespace(PREFERENCES, user_id)
    items = [item for item in (yield from find_all(where)) if item.value.get("text") in weights]
    yield from write(
        [_to_put(where, item.key, {**item.value, "weight": weights[item.value["text"]]}) for item in items]
    )


def forget(user_id: str, text: str | None) -> Plan[None]:
    """Delete one preference and all its versions in the history, or all.

    Of the history, what belongs to a preference that stays stays. It is read first: so what is new is not mistaken for
    the history of what is gone.
    """
    changes = yield from find_all(namespace(HISTORY, user_id))
    items = yield from find_all(namespace(PREFERENCES, user_id))
    if text is not None:
        lineages = {_lineage(item) for item in items if item.value.get("text") != text}
        items = [item for item in items if item.value.get("text") == text]
        changes = [each for each in changes if each.value.get("text") == text or _lineage(each) not in lineages]
    yield from write(_to_delete([*items, *changes]))


def forget_user(user_id: str) -> Plan[None]:
    """Delete all of a user."""
    for root in (PREFERENCES, HISTORY, FEEDBACK):
        yield from write(_to_delete((yield from find_all(namespace(root, user_id)))))


def history(user_id: str) -> Plan[list[PreferenceChange]]:
    """All changes of a user's preferences."""
    items = yield from find_all(namespace(HISTORY, user_id))
    return [to_change(item.value) for item in sorted(items, key=lambda item: item.key)]


def export(user_id: str) -> Plan[dict[str, Any]]:
    """All of a user, as JSON."""
    told: dict[str, Any] = {"format": _FORMAT, "user_id": user_id}
    for root in (PREFERENCES, HISTORY, FEEDBACK):
        items = yield from find_all(namespace(root, user_id))
        told[root] = {item.key: item.value for item in sorted(items, key=lambda item: item.key)}
    return told


def import_(user_id: str, exported: Mapping[str, Any]) -> Plan[None]:
    """Write what was exported, for this user."""
    try:
        ops = _to_import(user_id, exported)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        if isinstance(error, UserIdError):
            raise
        msg = f"This is nothing that PreferenceMemory.export returns (format {_FORMAT}); nothing was written."
        raise ImportFormatError(msg) from error
    yield from write(ops)


def _to_import(user_id: str, exported: Mapping[str, Any]) -> list[Op]:
    if exported["format"] != _FORMAT:
        raise KeyError(_FORMAT)
    ops: list[Op] = []
    where = namespace(PREFERENCES, user_id)
    for key, value in exported[PREFERENCES].items():
        imported = {"lineage": key, **value, "user_id": printable(user_id)}
        ops.append(_to_put(where, key_of(from_fields(value).text), imported))
    for key, value in exported[HISTORY].items():
        to_change(value)
        ops.append(_to_put(namespace(HISTORY, user_id), key, dict(value)))
    where = namespace(FEEDBACK, user_id)
    return [*ops, *(put(where, key, dict(value)) for key, value in exported[FEEDBACK].items())]


def check_langmem_namespace(where: Sequence[str] | None) -> tuple[str, ...] | None:
    """Refuse a namespace in which users share their memories."""
    if where is None:
        return None
    if isinstance(where, str) or not any(_USER in label for label in where):
        msg = f'langmem_namespace must name the user, as ("memories", "{_USER}") does; got {where!r}.'
        raise InvalidParameterError(msg)
    return tuple(where)


def _of_user(where: tuple[str, ...], user_id: str) -> tuple[str, ...]:
    return tuple(label.replace(_USER, user_id) for label in where)


def _is_label(user_id: str) -> bool:
    """Whether other programs can have used it as a label as it is, in every store."""
    return not any(character in ".\0" or "\ud800" <= character <= "\udfff" for character in user_id)


def _to_write(user_id: str, preference: Preference, earlier: Item | None) -> list[Op]:
    """A preference as it is from now on, and an entry of the history."""
    lineage = new_change_key() if earlier is None else _lineage(earlier)
    value = to_value(user_id, preference, lineage)
    if earlier is not None:  # which keeps its place
        value["remembered_at"] = earlier.value.get("remembered_at", value["remembered_at"])
    action: Action = "remembered" if earlier is None else "changed"
    change = to_change_value(preference, action, lineage)
    return [
        _to_put(namespace(PREFERENCES, user_id), key_of(preference.text), value),
        _to_put(namespace(HISTORY, user_id), new_change_key(), change),
    ]


def _to_put(where: tuple[str, ...], key: str, value: dict[str, Any]) -> PutOp:
    return put(where, key, value, from_fields(value).expires_at)


def _to_delete(items: Sequence[SearchItem]) -> list[Op]:
    return [PutOp(item.namespace, item.key, None) for item in items]


def _lineage(item: Item) -> str:
    return str(item.value.get("lineage", item.key))


def _is_broken(item: Item) -> bool:
    try:
        from_fields(item.value)
    except StoredPreferenceError:
        return True
    return False
