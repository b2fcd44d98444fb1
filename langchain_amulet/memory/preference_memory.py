"""Per-user preference memory over a LangGraph store."""

import weakref
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Literal, Protocol, TypeVar

from langgraph.store.base import BaseStore

from langchain_amulet.exceptions import InvalidParameterError
from langchain_amulet.memory import operations
from langchain_amulet.memory.execution import arun, run, to_the_end
from langchain_amulet.memory.items import PREFERENCES, Kept, PreferenceChange
from langchain_amulet.memory.recall_cache import Reading, Recalled, caches, drop_everywhere
from langchain_amulet.memory.sources import PreferenceSource, as_store
from langchain_amulet.memory.store_ops import StoreOperation, namespace
from langchain_amulet.preferences import Preference, Source

_T = TypeVar("_T")

DEFAULT_READ_TIMEOUT_S = 10.0


class Forgetful(Protocol):
    """Something that keeps what it has made of preferences, such as an engine its keys and values."""

    def forget_private(self) -> None:
        """Drop it."""


_watchers: "weakref.WeakSet[Forgetful]" = weakref.WeakSet()


def tell_when_forgetting(watcher: Forgetful) -> None:
    """Let it drop what it keeps whenever a preference is forgotten, through whatever memory of this process."""
    _watchers.add(watcher)


class PreferenceMemory:
    """What each user prefers, in any LangGraph `BaseStore`.

    Each preference is one item under the namespace `("preferences", <encoded user id>)`, with a key of its own, so that
    several programs may write at once; one more item holds the weights that were learned from feedback. Whoever can
    read the store can read the preferences: keep it where you keep other personal data. Every method has an async twin,
    named with an `a` before it, for any kind of store.

    Args:
        store: Where to keep them. `None` keeps them in this process; `SqliteStore`, `PostgresStore` and the like keep
            them across restarts. A key-value store of LangChain's serves as well. To read only: a mapping from user
            ids to preferences, or a function, sync or async, that is given a user id.
        read_timeout: Seconds that the store may take to answer a read; `None` waits. Writes are waited for; so is an
            SQLite connection that serves one thread alone, and it holds up the event loop of async callers: open it
            with `check_same_thread=False`.
        cache_seconds: For how long a user's preferences may be served without asking the store again. What this process
            writes through a `PreferenceMemory` counts at once; what others write counts after at most this time, and
            answers say how old the preferences were. 0 always asks.
        langmem_namespace: Where langmem's tools have written memories to read as preferences of weight 1, with the user
            id as `"{langgraph_user_id}"`: `("memories", "{langgraph_user_id}")`. `None` does not look for any.

    Raises:
        StoreTypeError: `store` is none of these.
        InvalidParameterError: A time is negative, or the namespace names no user.

    Example:
        >>> memory = PreferenceMemory()
        >>> memory.remember("alice@example.com", "Answer as concisely as possible.")
        Preference(weight=1.0)
        >>> [preference.text for preference in memory.recall("alice@example.com")]
        ['Answer as concisely as possible.']
    """

    def __init__(
        self,
        store: PreferenceSource | None = None,
        *,
        read_timeout: float | None = DEFAULT_READ_TIMEOUT_S,
        cache_seconds: float = 0.0,
        langmem_namespace: Sequence[str] | None = None,
    ) -> None:
        if read_timeout is not None and not read_timeout > 0:
            msg = f"read_timeout must be above 0 seconds, got {read_timeout!r}. None waits for as long as it takes."
            raise InvalidParameterError(msg)
        if not cache_seconds >= 0:
            msg = f"cache_seconds must be at least 0, got {cache_seconds!r}. 0 asks the store for every answer."
            raise InvalidParameterError(msg)
        self.store: BaseStore = as_store(store)
        self._read_timeout_s = read_timeout
        self._cache_s = cache_seconds
        self._langmem = operations.check_langmem_namespace(langmem_namespace)

    def remember(
        self,
        user_id: str,
        preference: str | Preference,
        weight: float = 1.0,
        *,
        source: Source = "stated",
        expires_at: datetime | None = None,
    ) -> Preference:
        """Store one preference; the same text again takes the place of what was stored.

        Args:
            user_id: Any text but the empty one.
            preference: What the user prefers, as an instruction to the model; or a `Preference`, which says what the
                other arguments say.
            weight: How much it counts; below 0 is a dislike.
            source: Whether the user has said it or it was learned.
            expires_at: From when on it does not count any more.

        Returns:
            The preference as stored.

        Raises:
            PreferenceError: It is no preference.
            InvalidParameterError: A value is none that a `Preference` may have, or is given beside one.
            UserIdError: The user id is empty or no string.
            StoreTypeError: The memory can only be read.
        """
        given = _preference(preference, weight, source, expires_at)
        return self.carry_out(user_id, operations.remember(user_id, given))

    async def aremember(
        self,
        user_id: str,
        preference: str | Preference,
        weight: float = 1.0,
        *,
        source: Source = "stated",
        expires_at: datetime | None = None,
    ) -> Preference:
        """Async `remember`."""
        given = _preference(preference, weight, source, expires_at)
        return await self.acarry_out(user_id, operations.remember(user_id, given))

    def recall(self, user_id: str) -> list[Preference]:
        """All preferences of this user, in the order of their first remembering; an unknown user has none.

        Raises:
            StoredPreferenceError: An item of the store is no preference.
            StoreTimeoutError: The store has not answered in time.
            UserIdError: The user id is empty or no string.
        """
        return [*self.look_up(user_id).preferences]

    async def arecall(self, user_id: str) -> list[Preference]:
        """Async `recall`."""
        return [*(await self.alook_up(user_id)).preferences]

    def look_up(self, user_id: str) -> Recalled:
        """`recall`, with the age of what was found."""
        if known := self._known(user_id):
            return known
        reading = caches.of(self.store).begin()
        return self._keep(user_id, self.read(self.plan_to_recall(user_id)), reading)

    async def alook_up(self, user_id: str) -> Recalled:
        """Async `look_up`."""
        if known := self._known(user_id):
            return known
        reading = caches.of(self.store).begin()
        return self._keep(user_id, await self.aread(self.plan_to_recall(user_id)), reading)

    def _known(self, user_id: str) -> Recalled | None:
        where = namespace(PREFERENCES, user_id)
        return caches.of(self.store).get(where, self._langmem, self._cache_s) if self._cache_s else None

    def _keep(self, user_id: str, found: Sequence[Kept], reading: Reading) -> Recalled:
        preferences = tuple(each.preference for each in found)
        if self._cache_s:
            caches.of(self.store).put(namespace(PREFERENCES, user_id), self._langmem, preferences, reading)
        return Recalled(preferences, 0.0)

    def update(
        self,
        user_id: str,
        text: str,
        *,
        new_text: str | None = None,
        weight: float | None = None,
        source: Source | None = None,
        expires_at: datetime | Literal["keep"] | None = "keep",
    ) -> Preference:
        """Change one preference; the earlier version stays in the history.

        Args:
            user_id: Whose.
            text: The preference as it was remembered.
            new_text: What it says from now on.
            weight: How much it counts from now on, whatever was learned.
            source: Whether the user has said it or it was learned.
            expires_at: From when on it does not count any more; `None`: it stays.

        Returns:
            The preference as it is now.

        Raises:
            UnknownPreferenceError: The user has no such preference.
            PreferenceError: What it is to be is no preference.
            InvalidParameterError: A value is none that a `Preference` may have.
            UserIdError: The user id is empty or no string.
            StoreTypeError: The memory can only be read.
        """
        return self._forget(user_id, operations.update(user_id, text, _changes(new_text, weight, source, expires_at)))

    async def aupdate(
        self,
        user_id: str,
        text: str,
        *,
        new_text: str | None = None,
        weight: float | None = None,
        source: Source | None = None,
        expires_at: datetime | Literal["keep"] | None = "keep",
    ) -> Preference:
        """Async `update`."""
        changes = _changes(new_text, weight, source, expires_at)
        return await self._aforget(user_id, operations.update(user_id, text, changes))

    def forget(self, user_id: str, text: str | None = None) -> None:
        """Delete one preference of this user with its history and what feedback told of it, or all of them.

        Args:
            user_id: Whose.
            text: The preference to delete, as it was remembered; unknown texts are ignored. `None` deletes all.

        Raises:
            UserIdError: The user id is empty or no string.
            StoreTypeError: The memory can only be read.
        """
        self._forget(user_id, operations.forget(user_id, text))

    async def aforget(self, user_id: str, text: str | None = None) -> None:
        """Async `forget`."""
        await self._aforget(user_id, operations.forget(user_id, text))

    def forget_user(self, user_id: str) -> None:
        """Delete all that is kept of this user: preferences, history and feedback."""
        self._forget(user_id, operations.forget_user(user_id))

    async def aforget_user(self, user_id: str) -> None:
        """Async `forget_user`."""
        await self._aforget(user_id, operations.forget_user(user_id))

    def history(self, user_id: str) -> list[PreferenceChange]:
        """How this user's preferences came to be what they are, the first change first; nothing of forgotten ones."""
        return self.read(operations.history(user_id))

    async def ahistory(self, user_id: str) -> list[PreferenceChange]:
        """Async `history`."""
        return await self.aread(operations.history(user_id))

    def export(self, user_id: str) -> dict[str, Any]:
        """All that is kept of this user, as JSON."""
        return self.read(operations.export(user_id))

    async def aexport(self, user_id: str) -> dict[str, Any]:
        """Async `export`."""
        return await self.aread(operations.export(user_id))

    def import_(self, user_id: str, exported: Mapping[str, Any]) -> None:
        """Add what `export` has returned; the same texts take the place of what was stored.

        Raises:
            ImportFormatError: It is nothing that `export` returns; nothing was written.
        """
        self.carry_out(user_id, operations.import_(user_id, exported))

    async def aimport_(self, user_id: str, exported: Mapping[str, Any]) -> None:
        """Async `import_`."""
        await self.acarry_out(user_id, operations.import_(user_id, exported))

    # For other rooms of this package

    def plan_to_recall(self, user_id: str) -> StoreOperation[list[Kept]]:
        """`recall`, as a plan that others can be made of."""
        return operations.recall(self.store, user_id, self._langmem)

    def carry_out(self, user_id: str, plan: StoreOperation[_T]) -> _T:
        """Do what changes something of this user's."""
        where = namespace(PREFERENCES, user_id)
        try:
            return run(self.store, plan)
        finally:  # a store that fails may have written some
            drop_everywhere(where)

    async def acarry_out(self, user_id: str, plan: StoreOperation[_T]) -> _T:
        """Async `carry_out`; it is done to the end even if the caller is cancelled."""
        return await to_the_end(self._acarry_out(namespace(PREFERENCES, user_id), plan))

    async def _acarry_out(self, where: tuple[str, ...], plan: StoreOperation[_T]) -> _T:
        try:
            return await arun(self.store, plan)
        finally:
            drop_everywhere(where)

    def read(self, plan: StoreOperation[_T]) -> _T:
        """Do what changes nothing, within `read_timeout`."""
        return run(self.store, plan, self._read_timeout_s)

    async def aread(self, plan: StoreOperation[_T]) -> _T:
        """Async `read`."""
        return await arun(self.store, plan, self._read_timeout_s)

    def _forget(self, user_id: str, plan: StoreOperation[_T]) -> _T:
        try:
            return self.carry_out(user_id, plan)
        finally:
            _tell_watchers()

    async def _aforget(self, user_id: str, plan: StoreOperation[_T]) -> _T:
        return await to_the_end(self._acarry_out_and_tell(namespace(PREFERENCES, user_id), plan))

    async def _acarry_out_and_tell(self, where: tuple[str, ...], plan: StoreOperation[_T]) -> _T:
        try:
            return await self._acarry_out(where, plan)
        finally:
            _tell_watchers()


def as_memory(memory: PreferenceMemory | PreferenceSource) -> PreferenceMemory | None:
    """A memory over what was passed, unless it is one already; `None` stays `None`."""
    return memory if memory is None or isinstance(memory, PreferenceMemory) else PreferenceMemory(memory)


def _tell_watchers() -> None:
    for watcher in list(_watchers):
        watcher.forget_private()


def _preference(given: str | Preference, weight: float, source: Source, expires_at: datetime | None) -> Preference:
    if not isinstance(given, Preference):
        return Preference(given, weight, source, expires_at)
    if (weight, source, expires_at) != (1.0, "stated", None):
        msg = "A Preference says its weight, source and end itself: leave the other arguments out, or give its text."
        raise InvalidParameterError(msg)
    return given


def _changes(
    new_text: str | None, weight: float | None, source: Source | None, expires_at: datetime | Literal["keep"] | None
) -> dict[str, Any]:
    """The fields of a preference that are to change."""
    given = {"text": new_text, "weight": weight, "source": source}
    kept = {} if expires_at == "keep" else {"expires_at": expires_at}
    return {name: value for name, value in given.items() if value is not None} | kept
