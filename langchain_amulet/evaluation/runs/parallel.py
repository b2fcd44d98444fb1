"""Several jobs at once, results as they come."""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from itertools import islice
from typing import TypeVar

Job = TypeVar("Job")
Result = TypeVar("Result")


def in_parallel(work: Callable[[Job], Result], jobs: Iterable[Job], num_at_once: int) -> Iterator[Result]:
    """Results as they come; after a failure nothing more is begun, and what is under way is still given out.

    Raises:
        BaseException: The first failure, after the last result.
    """
    error: BaseException | None = None
    with ThreadPoolExecutor(num_at_once) as pool:
        waiting = iter(jobs)
        running: set[Future[Result]] = {pool.submit(work, job) for job in islice(waiting, num_at_once)}
        while running:
            done, running = wait(running, return_when=FIRST_COMPLETED)
            for future in done:
                if (failure := future.exception()) is None:
                    yield future.result()
                else:
                    error = error or failure
            if error is None:
                running |= {pool.submit(work, job) for job in islice(waiting, len(done))}
    if error is not None:
        raise error
