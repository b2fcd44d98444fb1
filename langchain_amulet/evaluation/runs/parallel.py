"""Concurrent execution with results in the order of completion."""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from itertools import islice
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def in_parallel(work: Callable[[Item], Result], items: Iterable[Item], num_at_once: int) -> Iterator[Result]:
    """Call `work` on each item in up to `num_at_once` threads, and yield results as they complete.

    After the first error, no further call starts. Calls in progress complete, and their results are yielded.

    Raises:
        BaseException: The first error of `work`, raised after the last result.
    """
    error: BaseException | None = None
    with ThreadPoolExecutor(num_at_once) as pool:
        waiting = iter(items)
        running: set[Future[Result]] = {pool.submit(work, item) for item in islice(waiting, num_at_once)}
        while running:
            done, running = wait(running, return_when=FIRST_COMPLETED)
            for future in done:
                if (failure := future.exception()) is None:
                    yield future.result()
                else:
                    error = error or failure
            if error is None:
                running |= {pool.submit(work, item) for item in islice(waiting, len(done))}
    if error is not None:
        raise error
