"""Executing store operations, sync and async: threads, timeouts and retries."""

import asyncio
import contextlib
import contextvars
import logging
import time
from collections.abc import Coroutine
from typing import Any, TypeVar

from langgraph.store.base import BaseStore, Op
from langgraph.store.base.batch import AsyncBatchedBaseStore

from langchain_amulet.exceptions import StoreTimeoutError
from langchain_amulet.memory.daemon_threads import DaemonThreads
from langchain_amulet.memory.store_ops import OnePerStore, StoreOperation
from langchain_amulet.memory.store_quirks import (
    BoundStoreError,
    aroll_back,
    as_configured,
    ask,
    is_bound_to_another_thread,
    is_in_event_loop,
    is_in_memory,
    is_locked,
    is_transient,
    roll_back,
)

logger = logging.getLogger(__name__)
_DELAYS_S = (0.0, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)  # SQLite itself has waited for 5 s before each

_T = TypeVar("_T")


def run(store: BaseStore, plan: StoreOperation[_T], timeout_s: float | None = None) -> _T:
    """Carry a plan out.

    Raises:
        StoreTimeoutError: The store has not answered in time.
    """
    # An async store refuses to be waited for by the thread of its own event loop, and tells by the thread.
    if timeout_s is None or (isinstance(store, AsyncBatchedBaseStore) and is_in_event_loop()):
        return _carry_out(store, plan)
    context = contextvars.copy_context()

    def work() -> _T:
        if is_bound_to_another_thread(store):
            raise BoundStoreError
        return context.run(_carry_out, store, plan)

    done = threads.of(store).submit(work)
    try:
        return done.result(timeout_s)
    except BoundStoreError:
        return _carry_out(store, plan)
    except TimeoutError as error:
        if not done.cancel() and done.done():  # the store's own, or just in time
            return done.result()
        raise _timed_out(timeout_s) from error


# One store that hangs takes neither the threads of others nor those of event loops.
threads = OnePerStore(DaemonThreads)


async def arun(store: BaseStore, plan: StoreOperation[_T], timeout_s: float | None = None) -> _T:
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


def _carry_out(store: BaseStore, plan: StoreOperation[_T]) -> _T:
    with contextlib.closing(plan):
        results: list[Any] | None = None
        while True:
            try:
                ops = plan.send(results)  # type: ignore[arg-type] # the first is None
            except StopIteration as end:
                answer: _T = end.value
                return answer
            results = _batch(store, ops)


async def _acarry_out(store: BaseStore, plan: StoreOperation[_T]) -> _T:
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
    ops = [as_configured(store, op) for op in ops]
    delays_s = iter(_DELAYS_S)
    while True:
        try:
            return ask(store, ops)
        except Exception as error:
            if is_locked(error):
                roll_back(store)
            if not is_transient(error) or (delay_s := next(delays_s, None)) is None:
                raise
            logger.info("The store of preferences is in use (%s); trying again.", type(error).__name__)
        time.sleep(delay_s)


async def _abatch(store: BaseStore, ops: list[Op]) -> list[Any]:
    configured = [as_configured(store, op) for op in ops]
    delays_s = iter(_DELAYS_S)
    while True:
        try:
            return ask(store, configured) if is_in_memory(store) else await store.abatch(configured)
        except NotImplementedError:  # a sync store, such as SqliteStore
            return await _batch_in_thread(store, ops)
        except Exception as error:
            if is_locked(error):
                await aroll_back(store)
            if not is_transient(error) or (delay_s := next(delays_s, None)) is None:
                raise
            logger.info("The store of preferences is in use (%s); trying again.", type(error).__name__)
        await asyncio.sleep(delay_s)


async def _batch_in_thread(store: BaseStore, ops: list[Op]) -> list[Any]:
    context = contextvars.copy_context()

    def work() -> list[Any]:
        if is_bound_to_another_thread(store):
            raise BoundStoreError
        return context.run(_batch, store, ops)

    try:
        return await asyncio.wrap_future(threads.of(store).submit(work))
    except BoundStoreError:
        return _batch(store, ops)


def _timed_out(timeout_s: float) -> StoreTimeoutError:
    return StoreTimeoutError(
        f"The store of preferences has not answered within {timeout_s:g} s. See to the store, raise "
        f'PreferenceMemory(read_timeout=...), or answer without preferences: ChatAmulet(on_store_error="plain").'
    )
