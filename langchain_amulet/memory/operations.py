"""What each method of a memory does with a store, the same for sync and async callers."""

from collections.abc import Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
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
from langchain_amulet.memory.items import (
    FEEDBACK,
    HISTORY,
    PREFERENCES,
    WEIGHTS_KEY,
    Action,
    FeedbackEvent,
    Kept,
    PreferenceChange,
    as_kept,
    from_fields,
    in_order,
    key_of,
    learned_of,
    memories_to_preferences,
    new_change_key,
    printable,
    to_change,
    to_change_value,
    to_event,
    to_event_value,
    to_kept,
    to_learned_value,
    to_value,
)
from langchain_amulet.memory.sources import FunctionStore
from langchain_amulet.memory.store_ops import StoreOperation, find_all, namespace, put, write
from langchain_amulet.preferences import Preference, as_preferences

_FORMAT = 1
_NOT_EXPORTED = f"This is nothing that PreferenceMemory.export returns (format {_FORMAT}): {{}}; nothing was written."
_USER = "{langgraph_user_id}"


def recall(store: BaseStore, user_id: str, langmem: tuple[str, ...] | None) -> StoreOperation[list[Kept]]:
    """All preferences of a user, each text once, memories that langmem has written first."""
    where = namespace(PREFERENCES, user_id)  # refuses what is no user id
    if isinstance(store, FunctionStore):
        [answer] = yield [SearchOp((PREFERENCES,), query=user_id)]
        told = [Kept(each, each.weight) for each in as_preferences(answer) if not each.is_expired]
        return _each_text_once(told)
    memories: list[Preference] = []
    if langmem is not None and _is_label(user_id):
        memories = memories_to_preferences((yield from find_all(_of_user(langmem, user_id))))
    items = yield from find_all(where)
    kept, learned = to_kept(items), learned_of(items)
    known = {each.preference.text for each in kept}
    found = [as_kept(each, learned) for each in memories if each.text not in known]
    return _each_text_once([*found, *kept])


def _each_text_once(kept: Sequence[Kept]) -> list[Kept]:
    first: dict[str, Kept] = {}
    for each in kept:
        first.setdefault(each.preference.text, each)
    return [*first.values()]


def remember(user_id: str, preference: Preference) -> StoreOperation[Preference]:
    """Store one preference and the fact that it was; nothing is written where it is there already."""
    where, key = namespace(PREFERENCES, user_id), key_of(preference.text)
    [item, weights] = yield [GetOp(where, key), GetOp(where, WEIGHTS_KEY)]
    learned = {} if weights is None else dict(weights.value)
    if item is None or _is_broken(item) or as_kept(from_fields(item.value), learned).preference != preference:
        yield [*_to_write(user_id, preference, item), *_to_unlearn(where, learned, key)]
    return preference


def update(user_id: str, text: str, changes: Mapping[str, Any]) -> StoreOperation[Preference]:
    """Let a changed preference take the place of another, at its place in the profile."""
    where = namespace(PREFERENCES, user_id)
    items = yield from find_all(where)
    found = [item for item in in_order(items) if item.value.get("text") == text]
    if not found:
        msg = "This user has no such preference. Recall what there is, or remember it."
        raise UnknownPreferenceError(msg)
    earlier, learned = from_fields(found[0].value), learned_of(items)
    preference = replace(earlier, **changes)
    is_reset = "weight" in changes or preference.text != text  # what was learned was learned of that text
    unlearned = _to_unlearn(where, learned, key_of(text)) if is_reset else []
    if preference != earlier or unlearned:
        replaced = [item for item in found if item.key != key_of(preference.text)]
        yield [*_to_write(user_id, preference, found[0]), *unlearned, *_to_delete(replaced)]
    return preference if is_reset else as_kept(preference, learned).preference


def keep_event(user_id: str, event: FeedbackEvent) -> StoreOperation[str]:
    """Store one piece of feedback."""
    key = new_change_key()
    yield [put(namespace(FEEDBACK, user_id), key, to_event_value(event))]
    return key


def find_events(user_id: str) -> StoreOperation[dict[str, FeedbackEvent]]:
    """A user's feedback by its ids, oldest first."""
    items = yield from find_all(namespace(FEEDBACK, user_id))
    return {item.key: to_event(item.value) for item in sorted(items, key=lambda item: item.key)}


def keep_learned(
    user_id: str, weights: Mapping[str, tuple[float, float]], outdated: Sequence[str]
) -> StoreOperation[None]:
    """Store the weights that were learned, by text, each beside the stated one; the history does not tell of it.

    Args:
        user_id: Whose.
        weights: Those of the whole profile: stated and learned.
        outdated: Ids of feedback that counts no more.
    """
    yield [put(namespace(PREFERENCES, user_id), WEIGHTS_KEY, to_learned_value(weights))]
    yield from write([PutOp(namespace(FEEDBACK, user_id), key, None) for key in outdated])


def forget(user_id: str, text: str | None) -> StoreOperation[None]:
    """Delete one preference, all its versions in the history, and what feedback told of them; or all of a user's.

    Of the history, what belongs to a preference that stays stays. It is read first: so what is new is not mistaken for
    the history of what is gone.
    """
    if text is None:
        yield from forget_user(user_id)
        return
    changes = yield from find_all(namespace(HISTORY, user_id))
    where = namespace(PREFERENCES, user_id)
    items = yield from find_all(where)
    gone = [item for item in in_order(items) if item.value.get("text") == text]
    staying = [item for item in in_order(items) if item not in gone]
    lineages, texts = {_lineage(item) for item in staying}, {item.value.get("text") for item in staying}
    changes = [
        each
        for each in changes
        if each.value.get("text") == text or (_lineage(each) not in lineages and each.value.get("text") not in texts)
    ]
    keys = {key_of(each.value.get("text") or text) for each in (*gone, *changes)}
    feedback = yield from find_all(namespace(FEEDBACK, user_id))
    unlearned = _to_unlearn(where, learned_of(items), *keys)
    yield from write([*_to_delete([*gone, *changes]), *unlearned, *_without_evidence(feedback, keys)])


def _without_evidence(feedback: Sequence[SearchItem], keys: AbstractSet[str]) -> Iterator[Op]:
    for item in feedback:
        event = to_event(item.value)
        left = {key: value for key, value in event.evidence.items() if key not in keys}
        if len(left) < len(event.evidence):
            changed = put(item.namespace, item.key, to_event_value(replace(event, evidence=left)))
            yield changed if left else PutOp(item.namespace, item.key, None)


def _to_unlearn(where: tuple[str, ...], learned: Mapping[str, Any], *keys: str) -> list[Op]:
    left = {key: value for key, value in learned.items() if key not in keys}
    return [] if len(left) == len(learned) else [put(where, WEIGHTS_KEY, left)]


def forget_user(user_id: str) -> StoreOperation[None]:
    """Delete all of a user."""
    for root in (PREFERENCES, HISTORY, FEEDBACK):
        yield from write(_to_delete((yield from find_all(namespace(root, user_id)))))


def history(user_id: str) -> StoreOperation[list[PreferenceChange]]:
    """All changes of a user's preferences."""
    items = yield from find_all(namespace(HISTORY, user_id))
    return [to_change(item.value) for item in sorted(items, key=lambda item: item.key)]


def export(user_id: str) -> StoreOperation[dict[str, Any]]:
    """All of a user, as JSON."""
    told: dict[str, Any] = {"format": _FORMAT, "user_id": user_id}
    for root in (PREFERENCES, HISTORY, FEEDBACK):
        items = yield from find_all(namespace(root, user_id))
        told[root] = {item.key: item.value for item in sorted(items, key=lambda item: item.key)}
    return told


def import_(user_id: str, exported: Mapping[str, Any]) -> StoreOperation[None]:
    """Write what was exported, for this user."""
    try:
        found = exported["format"]
    except (KeyError, TypeError) as error:
        msg = _NOT_EXPORTED.format("it names no format")
        raise ImportFormatError(msg) from error
    if found != _FORMAT:
        msg = _NOT_EXPORTED.format(f"its format is {found!r}")
        raise ImportFormatError(msg)
    try:
        ops = _to_import(user_id, exported)
    except (KeyError, TypeError, ValueError, AttributeError, StoredPreferenceError) as error:
        if isinstance(error, UserIdError):
            raise
        msg = _NOT_EXPORTED.format("something in it has another shape")
        raise ImportFormatError(msg) from error
    yield from write(ops)


def _to_import(user_id: str, exported: Mapping[str, Any]) -> list[Op]:
    ops: list[Op] = []
    where = namespace(PREFERENCES, user_id)
    for key, value in exported[PREFERENCES].items():
        if key == WEIGHTS_KEY:
            ops.append(put(where, key, dict(value)))
            continue
        imported = {"lineage": key, **value, "user_id": printable(user_id)}
        ops.append(_to_put(where, key_of(from_fields(value).text), imported))
    for key, value in exported[HISTORY].items():
        to_change(value)
        ops.append(_to_put(namespace(HISTORY, user_id), key, dict(value)))
    for key, value in exported[FEEDBACK].items():
        ops.append(put(namespace(FEEDBACK, user_id), key, to_event_value(to_event(value))))
    return ops


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
