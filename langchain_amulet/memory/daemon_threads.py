"""A few threads that do what may never end, and that hold up no exit."""

import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

_T = TypeVar("_T")

_IDLE_S = 10.0


class DaemonThreads:
    """Like `ThreadPoolExecutor`, whose threads the interpreter would wait for at exit.

    Args:
        max_threads: More work than that waits for one of them.
    """

    def __init__(self, max_threads: int = 32) -> None:
        self._max_threads = max_threads
        self._wakes = threading.Condition()
        self._waiting: deque[tuple[Future[Any], Callable[[], Any]]] = deque()
        self._num_threads = 0
        self._num_idle = 0

    def submit(self, work: Callable[[], _T]) -> "Future[_T]":
        """Do it as soon as a thread is free; what is cancelled before is not begun."""
        future: Future[_T] = Future()
        with self._wakes:
            self._waiting.append((future, work))
            if self._num_idle < len(self._waiting) and self._num_threads < self._max_threads:
                self._num_threads += 1
                threading.Thread(target=self._serve, name="amulet-store", daemon=True).start()
            else:
                self._wakes.notify()
        return future

    def _serve(self) -> None:
        while (next_one := self._next()) is not None:
            future, work = next_one
            del next_one
            if not future.set_running_or_notify_cancel():
                continue
            try:
                future.set_result(work())
            except BaseException as error:  # noqa: BLE001 - it is the caller's
                future.set_exception(error)
            del future, work  # an idle thread holds on to nothing

    def _next(self) -> tuple[Future[Any], Callable[[], Any]] | None:
        with self._wakes:
            self._num_idle += 1
            has_work = self._wakes.wait_for(lambda: bool(self._waiting), _IDLE_S)
            self._num_idle -= 1
            if has_work:
                return self._waiting.popleft()
            self._num_threads -= 1
            return None
