"""How memories reach their stores: one namespace per user, operations in batches, sync and async alike."""

import asyncio
import contextlib
import contextvars
import hashlib
import logging
import sqlite3
import threading
import time
import weakref
from collections.abc import Callable, Coroutine, Generator, Sequence
from datetime import UTC, datetime
from typing import Any, Generic, TypeAlias, TypeVar
from urllib.parse import quote

from langchain_core.stores import InMemoryBaseStore
from langgraph.store.base import BaseStore, GetOp, Op, PutOp, SearchItem, SearchOp
from langgraph.store.base.batch import AsyncBatchedBaseStore
from langgraph.store.memory import InMemoryStore

from langchain_amulet.daemon_threads import DaemonThreads
from langchain_amulet.exceptions import StoreTimeoutError, UserIdError
from langchain_amulet.key_values import KeyValueAdapter

logger = logging.getLogger(__name__)

PAGE_SIZE = 500
_MAX_LABEL_BYTES = 200
_MAX_TTL_S = 1e9  # three decades; databases' dates end
_DELAYS_S = (0.0, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)  # SQLite itself has waited for 5 s before each
_DEADLOCKS = ("40001", "40P01")  # PostgreSQL's codes of transactions that were undone, since others were in their way

_T = TypeVar("_T")
Plan: TypeAlias = Generator[list[Op], list[Any], _T]
"""What to do with a store, without saying how: yields operations, is sent their results, and returns an answer."""


def namespace(root: str, user_id: str) -> tuple[str, str]:
    """Where a user's items are. The id is percent-encoded: labels allow no periods, and stores differ in what else.

    Raises:
        UserIdError: The id is no string, or empty.
    """
    if not isinstance(user_id, str):
        msg = f"A user id is a string, got {type(user_id).__name__}. Convert it, say by str(user_id)."
        raise UserIdError(msg)
    if not user_id:
        msg = "The user id is empty. Leave it out to ask without a user."
        raise UserIdError(msg)
    label = quote(user_id, safe="", errors="surrogatepass").replace(".", "%2E")
    if len(label) > _MAX_LABEL_BYTES:
        # "=" is always percent-encoded, so no other id has such a label.
        label = "sha256=" + hashlib.sha256(label.encode()).hexdigest()
    return (root, label)


def find_all(where: tuple[str, ...]) -> Plan[list[SearchItem]]:
    """All items of exactly this namespace.

    More than a page of them is asked for again as a whole: stores order pages by time, so that items move from page to
    page while others write, and items of the same time come in any order.
    """
    limit, num_found = PAGE_SIZE, 0
    while True:
        [page] = yield [SearchOp(where, limit=limit)]
        if len(page) < limit:
            break
        limit, num_found = 4 * limit, len(page)
    if page and len(page) == num_found:  # all there is, or all that this store finds at once
        page = [*page, *(yield from _find_rest(where, num_found))]
    # Some stores' search also finds namespaces that merely begin alike: another user's.
    return [*{item.key: item for item in page if item.namespace == where}.values()]


def _find_rest(where: tuple[str, ...], offset: int) -> Plan[list[SearchItem]]:
    rest: list[SearchItem] = []
    while True:
        [page] = yield [SearchOp(where, limit=PAGE_SIZE, offset=offset + len(rest))]
        if not page:
            return rest
        rest += page


def put(where: tuple[str, ...], key: str, value: dict[str, Any], expires_at: datetime | None = None) -> PutOp:
    """Write an item that no search by meaning indexes; stores that can drop it once it has expired."""
    ttl_s = float("inf") if expires_at is None else (expires_at - datetime.now(UTC)).total_seconds()
    return PutOp(where, key, value, index=False, ttl=max(0.0, ttl_s / 60) if ttl_s < _MAX_TTL_S else None)


def write(ops: Sequence[Op]) -> Plan[None]:
    """Write any number of items, in as many batches as databases take."""
    for start in range(0, len(ops), PAGE_SIZE):
        yield [*ops[start : start + PAGE_SIZE]]


def run(store: BaseStore, plan: Plan[_T], timeout_s: float | None = None) -> _T:
    """Carry a plan out.

    Raises:
        StoreTimeoutError: The store has not answered in time.
    """
    # An async store refuses to be waited for by the thread of its own event loop, and tells by the thread.
    if timeout_s is None or (isinstance(store, AsyncBatchedBaseStore) and _is_in_event_loop()):
        return _carry_out(store, plan)
    context = contextvars.copy_context()

    def work() -> _T:
        if _is_bound_to_another_thread(store):
            raise _BoundStoreError
        return context.run(_carry_out, store, plan)

    done = threads.of(store).submit(work)
    try:
        return done.result(timeout_s)
    except _BoundStoreError:
        return _carry_out(store, plan)
    except TimeoutError as error:
        if not done.cancel() and done.done():  # the store's own, or just in time
            return done.result()
        raise _timed_out(timeout_s) from error


class OnePerStore(Generic[_T]):
    """Something that each store has one of, for as long as the store is there.

    Args:
        make: Makes it.
    """

    def __init__(self, make: Callable[[], _T]) -> None:
        self._make = make
        self._lock = threading.RLock()  # the finalizers below may run while it is held
        self._found: dict[int, _T] = {}  # by id: stores need not be hashable

    def of(self, store: BaseStore) -> _T:
        """That of this store."""
        with self._lock:
            if id(store) not in self._found:
                self._found[id(store)] = self._make()
                weakref.finalize(store, self._found.pop, id(store), None)
            return self._found[id(store)]

    def all(self) -> list[_T]:
        """Those of all stores."""
        with self._lock:
            return [*self._found.values()]


# One store that hangs takes neither the threads of others nor those of event loops.
threads = OnePerStore(DaemonThreads)


async def arun(store: BaseStore, plan: Plan[_T], timeout_s: float | None = None) -> _T:
    """Carry a plan out, without holding up the event loop.

    Raises:
        StoreTimeoutError: The store has not answered in time.
    """
    return await to_the_end(_acarry_out(store, plan), timeout_s)


async def to_the_end(work: Coroutine[Any, Any, _T], timeout_s: float | None = None) -> _T:
    """Wait for work that goes on even if nobody waits any more.

    A store's connection whose work is cancelled may be left inside a transaction, and of no more use to anybody.

    Raises:
        StoreTimeoutError: It has taken too long.
    """
    task = asyncio.ensure_future(work)
    _under_way.add(task)
    task.add_done_callback(_let_go)
    finished, _ = await asyncio.wait([task], timeout=timeout_s)
    if timeout_s is not None and not finished:
        raise _timed_out(timeout_s)
    return task.result()


_under_way: set[asyncio.Future[Any]] = set()  # event loops forget tasks that nobody holds


def _let_go(task: asyncio.Future[Any]) -> None:
    _under_way.discard(task)
    if not task.cancelled():
        task.exception()  # told to whoever waits; asyncio need not complain if nobody does


def _carry_out(store: BaseStore, plan: Plan[_T]) -> _T:
    with contextlib.closing(plan):
        results: list[Any] | None = None
        while True:
            try:
                ops = plan.send(results)  # type: ignore[arg-type] # the first is None
            except StopIteration as end:
                answer: _T = end.value
                return answer
            results = _batch(store, ops)


async def _acarry_out(store: BaseStore, plan: Plan[_T]) -> _T:
    with contextlib.closing(plan):
        results: list[Any] | None = None
        while True:
            try:
                ops = plan.send(results)  # type: ignore[arg-type] # the first is None
            except StopIteration as end:
                answer: _T = end.value
                return answer
            results = await _abatch(store, ops)


def _batch(store: BaseStore, ops: list[Op]) -> list[Any]:
    ops = [_as_configured(store, op) for op in ops]
    delays_s = iter(_DELAYS_S)
    while True:
        try:
            return _ask(store, ops)
        except Exception as error:
            if _is_locked(error):
                _roll_back(store)
            if not _is_transient(error) or (delay_s := next(delays_s, None)) is None:
                raise
            logger.info("The store of preferences is in use (%s); trying again.", type(error).__name__)
        time.sleep(delay_s)


async def _abatch(store: BaseStore, ops: list[Op]) -> list[Any]:
    configured = [_as_configured(store, op) for op in ops]
    delays_s = iter(_DELAYS_S)
    while True:
        try:
            return _ask(store, configured) if _is_in_memory(store) else await store.abatch(configured)
        except NotImplementedError:  # a sync store, such as SqliteStore
            return await _batch_in_thread(store, ops)
        except Exception as error:
            if _is_locked(error):
                await _aroll_back(store)
            if not _is_transient(error) or (delay_s := next(delays_s, None)) is None:
                raise
            logger.info("The store of preferences is in use (%s); trying again.", type(error).__name__)
        await asyncio.sleep(delay_s)


_in_turn = threading.Lock()


def _ask(store: BaseStore, ops: list[Op]) -> list[Any]:
    with _in_turn if _is_in_memory(store) else contextlib.nullcontext():
        return store.batch(ops)


def _is_in_memory(store: BaseStore) -> bool:
    """Whether it is a plain dictionary: it answers at once, but searches fail while other threads write."""
    if isinstance(store, KeyValueAdapter):
        return isinstance(store.store, InMemoryBaseStore)
    return type(store) is InMemoryStore  # what others make of it may take its time


async def _batch_in_thread(store: BaseStore, ops: list[Op]) -> list[Any]:
    context = contextvars.copy_context()

    def work() -> list[Any]:
        if _is_bound_to_another_thread(store):
            raise _BoundStoreError
        return context.run(_batch, store, ops)

    try:
        return await asyncio.wrap_future(threads.of(store).submit(work))
    except _BoundStoreError:
        return _batch(store, ops)


def _as_configured(store: BaseStore, op: Op) -> Op:
    """As the store's own methods complete operations: its default time to live, and whether reading renews it."""
    config = store.ttl_config or {}
    if isinstance(op, PutOp):
        ttl = config.get("default_ttl") if op.ttl is None and op.value is not None else op.ttl
        return op._replace(ttl=ttl if store.supports_ttl else None)
    if isinstance(op, GetOp | SearchOp):
        return op._replace(refresh_ttl=bool(config) and config.get("refresh_on_read", True))
    return op


def _is_transient(error: BaseException) -> bool:
    """Whether the store has done nothing, because of what others did at that moment."""
    if isinstance(error, RuntimeError) and "changed size during iteration" in str(error):
        return True  # a store in memory, to which another thread writes without this package
    if "within a transaction" in str(error) and isinstance(error, sqlite3.OperationalError):
        return True  # of somebody else who uses the same connection
    return _is_locked(error) or getattr(error, "sqlstate", None) in _DEADLOCKS


def _is_locked(error: BaseException) -> bool:
    error = error.__cause__ or error  # SqliteStore raises a ValueError from what SQLite has said
    return isinstance(error, sqlite3.OperationalError) and "is locked" in str(error)


def _roll_back(store: BaseStore) -> None:
    """End the transaction that SqliteStore leaves open if it cannot commit, and would never get out of."""
    connection = getattr(store, "conn", None)
    if isinstance(connection, sqlite3.Connection):
        with getattr(store, "lock", contextlib.nullcontext()):
            connection.rollback()
    elif (loop := getattr(store, "loop", None)) is not None:  # of an async store, called by another thread
        asyncio.run_coroutine_threadsafe(_aroll_back(store), loop).result()


async def _aroll_back(store: BaseStore) -> None:
    connection: Any = getattr(store, "conn", None)
    if hasattr(connection, "in_transaction"):  # aiosqlite's
        async with getattr(store, "lock", contextlib.nullcontext()):
            await connection.rollback()


def _is_bound_to_another_thread(store: BaseStore) -> bool:
    """Connections to SQLite serve the thread that has opened them, unless they were told otherwise."""
    connection = getattr(store, "conn", None)
    if not isinstance(connection, sqlite3.Connection):
        return False
    try:
        connection.cursor().close()
    except sqlite3.ProgrammingError:
        return True
    return False


class _BoundStoreError(Exception):
    """The store has to be used by the thread that has opened it."""


def _is_in_event_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


def _timed_out(timeout_s: float) -> StoreTimeoutError:
    return StoreTimeoutError(
        f"The store of preferences has not answered within {timeout_s:g} s. See to the store, raise "
        f'PreferenceMemory(read_timeout=...), or answer without preferences: ChatAmulet(on_store_error="plain").'
    )
