"""Logs failures of preference stores, at most once a minute per kind of error."""

import logging
import threading
import time
from collections.abc import Callable

from langchain_amulet.forks import renew_after_fork

_INTERVAL_S = 60.0


class OutageLog:
    """Logs a warning for the first failure of each kind, and then at most one per kind and minute.

    Args:
        logger: Where to log.
        clock: Returns the time in seconds, from any origin.
    """

    def __init__(self, logger: logging.Logger, clock: Callable[[], float] = time.monotonic) -> None:
        self._logger = logger
        self._clock = clock
        self._last_logged_s: dict[str, float] = {}
        self._num_suppressed: dict[str, int] = {}
        self.renew()
        renew_after_fork(self)

    def renew(self) -> None:
        """Replace the lock, which another thread may have held at a fork."""
        self._lock = threading.Lock()

    def report(self, kind: str) -> None:
        """Log that a store could not be read; within a minute of the last message of the kind, only count it.

        Args:
            kind: The name of the error's type. The error's message may quote the user, so it is not logged.
        """
        now = self._clock()
        with self._lock:
            last = self._last_logged_s.get(kind)
            if last is not None and now - last < _INTERVAL_S:
                self._num_suppressed[kind] = self._num_suppressed.get(kind, 0) + 1
                return
            self._last_logged_s[kind] = now
            num_suppressed = self._num_suppressed.pop(kind, 0)
        self._logger.warning(
            "The preference store could not be read (%s), so an answer ignores its user's preferences.%s",
            kind,
            f" So did {num_suppressed} more answers since the last message." if num_suppressed else "",
        )
