"""Reads and writes the store of a memory, with timeouts and caches.

`PreferenceMemory`, the lookup of a chat model and `FeedbackLearner` all read and write through `StoreAccess`.
"""

import threading
import weakref
from collections.abc import Sequence
from typing import Protocol, TypeVar

from langgraph.store.base import BaseStore

from langchain_amulet.foreign_errors import failed_store, shielded
from langchain_amulet.forks import renew_after_fork
from langchain_amulet.memory import operations
from langchain_amulet.memory.execution import arun, finish, run
from langchain_amulet.memory.items import PREFERENCES, StoredPreference
from langchain_amulet.memory.recall_cache import ReadStart, Recalled, caches, drop_everywhere
from langchain_amulet.memory.store_ops import StoreOperation, namespace_of

_T = TypeVar("_T")


class PrivateCache(Protocol):
    """An object that caches data derived from preferences, such as an engine that reuses keys and values."""

    def forget_private(self) -> None:
        """Drop the cached data."""


_private_caches: "weakref.WeakValueDictionary[int, PrivateCache]" = weakref.WeakValueDictionary()  # by id


def tell_when_forgetting(cache: PrivateCache) -> None:
    """Call `cache.forget_private()` whenever any memory of this process deletes or replaces a preference.

    The cache is held by a weak reference.
    """
    _private_caches[id(cache)] = cache


class _Deletions:
    """Counts how often preferences were deleted or replaced in this process."""

    def __init__(self) -> None:
        self.count = 0
        self.renew()
        renew_after_fork(self)

    def renew(self) -> None:
        """Replace the lock, which another thread may have held at a fork."""
        self._lock = threading.Lock()

    def add(self) -> None:
        with self._lock:
            self.count += 1


_deletions = _Deletions()


def num_deletions() -> int:
    """Return how often any memory of this process has deleted or replaced a preference.

    As long as the number is what it was before a preference was read, that preference was not forgotten.
    """
    return _deletions.count


class StoreAccess:
    """Reads and writes the store of one memory.

    Args:
        store: The store.
        read_timeout_s: Seconds to wait for a read; `None` waits without a limit. Writes have no timeout.
        cache_s: Maximum age of cached preferences in seconds; 0 turns the cache off.
        langmem_namespace: The namespace of langmem's memories, with `{langgraph_user_id}` for the user id. `None` reads
            none.
    """

    def __init__(
        self,
        store: BaseStore,
        *,
        read_timeout_s: float | None,
        cache_s: float,
        langmem_namespace: tuple[str, ...] | None,
    ) -> None:
        self.store = store
        self._read_timeout_s = read_timeout_s
        self._cache_s = cache_s
        self._langmem_namespace = langmem_namespace

    def recall(self, user_id: str) -> Recalled:
        """Return a user's preferences and their age, from the cache if they are at most `cache_s` old."""
        namespace = namespace_of(PREFERENCES, user_id)
        if (cached := self._cached(namespace)) is not None:
            return cached
        start = caches.of(self.store).start_read()
        return self._recalled(namespace, self.read(self.recall_operation(user_id)), start)

    async def arecall(self, user_id: str) -> Recalled:
        """Async `recall`."""
        namespace = namespace_of(PREFERENCES, user_id)
        if (cached := self._cached(namespace)) is not None:
            return cached
        start = caches.of(self.store).start_read()
        return self._recalled(namespace, await self.aread(self.recall_operation(user_id)), start)

    def _cached(self, namespace: tuple[str, ...]) -> Recalled | None:
        if not self._cache_s:
            return None
        return caches.of(self.store).get(namespace, self._langmem_namespace, self._cache_s)

    def _recalled(self, namespace: tuple[str, ...], profile: Sequence[StoredPreference], start: ReadStart) -> Recalled:
        preferences = tuple(stored.preference for stored in profile)
        if self._cache_s:
            caches.of(self.store).put(namespace, self._langmem_namespace, preferences, start)
        return Recalled(preferences, 0.0)

    def recall_operation(self, user_id: str) -> StoreOperation[list[StoredPreference]]:
        """Return the operation that reads a user's preferences without the cache, also for use in other operations."""
        return operations.recall(self.store, user_id, self._langmem_namespace)

    @shielded(failed_store)
    def read(self, operation: StoreOperation[_T]) -> _T:
        """Execute a read-only operation.

        Raises:
            StoreTimeoutError: The store did not answer within the read timeout.
            StoreError: The store has raised an error.
        """
        return run(self.store, operation, self._read_timeout_s)

    @shielded(failed_store)
    async def aread(self, operation: StoreOperation[_T]) -> _T:
        """Async `read`."""
        return await arun(self.store, operation, self._read_timeout_s)

    @shielded(failed_store)
    def write(self, user_id: str, operation: StoreOperation[_T], *, forgets: bool = False) -> _T:
        """Execute an operation that writes, and drop the user's cached preferences.

        Args:
            user_id: The user whose data the operation writes.
            operation: The operation to execute.
            forgets: Whether the operation deletes or replaces a preference, so that private caches are dropped too.

        Raises:
            StoreError: The store has raised an error; it may have written a part.
        """
        namespace = namespace_of(PREFERENCES, user_id)
        try:
            return run(self.store, operation)
        finally:  # a failed write may have written a part
            _drop_caches(namespace, forgets=forgets)

    @shielded(failed_store)
    async def awrite(self, user_id: str, operation: StoreOperation[_T], *, forgets: bool = False) -> _T:
        """Async `write`; the operation is completed even if the caller is cancelled."""
        return await finish(self._awrite(namespace_of(PREFERENCES, user_id), operation, forgets=forgets))

    async def _awrite(self, namespace: tuple[str, ...], operation: StoreOperation[_T], *, forgets: bool) -> _T:
        try:
            return await arun(self.store, operation)
        finally:
            _drop_caches(namespace, forgets=forgets)


def _drop_caches(namespace: tuple[str, ...], *, forgets: bool) -> None:
    drop_everywhere(namespace)
    if forgets:
        _deletions.add()  # after the write, so that calls which begin from now on read no forgotten preference
        for reference in _private_caches.valuerefs():  # a copy: iterating would fail if another thread loads a model
            if (cache := reference()) is not None:
                cache.forget_private()
