"""`PreferenceMemory`: the preferences of each user, in a LangGraph store."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Literal

from langgraph.store.base import BaseStore

from langchain_amulet.exceptions import InvalidParameterError
from langchain_amulet.memory import operations
from langchain_amulet.memory.access import StoreAccess
from langchain_amulet.memory.items import PreferenceChange
from langchain_amulet.memory.operations import UserExport
from langchain_amulet.memory.sources import PreferenceSource, as_store
from langchain_amulet.preferences import Preference, Source

DEFAULT_READ_TIMEOUT_S = 10.0


class PreferenceMemory:
    """Preferences per user, in any LangGraph `BaseStore`.

    Each preference is an item of its own in the namespace `("preferences", <encoded user id>)`, so several programs may
    write at once. One more item holds the weights that were learned from feedback. Everyone who can read the store can
    read the preferences, so protect it like other personal data. Every method has an async twin with the prefix `a`,
    which works with any kind of store.

    Args:
        store: Where preferences are stored. `None`: in this process only. `SqliteStore`, `PostgresStore` and similar
            stores keep them across restarts. A LangChain key-value store is accepted too. A mapping from user ids to
            preferences, or a sync or async function of the user id, gives a read-only memory.
        read_timeout: Seconds to wait for a read; `None` waits without a limit. Writes have no timeout. An SQLite
            connection that is bound to one thread has no timeout either, and blocks the event loop of async callers:
            open it with `check_same_thread=False`.
        cache_seconds: How long a user's preferences may be served without reading the store again. Writes through any
            `PreferenceMemory` of this process take effect at once; other writes after at most this time. Answers report
            the age of cached preferences. 0 reads the store for every answer.
        langmem_namespace: Where langmem's tools write memories, which are then read as preferences of weight 1, with
            `"{langgraph_user_id}"` for the user id: `("memories", "{langgraph_user_id}")`. `None` reads none.

    Raises:
        StoreTypeError: `store` is not one of the accepted kinds.
        InvalidParameterError: A time is out of range, or the namespace does not contain the user id.

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
            msg = f"read_timeout must be above 0 seconds, got {read_timeout!r}. None waits without a limit."
            raise InvalidParameterError(msg)
        if not cache_seconds >= 0:
            msg = f"cache_seconds must be at least 0, got {cache_seconds!r}. 0 reads the store for every answer."
            raise InvalidParameterError(msg)
        self._access = StoreAccess(
            as_store(store),
            read_timeout_s=read_timeout,
            cache_s=cache_seconds,
            langmem_namespace=operations.check_langmem_namespace(langmem_namespace),
        )

    @property
    def store(self) -> BaseStore:
        """The LangGraph store that holds the preferences."""
        return self._access.store

    def remember(
        self,
        user_id: str,
        preference: str | Preference,
        weight: float = 1.0,
        *,
        source: Source = "stated",
        expires_at: datetime | None = None,
        opposite: str | None = None,
    ) -> Preference:
        """Store one preference. A stored preference with the same text is replaced.

        Args:
            user_id: Any non-empty string.
            preference: An instruction to the model; or a `Preference`, without the other arguments.
            weight: Strength, from -100 to 100; below 0 is a dislike.
            source: `"stated"` by the user, or `"learned"` from feedback.
            expires_at: The time from which the preference no longer applies, with a time zone.
            opposite: The instruction that asks for the opposite; `""`: it has none. `None` keeps the one that is stored
                for the same text, if any; else a table of common preferences is searched.

        Returns:
            The preference as stored.

        Raises:
            PreferenceError: A value has a wrong type.
            InvalidParameterError: A value is out of range, the text or the opposite has more than 10,000 characters, or
                a value was passed beside a `Preference`.
            UserIdError: The user id is empty or not a string.
            StoreTypeError: The memory is read-only.
            StoreError: The store has raised an error; it may have written a part.
        """
        stored = _preference(preference, weight, source, expires_at, opposite)
        # It may replace an opposite, which private caches hold.
        return self._access.write(user_id, operations.remember(user_id, stored), forgets=stored.opposite is not None)

    async def aremember(
        self,
        user_id: str,
        preference: str | Preference,
        weight: float = 1.0,
        *,
        source: Source = "stated",
        expires_at: datetime | None = None,
        opposite: str | None = None,
    ) -> Preference:
        """Async `remember`."""
        stored = _preference(preference, weight, source, expires_at, opposite)
        forgets = stored.opposite is not None
        return await self._access.awrite(user_id, operations.remember(user_id, stored), forgets=forgets)

    def recall(self, user_id: str) -> list[Preference]:
        """Return all preferences of this user, in the order in which they were first stored.

        An unknown user has no preferences. Expired preferences are left out, and so are those with more than 10,000
        characters, which other programs may have stored; the log warns of these.

        Raises:
            StoredPreferenceError: An item of the store is not a preference.
            StoreTimeoutError: The store did not answer within `read_timeout`.
            StoreError: The store, or the function in its place, has raised an error.
            StoreTypeError: The function in place of a store is async, or the store cannot be searched in full.
            PreferenceError: The mapping or function has returned something else than preferences.
            InvalidParameterError: A preference that it has returned is too long.
            UserIdError: The user id is empty or not a string.
        """
        return [*self._access.recall(user_id).preferences]

    async def arecall(self, user_id: str) -> list[Preference]:
        """Async `recall`."""
        return [*(await self._access.arecall(user_id)).preferences]

    def update(
        self,
        user_id: str,
        text: str,
        *,
        new_text: str | None = None,
        weight: float | None = None,
        source: Source | None = None,
        expires_at: datetime | Literal["keep"] | None = "keep",
        opposite: str | None = None,
    ) -> Preference:
        """Change one preference. The earlier version remains in the history.

        Args:
            user_id: The user.
            text: The text of the preference, exactly as stored.
            new_text: The new text; `None` keeps the text.
            weight: The new weight, which replaces a learned one; `None` keeps the weight.
            source: The new source; `None` keeps the source.
            expires_at: The new time of expiry; `None`: the preference does not expire; `"keep"` keeps the time.
            opposite: The new opposite; `""`: it has none. `None` keeps the opposite, or drops it if the text changes.

        Returns:
            The changed preference.

        Raises:
            UnknownPreferenceError: The user has no preference with this text.
            StoredPreferenceError: The stored item is not a preference.
            PreferenceError: A value has a wrong type.
            InvalidParameterError: A value is out of range, or the new text or opposite has more than 10,000 characters.
            UserIdError: The user id is empty or not a string.
            StoreTypeError: The memory is read-only, or the store cannot be searched in full.
            StoreError: The store has raised an error; it may have written a part.
        """
        changes = _changes(new_text, weight, source, expires_at, opposite)
        return self._access.write(user_id, operations.update(user_id, text, changes), forgets=True)

    async def aupdate(
        self,
        user_id: str,
        text: str,
        *,
        new_text: str | None = None,
        weight: float | None = None,
        source: Source | None = None,
        expires_at: datetime | Literal["keep"] | None = "keep",
        opposite: str | None = None,
    ) -> Preference:
        """Async `update`."""
        changes = _changes(new_text, weight, source, expires_at, opposite)
        return await self._access.awrite(user_id, operations.update(user_id, text, changes), forgets=True)

    def forget(self, user_id: str, text: str | None = None) -> None:
        """Delete one preference of this user with its history and its evidence from feedback, or all data of the user.

        Args:
            user_id: The user.
            text: The text of the preference, exactly as stored. An unknown text is ignored. `None` deletes everything,
                as `forget_user` does.

        Raises:
            StoredPreferenceError: An item of feedback is malformed; nothing was deleted.
            UserIdError: The user id is empty or not a string.
            StoreTypeError: The memory is read-only, or the store cannot be searched in full.
            StoreError: The store has raised an error; it may have written a part.
        """
        self._access.write(user_id, operations.forget(user_id, text), forgets=True)

    async def aforget(self, user_id: str, text: str | None = None) -> None:
        """Async `forget`."""
        await self._access.awrite(user_id, operations.forget(user_id, text), forgets=True)

    def forget_user(self, user_id: str) -> None:
        """Delete everything stored about this user: preferences, history and feedback.

        Raises:
            UserIdError: The user id is empty or not a string.
            StoreTypeError: The memory is read-only, or the store cannot be searched in full.
            StoreError: The store has raised an error; it may have written a part.
        """
        self._access.write(user_id, operations.forget_user(user_id), forgets=True)

    async def aforget_user(self, user_id: str) -> None:
        """Async `forget_user`."""
        await self._access.awrite(user_id, operations.forget_user(user_id), forgets=True)

    def history(self, user_id: str) -> list[PreferenceChange]:
        """Return all changes of this user's preferences, oldest first, except those of deleted preferences.

        Raises:
            StoredPreferenceError: An item of the store is not a change of a preference.
            StoreTimeoutError: The store did not answer within `read_timeout`.
            UserIdError: The user id is empty or not a string.
            StoreError: The store has raised an error.
            StoreTypeError: The memory is read-only, and so has no history, or the store cannot be searched in full.
        """
        return self._access.read(operations.history(user_id))

    async def ahistory(self, user_id: str) -> list[PreferenceChange]:
        """Async `history`."""
        return await self._access.aread(operations.history(user_id))

    def export(self, user_id: str) -> UserExport:
        """Return everything stored about this user, as JSON.

        Raises:
            StoreTimeoutError: The store did not answer within `read_timeout`.
            UserIdError: The user id is empty or not a string.
            StoreError: The store has raised an error.
            StoreTypeError: The memory is read-only, with nothing to export, or the store cannot be searched in full.
        """
        return self._access.read(operations.export(user_id))

    async def aexport(self, user_id: str) -> UserExport:
        """Async `export`."""
        return await self._access.aread(operations.export(user_id))

    def import_(self, user_id: str, exported: Mapping[str, object]) -> None:
        """Add the result of `export` to what is stored. Stored preferences with the same texts are replaced.

        Everything is checked before anything is written. The error names what is wrong by its position.

        Args:
            user_id: The user who gets the data. It may be another user than that of the export.
            exported: The result of `export`, directly or after a round trip through JSON.

        Raises:
            ImportFormatError: `exported` is not a result of `export`; nothing was written.
            UserIdError: The user id is empty or not a string.
            StoreTypeError: The memory is read-only.
            StoreError: The store has raised an error; it may have written a part.
        """
        self._access.write(user_id, operations.import_(user_id, exported), forgets=True)

    async def aimport_(self, user_id: str, exported: Mapping[str, object]) -> None:
        """Async `import_`."""
        await self._access.awrite(user_id, operations.import_(user_id, exported), forgets=True)


def as_memory(memory: PreferenceMemory | PreferenceSource) -> PreferenceMemory | None:
    """Convert a source of preferences to a memory. A memory and `None` are returned unchanged."""
    return memory if memory is None or isinstance(memory, PreferenceMemory) else PreferenceMemory(memory)


def access_to(memory: PreferenceMemory) -> StoreAccess:
    """How this memory reads and writes its store, for other packages of langchain-amulet."""
    return memory._access  # noqa: SLF001 - the class above, whose public names are for users


def _preference(
    value: str | Preference, weight: float, source: Source, expires_at: datetime | None, opposite: str | None
) -> Preference:
    if not isinstance(value, Preference):
        return Preference(value, weight, source, expires_at, opposite)
    if (weight, source, expires_at, opposite) != (1.0, "stated", None, None):
        msg = (
            "A Preference has a weight, a source, a time of expiry and an opposite of its own. "
            "Leave the other arguments out, or pass its text in place of the Preference."
        )
        raise InvalidParameterError(msg)
    return value


def _changes(
    new_text: str | None,
    weight: float | None,
    source: Source | None,
    expires_at: datetime | Literal["keep"] | None,
    opposite: str | None,
) -> dict[str, Any]:
    """The fields to change, with their new values."""
    fields = {"text": new_text, "weight": weight, "source": source, "opposite": opposite}
    expiry = {} if expires_at == "keep" else {"expires_at": expires_at}
    return {name: value for name, value in fields.items() if value is not None} | expiry
