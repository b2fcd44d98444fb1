"""Looks up the preferences of a call's user in the memory or the run's store."""

import logging
from typing import Any, Literal, NamedTuple, TypeAlias

from langchain_core.runnables import RunnableConfig, ensure_config
from langgraph.store.base import BaseStore

from langchain_amulet.exceptions import StoreError, UserIdError
from langchain_amulet.foreign_errors import failed_config, shielded
from langchain_amulet.memory.access import num_deletions
from langchain_amulet.memory.preference_memory import PreferenceMemory, access_to
from langchain_amulet.memory.recall_cache import Recalled
from langchain_amulet.personalization.caller import AUTHENTICATED_USER_KEY, Caller, group_of, user_id_of
from langchain_amulet.personalization.outage_log import OutageLog
from langchain_amulet.personalization.resolved import ResolvedPreferences, preferences_of

_RUNTIME_KEY = "__pregel_runtime"  # where LangGraph stores the Runtime of the run

_outages = OutageLog(logging.getLogger(__name__))

OnStoreError: TypeAlias = Literal["raise", "plain"]
"""What a call does if its user's preferences cannot be read: raise the store's error, or give a plain answer."""


class Lookup(NamedTuple):
    """Which user's preferences to look up, and where."""

    memory: PreferenceMemory
    user_id: str


def look_up(lookup: Lookup | None, default: ResolvedPreferences, on_store_error: OnStoreError) -> ResolvedPreferences:
    """Return the stored preferences of a user, or the default if there is no user or nothing is stored.

    Args:
        lookup: Where to look; `None` if there is no user or no memory.
        default: The preferences without a user or without stored preferences.
        on_store_error: Whether to raise an error of the store, or to log it and return no preferences.

    Raises:
        UserIdError: The user id is empty or otherwise invalid.
        AmuletError: The store failed, if `on_store_error` is `"raise"`: `StoreError`, `StoreTimeoutError`, ...
    """
    if lookup is None:
        return default
    before = num_deletions()
    try:
        recalled = access_to(lookup.memory).recall(lookup.user_id)
    except Exception as error:  # noqa: BLE001 - a store may raise anything
        return _without_store(error, on_store_error)
    return _resolved(recalled, default, before)


async def alook_up(
    lookup: Lookup | None, default: ResolvedPreferences, on_store_error: OnStoreError
) -> ResolvedPreferences:
    """Async `look_up`."""
    if lookup is None:
        return default
    before = num_deletions()
    try:
        recalled = await access_to(lookup.memory).arecall(lookup.user_id)
    except Exception as error:  # noqa: BLE001 - a store may raise anything
        return _without_store(error, on_store_error)
    return _resolved(recalled, default, before)


def _resolved(recalled: Recalled, default: ResolvedPreferences, before: int) -> ResolvedPreferences:
    preferences = recalled.preferences or preferences_of(default)
    return ResolvedPreferences(preferences, age_s=recalled.age_s, num_deletions=before)


def _without_store(error: Exception, on_store_error: OnStoreError) -> ResolvedPreferences:
    if on_store_error == "raise" or isinstance(error, UserIdError):
        raise error
    kind = error.kind if isinstance(error, StoreError) else type(error).__name__
    _outages.report(kind)
    return ResolvedPreferences((), store_error=kind)


def find_lookup(
    config: RunnableConfig | None, memory: PreferenceMemory | None, runtime: object = None
) -> Lookup | None:
    """Read the user of a call, and where their preferences are stored, from its config.

    Args:
        config: The config of the call.
        memory: Where preferences are stored. `None`: the store of the LangGraph run, if there is one.
        runtime: The LangGraph runtime. `None`: read from the config.

    Returns:
        The user and the memory, or `None` if there is no user or no memory.

    Raises:
        UserIdError: The user id is not a string, or differs from the authenticated one.
    """
    configurable = _configurable(config)
    runtime = configurable.get(_RUNTIME_KEY) if runtime is None else runtime
    user_id = user_id_of(configurable, runtime)
    if memory is None and isinstance(store := getattr(runtime, "store", None), BaseStore):
        memory = PreferenceMemory(store)
    return None if user_id is None or memory is None else Lookup(memory, user_id)


def find_caller(config: RunnableConfig | None) -> Caller:
    """Read who makes a call from its config.

    Raises:
        UserIdError: The user id or the group is not a string, or the user id differs from the authenticated one.
    """
    configurable = _configurable(config)
    return Caller(user_id_of(configurable, configurable.get(_RUNTIME_KEY)), group_of(configurable))


def _configurable(config: RunnableConfig | None) -> dict[str, Any]:
    """Return the values of the surrounding run, updated by those of the call where a call may override them."""
    run_values = ensure_config(None).get("configurable", {})
    call_values = _read(config).get("configurable", {})
    protected = {key: run_values[key] for key in (_RUNTIME_KEY, AUTHENTICATED_USER_KEY) if key in run_values}
    return {**run_values, **call_values, **protected}


@shielded(failed_config)
def _read(config: RunnableConfig | None) -> RunnableConfig:
    return ensure_config(config)
