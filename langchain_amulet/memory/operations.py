"""The store operations behind the methods of `PreferenceMemory` and `FeedbackLearner`."""

from collections.abc import Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import replace
from typing import Any, TypedDict

from langgraph.store.base import BaseStore, GetOp, Item, Op, PutOp, SearchItem

from langchain_amulet.exceptions import (
    InvalidParameterError,
    UnknownPreferenceError,
)
from langchain_amulet.memory.imports import FORMAT, read_export
from langchain_amulet.memory.items import (
    FEEDBACK,
    HISTORY,
    PREFERENCES,
    WEIGHTS_KEY,
    Action,
    FeedbackEvent,
    PreferenceChange,
    StoredPreference,
    from_fields,
    in_order,
    key_of,
    learned_weights,
    memories_to_preferences,
    new_change_key,
    preference_in,
    to_change,
    to_change_value,
    to_event,
    to_event_value,
    to_learned_value,
    to_stored_preferences,
    to_value,
    with_learned_weight,
)
from langchain_amulet.memory.lengths import check_length, without_too_long
from langchain_amulet.memory.sources import FunctionStore
from langchain_amulet.memory.store_ops import ReadPreferences, StoreOperation, find_all, namespace_of, put, write
from langchain_amulet.preferences import Preference, as_preferences

_USER = "{langgraph_user_id}"


class UserExport(TypedDict):
    """Everything that a memory holds about one user, as JSON."""

    format: int
    user_id: str
    preferences: dict[str, dict[str, Any]]
    """The values of the preferences' items by their keys."""
    preference_history: dict[str, dict[str, Any]]
    """The values of the history's items by their keys."""
    preference_feedback: dict[str, dict[str, Any]]
    """The values of the feedback's items by their keys."""


def recall(store: BaseStore, user_id: str, langmem: tuple[str, ...] | None) -> StoreOperation[list[StoredPreference]]:
    """Read all preferences of a user without duplicate texts. Memories that langmem wrote come first."""
    namespace = namespace_of(PREFERENCES, user_id)  # checks the user id, also for read-only sources
    if isinstance(store, FunctionStore):
        preferences = as_preferences((yield ReadPreferences(store, user_id)))
        for preference in preferences:
            check_length(preference.text, preference.opposite)
        return _without_duplicates([StoredPreference(p, p.weight) for p in preferences if not p.is_expired])
    memories: list[Preference] = []
    if langmem is not None and _is_valid_label(user_id):
        memories = memories_to_preferences((yield from find_all(_for_user(langmem, user_id))))
    items = yield from find_all(namespace)
    remembered, learned = to_stored_preferences(items), learned_weights(items)
    texts = {stored.preference.text for stored in remembered}
    imported = [with_learned_weight(memory, learned) for memory in memories if memory.text not in texts]
    return without_too_long(_without_duplicates([*imported, *remembered]))


def _without_duplicates(profile: Sequence[StoredPreference]) -> list[StoredPreference]:
    """Return the first preference of each text."""
    first: dict[str, StoredPreference] = {}
    for stored in profile:
        first.setdefault(stored.preference.text, stored)
    return [*first.values()]


def remember(user_id: str, preference: Preference) -> StoreOperation[Preference]:
    """Write one preference and an entry of the history. Write nothing if the same preference is already stored.

    An opposite that is stored for the same text remains if none is given.
    """
    check_length(preference.text, preference.opposite)
    namespace, key = namespace_of(PREFERENCES, user_id), key_of(preference.text)
    [item, weights] = yield [GetOp(namespace, key), GetOp(namespace, WEIGHTS_KEY)]
    learned = {} if weights is None else dict(weights.value)
    stored = None if item is None else preference_in(item.value)
    if stored is not None and stored.text == preference.text and preference.opposite is None:
        preference = replace(preference, opposite=stored.opposite)
    if stored is None or with_learned_weight(stored, learned).preference != preference:
        yield [*_to_write(user_id, preference, item), *_to_delete_learned(namespace, learned, key)]
    return preference


def update(user_id: str, text: str, changes: Mapping[str, Any]) -> StoreOperation[Preference]:
    """Replace a preference by a changed one, which keeps its position in the profile.

    With a new text, the opposite of the earlier text is dropped.
    """
    check_length(changes.get("text"), changes.get("opposite"))
    namespace = namespace_of(PREFERENCES, user_id)
    items = yield from find_all(namespace)
    matches = [item for item in in_order(items) if item.value.get("text") == text]
    if not matches:
        msg = "This user has no preference with this text. List the texts with recall, or store it with remember."
        raise UnknownPreferenceError(msg)
    earlier, learned = from_fields(matches[0].value), learned_weights(items)
    new_opposite = earlier.opposite if changes.get("text", text) == text else None
    preference = replace(earlier, **{"opposite": new_opposite, **changes})
    is_reset = "weight" in changes or preference.text != text  # the learned weight belongs to the earlier text
    learned_ops = _to_delete_learned(namespace, learned, key_of(text)) if is_reset else []
    if preference != earlier or learned_ops:
        replaced = [item for item in matches if item.key != key_of(preference.text)]
        yield [*_to_write(user_id, preference, matches[0]), *learned_ops, *_to_delete(replaced)]
    return preference if is_reset else with_learned_weight(preference, learned).preference


def texts_without_opposite(user_id: str) -> StoreOperation[list[str]]:
    """Read the texts of the stored preferences whose opposite is neither stated nor known to be missing."""
    items = yield from find_all(namespace_of(PREFERENCES, user_id))
    profile = _without_duplicates(without_too_long(to_stored_preferences(items)))
    return [stored.preference.text for stored in profile if stored.preference.opposite is None]


def fill_opposite(user_id: str, text: str, opposite: str) -> StoreOperation[bool]:
    """Add an opposite to the preference with this text. Write nothing if it is gone, or has an opposite by now.

    Returns:
        Whether it was written.
    """
    check_length(None, opposite)
    items = yield from find_all(namespace_of(PREFERENCES, user_id))
    matches = [item for item in in_order(items) if item.value.get("text") == text]
    if not matches or (stored := from_fields(matches[0].value)).opposite is not None:
        return False
    replaced = [item for item in matches if item.key != key_of(text)]
    yield [*_to_write(user_id, replace(stored, opposite=opposite), matches[0]), *_to_delete(replaced)]
    return True


def write_feedback(user_id: str, event: FeedbackEvent) -> StoreOperation[str]:
    """Write one piece of feedback and return its id."""
    key = new_change_key()
    yield [put(namespace_of(FEEDBACK, user_id), key, to_event_value(event))]
    return key


def read_feedback(user_id: str) -> StoreOperation[dict[str, FeedbackEvent]]:
    """Read a user's feedback by id, oldest first."""
    items = yield from find_all(namespace_of(FEEDBACK, user_id))
    return {item.key: to_event(item.value) for item in sorted(items, key=lambda item: item.key)}


def write_learned_weights(
    user_id: str, weights: Mapping[str, tuple[float, float]], outdated: Sequence[str]
) -> StoreOperation[None]:
    """Write the learned weights of a user's whole profile, and delete outdated feedback. The history does not change.

    Args:
        user_id: The user.
        weights: By text of a preference, its stated and its learned weight.
        outdated: Ids of the feedback to delete.
    """
    yield [put(namespace_of(PREFERENCES, user_id), WEIGHTS_KEY, to_learned_value(weights))]
    yield from write([PutOp(namespace_of(FEEDBACK, user_id), key, None) for key in outdated])


def forget(user_id: str, text: str | None) -> StoreOperation[None]:
    """Delete one preference, all its versions in the history and their evidence; or all data of the user.

    Entries of the history that belong to a remaining preference remain. The history is read before the preferences, so
    that the entry of a preference written in between does not count as one of a deleted preference.
    """
    if text is None:
        yield from forget_user(user_id)
        return
    changes = yield from find_all(namespace_of(HISTORY, user_id))
    namespace = namespace_of(PREFERENCES, user_id)
    items = yield from find_all(namespace)
    deleted = [item for item in in_order(items) if item.value.get("text") == text]
    remaining = [item for item in in_order(items) if item not in deleted]
    lineages, texts = {_lineage(item) for item in remaining}, {item.value.get("text") for item in remaining}
    changes = [
        item
        for item in changes
        if item.value.get("text") == text or (_lineage(item) not in lineages and item.value.get("text") not in texts)
    ]
    keys = {key_of(item.value.get("text") or text) for item in (*deleted, *changes)}
    feedback = yield from find_all(namespace_of(FEEDBACK, user_id))
    learned_ops = _to_delete_learned(namespace, learned_weights(items), *keys)
    yield from write([*_to_delete([*deleted, *changes]), *learned_ops, *_without_evidence(feedback, keys)])


def _without_evidence(feedback: Sequence[SearchItem], keys: AbstractSet[str]) -> Iterator[Op]:
    for item in feedback:
        event = to_event(item.value)
        evidence = {key: value for key, value in event.evidence.items() if key not in keys}
        if len(evidence) < len(event.evidence):
            changed = put(item.namespace, item.key, to_event_value(replace(event, evidence=evidence)))
            yield changed if evidence else PutOp(item.namespace, item.key, None)


def _to_delete_learned(namespace: tuple[str, ...], learned: Mapping[str, Any], *keys: str) -> list[Op]:
    remaining = {key: value for key, value in learned.items() if key not in keys}
    return [] if len(remaining) == len(learned) else [put(namespace, WEIGHTS_KEY, remaining)]


def forget_user(user_id: str) -> StoreOperation[None]:
    """Delete all data of a user."""
    for root in (PREFERENCES, HISTORY, FEEDBACK):
        yield from write(_to_delete((yield from find_all(namespace_of(root, user_id)))))


def history(user_id: str) -> StoreOperation[list[PreferenceChange]]:
    """Read all changes of a user's preferences, oldest first."""
    items = yield from find_all(namespace_of(HISTORY, user_id))
    return [to_change(item.value) for item in sorted(items, key=lambda item: item.key)]


def export(user_id: str) -> StoreOperation[UserExport]:
    """Read all data of a user, as JSON."""
    return UserExport(
        format=FORMAT,
        user_id=user_id,
        preferences=(yield from _values(namespace_of(PREFERENCES, user_id))),
        preference_history=(yield from _values(namespace_of(HISTORY, user_id))),
        preference_feedback=(yield from _values(namespace_of(FEEDBACK, user_id))),
    )


def _values(namespace: tuple[str, ...]) -> StoreOperation[dict[str, dict[str, Any]]]:
    items = yield from find_all(namespace)
    return {item.key: item.value for item in sorted(items, key=lambda item: item.key)}


def import_(user_id: str, exported: object) -> StoreOperation[None]:
    """Write what `export` returned, for this user. Learned weights of preferences that are not imported remain."""
    imported = read_export(user_id, exported)
    namespace = namespace_of(PREFERENCES, user_id)
    [item] = yield [GetOp(namespace, WEIGHTS_KEY)]
    learned = {} if item is None else dict(item.value)
    merged = {key: weight for key, weight in learned.items() if key not in imported.keys} | imported.weights
    learned_ops = [] if merged == learned else [put(namespace, WEIGHTS_KEY, merged)]
    yield from write([*imported.puts, *learned_ops])


def check_langmem_namespace(namespace: Sequence[str] | None) -> tuple[str, ...] | None:
    """Raise if users would share the memories of this namespace.

    Raises:
        InvalidParameterError: No label contains `{langgraph_user_id}`.
    """
    if namespace is None:
        return None
    if isinstance(namespace, str) or not any(_USER in label for label in namespace):
        msg = f'langmem_namespace must contain the user id, as in ("memories", "{_USER}"); got {namespace!r}.'
        raise InvalidParameterError(msg)
    return tuple(namespace)


def _for_user(namespace: tuple[str, ...], user_id: str) -> tuple[str, ...]:
    return tuple(label.replace(_USER, user_id) for label in namespace)


def _is_valid_label(user_id: str) -> bool:
    """Whether stores accept the id as a label without encoding. Otherwise langmem has stored nothing for it."""
    return not any(character in ".\0" or "\ud800" <= character <= "\udfff" for character in user_id)


def _to_write(user_id: str, preference: Preference, earlier: Item | None) -> list[Op]:
    """Operations that write a preference and an entry of the history."""
    lineage = new_change_key() if earlier is None else _lineage(earlier)
    value = to_value(user_id, preference, lineage)
    if earlier is not None:  # keep its position in the profile
        value["remembered_at"] = earlier.value.get("remembered_at", value["remembered_at"])
    action: Action = "remembered" if earlier is None else "changed"
    change = to_change_value(preference, action, lineage)
    return [
        _to_put(namespace_of(PREFERENCES, user_id), key_of(preference.text), value),
        _to_put(namespace_of(HISTORY, user_id), new_change_key(), change),
    ]


def _to_put(namespace: tuple[str, ...], key: str, value: dict[str, Any]) -> PutOp:
    return put(namespace, key, value, from_fields(value).expires_at)


def _to_delete(items: Sequence[SearchItem]) -> list[Op]:
    return [PutOp(item.namespace, item.key, None) for item in items]


def _lineage(item: Item) -> str:
    return str(item.value.get("lineage", item.key))
