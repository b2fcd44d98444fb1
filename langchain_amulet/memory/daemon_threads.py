"""A pool of daemon threads, for store calls that may never return."""

import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

_T = TypeVar("_T")

_IDLE_S = 10.0  # after which an idle thread ends


class DaemonThreads:
    """A thread pool of daemon threads.

    Unlike `ThreadPoolExecutor`, it does not make the interpreter wait for its threads at exit.

    Args:
        max_threads: The maximum number of threads. Further calls wait until a thread is free.
    """

    def __init__(self, max_threads: int = 32) -> None:
        self._max_threads = max_threads
        self._condition = threading.Condition()
        self._waiting: deque[tuple[Future[Any], Callable[[], Any]]] = deque()
        self._num_threads = 0
        self._num_idle = 0

    def submit(self, function: Callable[[], _T]) -> "Future[_T]":
        """Call `function` as soon as a thread is free, unless the returned future is cancelled before."""
        future: Future[_T] = Future()
        with self._condition:
            self._waiting.append((future, function))
            if self._num_idle < len(self._waiting) and self._num_threads < self._max_threads:
                self._num_threads += 1
                threading.Thread(target=self._serve, name="amulet-store", daemon=True).start()
            else:
                self._condition.notify()
        return future

    def _serve(self) -> None:
        while (item := self._next()) is not None:
            future, function = item
            del item
            if not future.set_running_or_notify_cancel():
                continue
            try:
                future.set_result(function())
            except BaseException as error:  # noqa: BLE001 - passed on to the caller
                future.set_exception(error)
            del future, function  # an idle thread keeps no references

    def _next(self) -> tuple[Future[Any], Callable[[], Any]] | None:
        with self._condition:
            self._num_idle += 1
            has_work = self._condition.wait_for(lambda: bool(self._waiting), _IDLE_S)
            self._num_idle -= 1
            if has_work:
                return self._waiting.popleft()
            self._num_threads -= 1
            return None


def awaitable(function: Callable[[], _T]) -> Callable[[], _T]:
    """Return a function that raises `RuntimeError` in place of `StopIteration`.

    asyncio cannot raise `StopIteration` from a future: whoever awaits it would wait for ever.
    """

    def call() -> _T:
        try:
            return function()
        except StopIteration as error:
            msg = "The function raised StopIteration."
            raise RuntimeError(msg) from error

    return call
