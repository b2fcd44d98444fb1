"""A pool of daemon threads, for store calls that may never return."""

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

from langchain_amulet.forks import renew_after_fork

_T = TypeVar("_T")

_IDLE_S = 10.0  # after which an idle thread ends


class DaemonThreads:
    """A thread pool of daemon threads.

    Unlike `ThreadPoolExecutor`, it does not make the interpreter wait for its threads at exit, it forgets cancelled
    calls at once, and it starts new threads in forked processes.

    Args:
        max_threads: The maximum number of threads. Further calls wait until a thread is free.
    """

    def __init__(self, max_threads: int = 32) -> None:
        self._max_threads = max_threads
        self.renew()
        renew_after_fork(self)

    def renew(self) -> None:
        """Start anew without threads and calls: in a forked process, those of the parent do not run."""
        self._condition = threading.Condition()
        self._waiting: dict[Future[Any], Callable[[], Any]] = {}  # in the order of submission
        self._num_threads = 0
        self._num_idle = 0

    @property
    def num_waiting(self) -> int:
        """The number of calls that wait for a thread."""
        return len(self._waiting)

    def submit(self, function: Callable[[], _T]) -> "Future[_T]":
        """Call `function` as soon as a thread is free, unless the returned future is cancelled before.

        Raises:
            RuntimeError: The operating system starts no more threads.
        """
        future: Future[_T] = Future()
        with self._condition:
            if self._num_idle <= len(self._waiting) and self._num_threads < self._max_threads:
                threading.Thread(target=self._serve, name="amulet-store", daemon=True).start()
                self._num_threads += 1
            self._waiting[future] = function
            self._condition.notify()
        future.add_done_callback(self._discard)
        return future

    def _discard(self, future: Future[Any]) -> None:
        """Forget a call that was cancelled while it waited for a thread."""
        with self._condition:
            self._waiting.pop(future, None)

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
                future = next(iter(self._waiting))
                return future, self._waiting.pop(future)
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
