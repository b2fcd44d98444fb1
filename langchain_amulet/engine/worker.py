"""The thread that owns all forwards of an engine."""

import queue
import threading
import weakref
from collections.abc import Callable

_Jobs = queue.SimpleQueue[Callable[[], None] | None]

_threads: "weakref.WeakSet[threading.Thread]" = weakref.WeakSet()


class Worker:
    """Runs jobs one after another, on one thread for life, as CUDA graphs want it.

    The thread ends when nobody refers to the worker any more. It is a daemon, so that a process can end in the middle
    of an answer, where a thread pool would wait for the last token; whoever owns it joins it then.
    """

    def __init__(self, name: str) -> None:
        self._jobs = _Jobs()
        self._thread = threading.Thread(target=_run, args=(self._jobs,), name=name, daemon=True)
        _threads.add(self._thread)
        self._thread.start()
        weakref.finalize(self, self._jobs.put, None).atexit = False

    def submit(self, job: Callable[[], None]) -> None:
        """Run a job after those before it."""
        self._jobs.put(job)

    def join(self, timeout_s: float) -> None:
        """Wait for the jobs submitted so far, and end the thread."""
        self._jobs.put(None)
        self._thread.join(timeout_s)


def join_orphans(timeout_s: float) -> None:
    """Wait for threads whose workers are gone, and that may be taking a model down."""
    for thread in [*_threads]:
        thread.join(timeout_s)


def _run(jobs: _Jobs) -> None:
    while (job := jobs.get()) is not None:
        job()
        del job  # or an idle thread would keep its engine alive
