"""Who is told that something was forgotten."""

import sys
import threading

import pytest

from langchain_amulet import PreferenceMemory
from langchain_amulet.memory.access import tell_when_forgetting


class Deaf:
    """A cache of derived data that has none."""

    def forget_private(self) -> None:
        """Drop nothing."""


@pytest.fixture
def hasty_threads():
    """Threads take turns as often as they can."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(interval)


@pytest.mark.usefixtures("hasty_threads")
def test_models_that_load_meanwhile_do_not_disturb_forgetting():
    def load_and_free() -> None:
        while not is_done.is_set():
            for cache in [Deaf() for _ in range(50)]:
                tell_when_forgetting(cache)

    kept, is_done, memory = [Deaf() for _ in range(500)], threading.Event(), PreferenceMemory()
    for cache in kept:
        tell_when_forgetting(cache)
    thread = threading.Thread(target=load_and_free)
    thread.start()
    try:
        for _ in range(300):
            memory.forget("alice")
    finally:
        is_done.set()
        thread.join()
