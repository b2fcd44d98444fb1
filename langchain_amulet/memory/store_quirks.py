"""What particular stores need: locks, rollback, bound threads and transient errors."""

import asyncio
import contextlib
import sqlite3
import threading
from typing import Any

from langchain_core.stores import InMemoryBaseStore
from langgraph.store.base import BaseStore, GetOp, Op, PutOp, SearchOp
from langgraph.store.memory import InMemoryStore

from langchain_amulet.memory.key_value_store import KeyValueAdapter

_DEADLOCKS = ("40001", "40P01")  # PostgreSQL's codes of transactions that were undone, since others were in their way


_in_turn = threading.Lock()


def ask(store: BaseStore, ops: list[Op]) -> list[Any]:
    """Run a batch of operations; in-memory stores take one caller at a time."""
    with _in_turn if is_in_memory(store) else contextlib.nullcontext():
        return store.batch(ops)


def is_in_memory(store: BaseStore) -> bool:
    """Whether it is a plain dictionary: it answers at once, but searches fail while other threads write."""
    if isinstance(store, KeyValueAdapter):
        return isinstance(store.store, InMemoryBaseStore)
    return type(store) is InMemoryStore  # what others make of it may take its time


def as_configured(store: BaseStore, op: Op) -> Op:
    """As the store's own methods complete operations: its default time to live, and whether reading renews it."""
    config = store.ttl_config or {}
    if isinstance(op, PutOp):
        ttl = config.get("default_ttl") if op.ttl is None and op.value is not None else op.ttl
        return op._replace(ttl=ttl if store.supports_ttl else None)
    if isinstance(op, GetOp | SearchOp):
        return op._replace(refresh_ttl=bool(config) and config.get("refresh_on_read", True))
    return op


def is_transient(error: BaseException) -> bool:
    """Whether the store has done nothing, because of what others did at that moment."""
    if isinstance(error, RuntimeError) and "changed size during iteration" in str(error):
        return True  # a store in memory, to which another thread writes without this package
    if "within a transaction" in str(error) and isinstance(error, sqlite3.OperationalError):
        return True  # of somebody else who uses the same connection
    return is_locked(error) or getattr(error, "sqlstate", None) in _DEADLOCKS


def is_locked(error: BaseException) -> bool:
    """Whether SQLite refused because another connection holds the lock."""
    error = error.__cause__ or error  # SqliteStore raises a ValueError from what SQLite has said
    return isinstance(error, sqlite3.OperationalError) and "is locked" in str(error)


def roll_back(store: BaseStore) -> None:
    """End the transaction that SqliteStore leaves open if it cannot commit, and would never get out of."""
    connection = getattr(store, "conn", None)
    if isinstance(connection, sqlite3.Connection):
        with getattr(store, "lock", contextlib.nullcontext()):
            connection.rollback()
    elif (loop := getattr(store, "loop", None)) is not None:  # of an async store, called by another thread
        asyncio.run_coroutine_threadsafe(aroll_back(store), loop).result()


async def aroll_back(store: BaseStore) -> None:
    """Async `roll_back`, for aiosqlite connections."""
    connection: Any = getattr(store, "conn", None)
    if hasattr(connection, "in_transaction"):  # aiosqlite's
        async with getattr(store, "lock", contextlib.nullcontext()):
            await connection.rollback()


def is_bound_to_another_thread(store: BaseStore) -> bool:
    """Connections to SQLite serve the thread that has opened them, unless they were told otherwise."""
    connection = getattr(store, "conn", None)
    if not isinstance(connection, sqlite3.Connection):
        return False
    try:
        connection.cursor().close()
    except sqlite3.ProgrammingError:
        return True
    return False


class BoundStoreError(Exception):
    """The store has to be used by the thread that has opened it."""


def is_in_event_loop() -> bool:
    """Whether the calling thread runs an event loop."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True
