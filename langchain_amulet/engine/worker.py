"""The thread that runs all forwards of an engine."""

import queue
import threading
import weakref
from collections.abc import Callable

_Jobs = queue.SimpleQueue[Callable[[], None] | None]

_threads: "weakref.WeakSet[threading.Thread]" = weakref.WeakSet()


class Worker:
    """Runs jobs one after another, always on the same thread, as CUDA graphs require.

    The thread ends when the worker is garbage collected. It is a daemon thread, so that the process can exit while an
    answer is generated; a `ThreadPoolExecutor` would wait for the last token. The engine joins the thread at exit.
    """

    def __init__(self, name: str) -> None:
        self._jobs = _Jobs()
        self._thread = threading.Thread(target=_run, args=(self._jobs,), name=name, daemon=True)
        _threads.add(self._thread)
        self._thread.start()
        weakref.finalize(self, self._jobs.put, None).atexit = False

    def submit(self, job: Callable[[], None]) -> None:
        """Run a job after all earlier ones."""
        self._jobs.put(job)

    def join(self, timeout_s: float) -> None:
        """End the thread after the jobs submitted so far, and wait for it."""
        self._jobs.put(None)
        self._thread.join(timeout_s)


def join_orphans(timeout_s: float) -> None:
    """Wait for the threads of garbage-collected workers, which may still be freeing a model."""
    for thread in [*_threads]:
        thread.join(timeout_s)


def _run(jobs: _Jobs) -> None:
    while (job := jobs.get()) is not None:
        job()
        del job  # an idle thread must not keep its engine alive
