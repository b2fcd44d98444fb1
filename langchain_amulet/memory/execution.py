"""Executes store operations for sync and async callers, with threads, timeouts and retries.

`_steps` yields the steps of an operation, including retries. `_perform_all` and `_aperform_all` perform them.
"""

import asyncio
import contextlib
import contextvars
import logging
import time
from collections.abc import Callable, Coroutine, Generator
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from typing import Any, Generic, NamedTuple, TypeAlias, TypeVar

from langgraph.store.base import BaseStore, Op
from langgraph.store.base.batch import AsyncBatchedBaseStore

from langchain_amulet.exceptions import StoreTimeoutError
from langchain_amulet.memory.daemon_threads import DaemonThreads, awaitable
from langchain_amulet.memory.store_ops import OnePerStore, ReadPreferences, StoreOperation, StoreRequest
from langchain_amulet.memory.store_quirks import (
    BoundStoreError,
    aroll_back,
    as_configured,
    ask,
    has_sync_connection,
    is_bound_to_another_thread,
    is_in_event_loop,
    is_in_memory,
    is_locked,
    is_transient,
    roll_back,
)

logger = logging.getLogger(__name__)
_INTERRUPTED_S = 1.0  # wait for the store's lock after an interrupt, which may have come before its release
_DELAYS_S = (0.0, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)  # SQLite itself waits up to 5 s before each attempt fails

_T = TypeVar("_T")

# Each store has its own threads, so that a store that hangs does not block others or the threads of event loops.
threads = OnePerStore(DaemonThreads)


def run(store: BaseStore, operation: StoreOperation[_T], timeout_s: float | None = None) -> _T:
    """Execute an operation and return its result.

    Args:
        store: The store to read or write.
        operation: The operation to execute.
        timeout_s: Seconds to wait; `None` waits without a limit, and in the calling thread.

    Raises:
        StoreTimeoutError: The store did not answer within `timeout_s`.
    """
    perform = partial(_perform_all, store, _steps(operation))
    # An async store refuses sync calls from the thread of its event loop. It recognises them by the thread.
    if timeout_s is None or (isinstance(store, AsyncBatchedBaseStore) and is_in_event_loop()):
        return perform()
    future = _submit(store, perform)
    try:
        return future.result(timeout_s)
    except BoundStoreError:
        return perform()
    except TimeoutError as error:
        if not future.cancel() and future.done():  # the store raised the error, or it answered just in time
            return future.result()
        raise _timed_out(timeout_s) from error
    finally:
        future.cancel()  # nobody waits for it after a KeyboardInterrupt


async def arun(store: BaseStore, operation: StoreOperation[_T], timeout_s: float | None = None) -> _T:
    """Async `run`; the event loop is not blocked.

    If the caller is cancelled or the timeout is over, a call that still waits for a thread is not made any more.

    Raises:
        StoreTimeoutError: The store did not answer within `timeout_s`.
    """
    submitted = _Submitted()
    token = _submitted.set(submitted)  # copied into the context of the task that `finish` starts
    try:
        return await finish(_aperform_all(store, _steps(operation)), timeout_s)
    finally:
        submitted.cancel_waiting()
        _submitted.reset(token)


class _Submitted:
    """The call of an async operation that waits for a thread of the store or runs in it."""

    def __init__(self) -> None:
        self.future: Future[Any] | None = None

    def cancel_waiting(self) -> None:
        """Cancel the call if it waits for a thread. A call in progress goes on."""
        if self.future is not None:
            self.future.cancel()


_submitted: contextvars.ContextVar[_Submitted | None] = contextvars.ContextVar("_submitted", default=None)


async def finish(work: Coroutine[Any, Any, _T], timeout_s: float | None = None) -> _T:
    """Wait for a coroutine. It runs to its end even if the caller is cancelled or the timeout is over.

    Cancelling a call in progress could leave the store's connection inside a transaction, and so unusable.

    Raises:
        StoreTimeoutError: The coroutine did not finish within `timeout_s`.
    """
    task = asyncio.ensure_future(work)
    _pending.add(task)
    task.add_done_callback(_on_done)
    finished, _ = await asyncio.wait([task], timeout=timeout_s)
    if timeout_s is not None and not finished:
        raise _timed_out(timeout_s)
    return task.result()


_pending: set[asyncio.Future[Any]] = set()  # keeps tasks alive: event loops hold only weak references to them


def _on_done(task: asyncio.Future[Any]) -> None:
    _pending.discard(task)
    if not task.cancelled():
        task.exception()  # marks it as retrieved; otherwise asyncio logs an error if no caller waits any more


class _RollBack(NamedTuple):
    """A step: roll back the transaction that a failed write left open."""


class _Sleep(NamedTuple):
    """A step: wait."""

    delay_s: float


@dataclass(frozen=True, slots=True)
class _Done(Generic[_T]):
    """The last step: there is nothing left to do."""

    result: _T


_Step: TypeAlias = StoreRequest | _RollBack | _Sleep | _Done[_T]
_Steps: TypeAlias = Generator[_Step[_T], Any, None]


def _steps(operation: StoreOperation[_T]) -> _Steps[_T]:
    """Yield the steps of an operation. The caller performs each step, and sends its result or throws its error."""
    with contextlib.closing(operation):
        result: Any = None
        while True:
            try:
                request = operation.send(result)
            except StopIteration as end:
                done = _Done(end.value)
                break
            result = yield from _attempts(request)
    yield done


def _attempts(request: StoreRequest) -> Generator[StoreRequest | _RollBack | _Sleep, Any, Any]:
    """Yield the steps of one request. Retry it after a delay if it fails with a transient error."""
    delays_s = iter(_DELAYS_S)
    while True:
        try:
            return (yield request)
        except Exception as error:
            if is_locked(error):
                yield _RollBack()
            if not is_transient(error) or (delay_s := next(delays_s, None)) is None:
                raise
            logger.info("The store of preferences is in use (%s); trying again.", type(error).__name__)
        yield _Sleep(delay_s)


def _perform_all(store: BaseStore, steps: _Steps[_T]) -> _T:
    with contextlib.closing(steps):
        step = next(steps)
        while not isinstance(step, _Done):
            try:
                result = _perform(store, step)
            except StopIteration:  # from a user's function; it cannot be thrown into a generator (PEP 479)
                raise
            except Exception as error:  # noqa: BLE001 - `_attempts` raises it again, unless it is transient
                step = steps.throw(error)
            except BaseException:  # a KeyboardInterrupt may leave a transaction open, in which all later writes fail
                if has_sync_connection(store):
                    roll_back(store, wait_s=_INTERRUPTED_S)
                raise
            else:
                step = steps.send(result)
        return step.result


async def _aperform_all(store: BaseStore, steps: _Steps[_T]) -> _T:
    with contextlib.closing(steps):
        step = next(steps)
        while not isinstance(step, _Done):
            try:
                result = await _aperform(store, step)
            except Exception as error:  # noqa: BLE001 - `_attempts` raises it again, unless it is transient
                step = steps.throw(error)
            else:
                step = steps.send(result)
        return step.result


def _perform(store: BaseStore, step: StoreRequest | _RollBack | _Sleep) -> Any:
    match step:
        case _Sleep():
            return time.sleep(step.delay_s)
        case _RollBack():
            return roll_back(store)
        case ReadPreferences():
            return step.reader.read(step.user_id)
        case ops:
            return ask(store, [as_configured(store, op) for op in ops])


async def _aperform(store: BaseStore, step: StoreRequest | _RollBack | _Sleep) -> Any:
    match step:
        case _Sleep():
            return await asyncio.sleep(step.delay_s)
        case _RollBack() if has_sync_connection(store):
            return await in_thread(store, partial(roll_back, store))
        case _RollBack():
            return await aroll_back(store)
        case ReadPreferences():
            return await step.reader.aread(step.user_id)
        case ops:
            return await _abatch(store, [as_configured(store, op) for op in ops])


async def _abatch(store: BaseStore, ops: list[Op]) -> list[Any]:
    if is_in_memory(store):
        return ask(store, ops)
    try:
        return await store.abatch(ops)
    except NotImplementedError:  # a sync store, such as SqliteStore
        return await in_thread(store, partial(ask, store, ops))


async def in_thread(store: BaseStore, function: Callable[[], _T]) -> _T:
    """Call a function in one of the store's threads, or in this one if the store works only in it."""
    future = _submit(store, awaitable(function))
    if (submitted := _submitted.get()) is not None:
        submitted.future = future
    try:
        return await asyncio.wrap_future(future)
    except BoundStoreError:
        return function()


def _submit(store: BaseStore, function: Callable[[], _T]) -> "Future[_T]":
    """Call a function in one of the store's threads, with the context variables of the caller.

    If the store works only in the thread that opened it, the function is not called, and the future raises
    `BoundStoreError`.
    """
    context = contextvars.copy_context()

    def call() -> _T:
        if is_bound_to_another_thread(store):
            raise BoundStoreError
        return context.run(function)

    return threads.of(store).submit(call)


def _timed_out(timeout_s: float) -> StoreTimeoutError:
    return StoreTimeoutError(
        f"The store of preferences did not answer within {timeout_s:g} s. Check the store, raise "
        f'PreferenceMemory(read_timeout=...), or answer without preferences: ChatAmulet(on_store_error="plain").'
    )
