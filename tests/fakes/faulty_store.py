"""A LangGraph store over another one, whose next operations fail as networks and disks do."""

import errno
import sqlite3
from collections.abc import Iterable
from typing import Any

from langgraph.store.base import BaseStore, Op, Result

from tests.fakes.figures import count

ERRORS = (
    OSError(errno.ENOSPC, "No space left on device"),
    ConnectionResetError("the connection is gone"),
    sqlite3.OperationalError("disk I/O error"),
    TimeoutError("no answer"),
)


class FaultyStore(BaseStore):
    """Passes operations on, unless one is to fail.

    Args:
        store: The store that does the work.
    """

    supports_ttl = True

    def __init__(self, store: BaseStore) -> None:
        self._store = store
        self._delay: int | None = None
        self._error: Exception = ERRORS[0]
        self._does_it = False
        self.num_failed = 0

    def fail(self, error: Exception, *, delay: int, does_it: bool) -> None:
        """Let `delay` operations pass and the next one fail; with `does_it`, only its answer is lost."""
        self._error, self._delay, self._does_it = error, delay, does_it

    def mend(self) -> None:
        """Let all operations pass."""
        self._delay = None

    def batch(self, ops: Iterable[Op]) -> list[Result]:
        """Pass operations on, or fail."""
        is_due = self._is_due()
        if is_due and not self._does_it:
            raise type(self._error)(*self._error.args)
        results = self._store.batch(ops)
        if is_due:
            raise type(self._error)(*self._error.args)
        return results

    async def abatch(self, ops: Iterable[Op]) -> list[Result]:
        """Async `batch`; the sync stores of the tests answer at once."""
        return self.batch(ops)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    def _is_due(self) -> bool:
        if self._delay is None:
            return False
        self._delay -= 1
        if self._delay >= 0:
            return False
        self._delay = None
        self.num_failed += 1
        count("faults injected")
        return True
