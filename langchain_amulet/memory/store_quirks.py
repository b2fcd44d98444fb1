"""Workarounds for particular stores: locks, rollbacks, thread-bound connections, retries."""

import asyncio
import contextlib
import sqlite3
import threading
from typing import Any

from langchain_core.stores import InMemoryBaseStore
from langgraph.store.base import BaseStore, GetOp, Op, PutOp, SearchOp
from langgraph.store.memory import InMemoryStore

from langchain_amulet.forks import renew_after_fork
from langchain_amulet.memory.key_value_store import KeyValueAdapter

_DEADLOCKS = ("40001", "40P01")  # PostgreSQL: serialization_failure, deadlock_detected; the transaction is rolled back


class _InMemory:
    """The lock under which in-memory stores are called."""

    def __init__(self) -> None:
        self.renew()
        renew_after_fork(self)

    def renew(self) -> None:
        """Replace the lock, which another thread may have held at a fork."""
        self.lock = threading.Lock()


_in_memory = _InMemory()


def ask(store: BaseStore, ops: list[Op]) -> list[Any]:
    """Run a batch of operations. Calls to in-memory stores are serialised."""
    with _in_memory.lock if is_in_memory(store) else contextlib.nullcontext():
        return store.batch(ops)


def is_in_memory(store: BaseStore) -> bool:
    """Whether the store is a dictionary: it never blocks, but a search fails while another thread writes."""
    if isinstance(store, KeyValueAdapter):
        return isinstance(store.store, InMemoryBaseStore)
    return type(store) is InMemoryStore  # a subclass may be slow


def as_configured(store: BaseStore, op: Op) -> Op:
    """Set the fields that the store's own methods set: the default time to live, and whether a read renews it."""
    config = store.ttl_config or {}
    if isinstance(op, PutOp):
        ttl = config.get("default_ttl") if op.ttl is None and op.value is not None else op.ttl
        return op._replace(ttl=ttl if store.supports_ttl else None)
    if isinstance(op, GetOp | SearchOp):
        return op._replace(refresh_ttl=bool(config) and config.get("refresh_on_read", True))
    return op


def is_transient(error: BaseException) -> bool:
    """Whether the operation failed without effect because of concurrent access, so that a retry may succeed."""
    if isinstance(error, RuntimeError) and "changed size during iteration" in str(error):
        return True  # an in-memory store that another thread writes to directly
    if "within a transaction" in str(error) and isinstance(error, sqlite3.OperationalError):
        return True  # another user of the same connection has started a transaction
    return is_locked(error) or getattr(error, "sqlstate", None) in _DEADLOCKS


def is_locked(error: BaseException) -> bool:
    """Whether SQLite refused the operation because another connection holds the lock."""
    error = error.__cause__ or error  # SqliteStore raises a ValueError from SQLite's error
    return isinstance(error, sqlite3.OperationalError) and "is locked" in str(error)


def roll_back(store: BaseStore, *, wait_s: float = -1) -> None:
    """End the transaction that SqliteStore leaves open after a failed commit; all later writes would fail.

    Args:
        store: The store.
        wait_s: Seconds to wait for the lock of a sync store, after which nothing is done; -1 waits without a limit.
    """
    if has_sync_connection(store):
        lock = getattr(store, "lock", None) or threading.Lock()
        if lock.acquire(timeout=wait_s):
            try:
                store.conn.rollback()  # type: ignore[attr-defined] # checked above
            finally:
                lock.release()
    elif (loop := getattr(store, "loop", None)) is not None:  # an async store that another thread calls
        asyncio.run_coroutine_threadsafe(aroll_back(store), loop).result()


async def aroll_back(store: BaseStore) -> None:
    """Async `roll_back`, for aiosqlite connections."""
    connection: Any = getattr(store, "conn", None)
    if hasattr(connection, "in_transaction"):  # an aiosqlite connection
        async with getattr(store, "lock", contextlib.nullcontext()):
            await connection.rollback()


def has_sync_connection(store: BaseStore) -> bool:
    """Whether the store uses a connection of Python's `sqlite3` module."""
    return isinstance(getattr(store, "conn", None), sqlite3.Connection)


def is_bound_to_another_thread(store: BaseStore) -> bool:
    """Whether the SQLite connection was opened by another thread, with `check_same_thread`."""
    connection = getattr(store, "conn", None)
    if not isinstance(connection, sqlite3.Connection):
        return False
    try:
        connection.cursor().close()
    except sqlite3.ProgrammingError:
        return True
    return False


class BoundStoreError(Exception):
    """The store can be used only by the thread that opened it."""


def is_in_event_loop() -> bool:
    """Whether the calling thread runs an event loop."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True
