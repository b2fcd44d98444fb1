"""Preferences read a moment ago, per store and user."""

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import NamedTuple

from langchain_amulet.memory.store_ops import OnePerStore
from langchain_amulet.preferences import Preference

_MAX_USERS = 1024


class Recalled(NamedTuple):
    """A user's preferences, and since when they are known."""

    preferences: tuple[Preference, ...]
    age_s: float
    """Seconds since they were read; 0 if they were read for this call."""


class Reading(NamedTuple):
    """When a user's preferences began to be read."""

    at_s: float
    num_writes: int


class _Entry(NamedTuple):
    at_s: float
    reader: Hashable
    preferences: tuple[Preference, ...]


class RecallCache:
    """What was read of one store, until somebody writes to it through this process or it is too old.

    Args:
        clock: Seconds, from any start.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._entries: OrderedDict[tuple[str, ...], _Entry] = OrderedDict()
        self._num_writes = 0

    def get(self, where: tuple[str, ...], reader: Hashable, max_age_s: float) -> Recalled | None:
        """What this kind of reader has found of this user, if it is young enough; nothing that has expired."""
        with self._lock:
            entry = self._entries.get(where)
        if entry is None or entry.reader != reader or (age_s := self._clock() - entry.at_s) > max_age_s:
            return None
        return Recalled(tuple(each for each in entry.preferences if not each.is_expired), age_s)

    def begin(self) -> Reading:
        """To be called before the store is read."""
        return Reading(self._clock(), self._num_writes)

    def put(
        self, where: tuple[str, ...], reader: Hashable, preferences: tuple[Preference, ...], reading: Reading
    ) -> None:
        """Keep what was read, unless somebody has written meanwhile: it may be what was there before."""
        with self._lock:
            if reading.num_writes == self._num_writes:
                self._entries[where] = _Entry(reading.at_s, reader, preferences)
                self._entries.move_to_end(where)
                while len(self._entries) > _MAX_USERS:
                    self._entries.popitem(last=False)

    def drop(self, where: tuple[str, ...]) -> None:
        """Drop what is known of this user."""
        with self._lock:
            self._num_writes += 1
            self._entries.pop(where, None)


caches = OnePerStore(RecallCache)  # for all memories over a store


def drop_everywhere(where: tuple[str, ...]) -> None:
    """Drop what is known of this user from whatever store: two of this process may keep to the same database."""
    for cache in caches.all():
        cache.drop(where)
