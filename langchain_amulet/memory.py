"""Per-user preference memory over a LangGraph store."""

import asyncio
import hashlib
import time
import weakref
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Protocol, TypeVar
from urllib.parse import quote

from langgraph.store.base import BaseStore, SearchItem
from langgraph.store.memory import InMemoryStore

from langchain_amulet.exceptions import AmuletError, StoredPreferenceError, StoreTypeError, UserIdError
from langchain_amulet.preferences import Preference

_ROOT = "preferences"
_PAGE_SIZE = 100
_MAX_LABEL_BYTES = 200

_T = TypeVar("_T")


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

    Each preference is one item under the namespace `("preferences", <encoded user id>)`. Whoever can read the store can
    read the preferences: keep it where you keep other personal data.

    Args:
        store: Where to keep them. `None` keeps them in this process; `SqliteStore`, `PostgresStore` and the like keep
            them across restarts.

    Example:
        >>> memory = PreferenceMemory()
        >>> memory.remember("alice@example.com", "Answer as concisely as possible.")
        Preference(weight=1.0)
        >>> [preference.text for preference in memory.recall("alice@example.com")]
        ['Answer as concisely as possible.']
    """

    def __init__(self, store: BaseStore | None = None) -> None:
        if store is not None and not isinstance(store, BaseStore):
            msg = (
                f"PreferenceMemory keeps preferences in a LangGraph BaseStore, got {type(store).__name__}. "
                f"Use InMemoryStore, SqliteStore, PostgresStore, ..., or None for this process only."
            )
            raise StoreTypeError(msg)
        self.store = InMemoryStore() if store is None else store

    def remember(self, user_id: str, text: str, weight: float = 1.0) -> Preference:
        """Store one preference; the same text again replaces its weight.

        Args:
            user_id: Any text but the empty one.
            text: What the user prefers, as an instruction to the model.
            weight: How much it counts; below 0 is a dislike.

        Returns:
            The preference as stored.
        """
        preference = Preference(text, weight)
        self.store.put(_namespace(user_id), _key(text), _value(user_id, preference), index=False)
        return preference

    async def aremember(self, user_id: str, text: str, weight: float = 1.0) -> Preference:
        """Async `remember`."""
        preference = Preference(text, weight)
        put = (_namespace(user_id), _key(text), _value(user_id, preference))
        await _async_or_thread(lambda: self.store.aput(*put, index=False), lambda: self.store.put(*put, index=False))
        return preference

    def recall(self, user_id: str) -> list[Preference]:
        """All preferences of this user, the last remembered last; an unknown user has none."""
        return [_preference(item) for item in self._items(user_id)]

    async def arecall(self, user_id: str) -> list[Preference]:
        """Async `recall`."""
        return [_preference(item) for item in await self._aitems(user_id)]

    def forget(self, user_id: str, text: str | None = None) -> None:
        """Delete one preference of this user, or all of them.

        Args:
            user_id: Whose.
            text: The preference to delete, as it was remembered; unknown texts are ignored. `None` deletes all.
        """
        try:
            for item in self._items(user_id):
                if text is None or item.value.get("text") == text:
                    self.store.delete(item.namespace, item.key)
        finally:  # a store that fails may have deleted some
            _tell_watchers()

    async def aforget(self, user_id: str, text: str | None = None) -> None:
        """Async `forget`."""
        try:
            for item in await self._aitems(user_id):
                if text is None or item.value.get("text") == text:
                    await self._adelete(item)
        finally:
            _tell_watchers()

    def _items(self, user_id: str) -> list[SearchItem]:
        namespace = _namespace(user_id)
        items = page = self.store.search(namespace, limit=_PAGE_SIZE)
        while len(page) == _PAGE_SIZE:
            page = self.store.search(namespace, limit=_PAGE_SIZE, offset=len(items))
            items = items + page
        return _own(items, namespace)

    async def _aitems(self, user_id: str) -> list[SearchItem]:
        namespace = _namespace(user_id)

        async def search() -> list[SearchItem]:
            items = page = await self.store.asearch(namespace, limit=_PAGE_SIZE)
            while len(page) == _PAGE_SIZE:
                page = await self.store.asearch(namespace, limit=_PAGE_SIZE, offset=len(items))
                items = items + page
            return _own(items, namespace)

        return await _async_or_thread(search, lambda: self._items(user_id))

    async def _adelete(self, item: SearchItem) -> None:
        await _async_or_thread(
            lambda: self.store.adelete(item.namespace, item.key), lambda: self.store.delete(item.namespace, item.key)
        )


def _tell_watchers() -> None:
    for watcher in list(_watchers):
        watcher.forget_private()


async def _async_or_thread(run: Callable[[], Awaitable[_T]], run_sync: Callable[[], _T]) -> _T:
    """Some stores are sync only (SqliteStore raises NotImplementedError); those run in a thread."""
    try:
        return await run()
    except NotImplementedError:
        return await asyncio.to_thread(run_sync)


def _namespace(user_id: str) -> tuple[str, str]:
    """Percent-encode the id: labels allow no periods, and stores differ in what else they mistake."""
    if not isinstance(user_id, str):
        msg = f"A user id is a string, got {type(user_id).__name__}. Convert it, say by str(user_id)."
        raise UserIdError(msg)
    if not user_id:
        msg = "The user id is empty. Leave it out to ask without a user."
        raise UserIdError(msg)
    label = quote(user_id, safe="", errors="surrogatepass").replace(".", "%2E")
    if len(label) > _MAX_LABEL_BYTES:
        # "=" is always percent-encoded, so no other id has such a label.
        label = "sha256=" + hashlib.sha256(label.encode()).hexdigest()
    return (_ROOT, label)


def _key(text: str) -> str:
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()


def _value(user_id: str, preference: Preference) -> dict[str, Any]:
    return {
        "text": preference.text,
        "weight": preference.weight,
        "user_id": user_id.encode(errors="backslashreplace").decode(),  # long ids are hashed in the namespace
        "remembered_at": time.time_ns(),  # stores' own times are as coarse as a second
    }


def _own(items: Sequence[SearchItem], namespace: tuple[str, str]) -> list[SearchItem]:
    # Some stores' search also finds namespaces that merely begin alike: another user's.
    own = [item for item in items if item.namespace == namespace]
    return sorted(own, key=lambda item: (item.value.get("remembered_at", 0), item.key))


def _preference(item: SearchItem) -> Preference:
    try:
        return Preference(item.value["text"], item.value["weight"])
    except (KeyError, AmuletError) as error:
        msg = (
            f"The item {item.key} under {item.namespace} holds no preference: it needs a text and a weight. "
            f"Delete it, or write it with PreferenceMemory.remember."
        )
        raise StoredPreferenceError(msg) from error
