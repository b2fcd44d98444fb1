"""Looking up what the caller prefers."""

import warnings
from typing import Any, Literal, NamedTuple, TypeAlias

from langchain_core.runnables import RunnableConfig, ensure_config
from langgraph.store.base import BaseStore

from langchain_amulet.exceptions import UserIdError
from langchain_amulet.memory.preference_memory import PreferenceMemory
from langchain_amulet.memory.recall_cache import Recalled
from langchain_amulet.personalization.caller import _AUTHENTICATED_USER_KEY, user_id_of
from langchain_amulet.personalization.resolved import ResolvedPreferences

_RUNTIME_KEY = "__pregel_runtime"  # where LangGraph keeps the Runtime of the run


class Lookup(NamedTuple):
    """Where to look up whose preferences."""

    memory: PreferenceMemory
    user_id: str


OnStoreError: TypeAlias = Literal["raise", "plain"]
"""What becomes of a call whose user's preferences cannot be read: the store's error, or a plain answer."""


def look_up(lookup: Lookup | None, default: ResolvedPreferences, on_store_error: OnStoreError) -> ResolvedPreferences:
    """What this user prefers; the default where there is no user, or nothing is remembered of them."""
    if lookup is None:
        return default
    try:
        found = lookup.memory.look_up(lookup.user_id)
    except Exception as error:  # noqa: BLE001 - stores fail in all ways
        return _without_store(error, on_store_error)
    return _found(found, default)


async def alook_up(
    lookup: Lookup | None, default: ResolvedPreferences, on_store_error: OnStoreError
) -> ResolvedPreferences:
    """Async `look_up`."""
    if lookup is None:
        return default
    try:
        found = await lookup.memory.alook_up(lookup.user_id)
    except Exception as error:  # noqa: BLE001 - stores fail in all ways
        return _without_store(error, on_store_error)
    return _found(found, default)


def _found(found: Recalled, default: ResolvedPreferences) -> ResolvedPreferences:
    return ResolvedPreferences(found.preferences or default.preferences, age_s=found.age_s)


def _without_store(error: Exception, on_store_error: OnStoreError) -> ResolvedPreferences:
    if on_store_error == "raise" or isinstance(error, UserIdError):
        raise error
    kind = type(error).__name__  # and no more: the message may quote the user
    warnings.warn(f"The store of preferences has failed ({kind}); this answer is a plain one.", stacklevel=2)
    return ResolvedPreferences((), store_error=kind)


def find_lookup(
    config: RunnableConfig | None, memory: PreferenceMemory | None, runtime: object = None
) -> Lookup | None:
    """Tell from the call's config who is asking, and where their preferences are.

    The user is the one that the LangGraph platform has authenticated; else `configurable["user_id"]`; else `user_id` of
    the LangGraph run's context. Without a memory, the store of the LangGraph run under way serves.

    Args:
        config: What the call was given.
        memory: Where to look.
        runtime: That of the LangGraph run, where it is at hand; else it is found in the config.

    Raises:
        UserIdError: The user id is not a string, or differs from the authenticated one.
    """
    configurable = _configurable(config)
    runtime = configurable.get(_RUNTIME_KEY) if runtime is None else runtime
    user_id = user_id_of(configurable, runtime)
    if memory is None and isinstance(store := getattr(runtime, "store", None), BaseStore):
        memory = PreferenceMemory(store)
    return None if user_id is None or memory is None else Lookup(memory, user_id)


def _configurable(config: RunnableConfig | None) -> dict[str, Any]:
    """The call's own values over those of the run around it, which a call cannot take off."""
    ambient = ensure_config(None).get("configurable", {})
    given = ensure_config(config).get("configurable", {})
    protected = {key: ambient[key] for key in (_RUNTIME_KEY, _AUTHENTICATED_USER_KEY) if key in ambient}
    return {**ambient, **given, **protected}
