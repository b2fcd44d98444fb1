"""A cache of recently read preferences, per store and user."""

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import NamedTuple

from langchain_amulet.forks import renew_after_fork
from langchain_amulet.memory.store_ops import OnePerStore
from langchain_amulet.preferences import Preference

_MAX_USERS = 1024


class Recalled(NamedTuple):
    """A user's preferences, and how old they are."""

    preferences: tuple[Preference, ...]
    age_s: float
    """Seconds since they were read from the store; 0 if they were read for this call."""


class ReadStart(NamedTuple):
    """The state of the cache when a read of the store began."""

    at_s: float
    num_writes: int


class _Entry(NamedTuple):
    at_s: float
    variant: Hashable
    preferences: tuple[Preference, ...]


class RecallCache:
    """The preferences read from one store. An entry is dropped when this process writes for its user.

    Args:
        clock: Returns the time in seconds, from any origin.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._entries: OrderedDict[tuple[str, ...], _Entry] = OrderedDict()
        self._num_writes = 0
        self.renew()
        renew_after_fork(self)

    def renew(self) -> None:
        """Replace the lock, which another thread may have held at a fork."""
        self._lock = threading.Lock()

    def get(self, namespace: tuple[str, ...], variant: Hashable, max_age_s: float) -> Recalled | None:
        """Return the unexpired preferences of a user, or `None` if they are not cached or older than `max_age_s`.

        Args:
            namespace: The namespace of the user's preferences.
            variant: Identifies other data that was read with them, such as langmem's namespace. An entry with another
                variant is not returned.
            max_age_s: Maximum age in seconds.
        """
        with self._lock:
            entry = self._entries.get(namespace)
        if entry is None or entry.variant != variant or (age_s := self._clock() - entry.at_s) > max_age_s:
            return None
        return Recalled(tuple(preference for preference in entry.preferences if not preference.is_expired), age_s)

    def start_read(self) -> ReadStart:
        """Call this before the store is read, and pass the result to `put`."""
        return ReadStart(self._clock(), self._num_writes)

    def put(
        self, namespace: tuple[str, ...], variant: Hashable, preferences: tuple[Preference, ...], start: ReadStart
    ) -> None:
        """Store preferences that were read, unless there was a write since `start`, which the read may have missed."""
        with self._lock:
            if start.num_writes == self._num_writes:
                self._entries[namespace] = _Entry(start.at_s, variant, preferences)
                self._entries.move_to_end(namespace)
                while len(self._entries) > _MAX_USERS:
                    self._entries.popitem(last=False)

    def drop(self, namespace: tuple[str, ...]) -> None:
        """Drop the entry of a user."""
        with self._lock:
            self._num_writes += 1
            self._entries.pop(namespace, None)


caches = OnePerStore(RecallCache)  # shared by all memories over a store


def drop_everywhere(namespace: tuple[str, ...]) -> None:
    """Drop a user's entries for all stores, since two stores of this process may use the same database."""
    for cache in caches.all():
        cache.drop(namespace)
