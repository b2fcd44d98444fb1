"""Checks that run in a forked process."""

import os
import signal
from collections.abc import Callable


def in_child(check: Callable[[], bool]) -> bool:
    """Whether `check` returns true in a forked process, within 30 seconds."""
    pid = os.fork()
    if pid == 0:
        signal.alarm(30)
        is_fine = False
        try:
            is_fine = check()
        finally:
            os._exit(0 if is_fine else 1)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
