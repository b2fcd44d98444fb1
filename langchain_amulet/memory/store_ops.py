"""Building blocks of store operations: a user's namespace, finding and writing items."""

import hashlib
import threading
import weakref
from collections.abc import Callable, Generator, Sequence
from datetime import UTC, datetime
from typing import Any, Generic, NamedTuple, Protocol, TypeAlias, TypeVar
from urllib.parse import quote

from langgraph.store.base import BaseStore, Op, PutOp, SearchItem, SearchOp

from langchain_amulet.exceptions import StoreTypeError, UserIdError
from langchain_amulet.forks import renew_after_fork
from langchain_amulet.preferences import PreferenceLike

_T = TypeVar("_T")

PAGE_SIZE = 500
_MAX_LABEL_BYTES = 200
_MAX_TTL_S = 1e9  # about 30 years; databases limit the range of dates


class PreferenceReader(Protocol):
    """A read-only source of preferences by user id. It has no items."""

    def read(self, user_id: str) -> PreferenceLike:
        """Return the preferences of this user."""

    async def aread(self, user_id: str) -> PreferenceLike:
        """Async `read`."""


class ReadPreferences(NamedTuple):
    """A request to a read-only source for the preferences of this user."""

    reader: PreferenceReader
    user_id: str


StoreRequest: TypeAlias = list[Op] | ReadPreferences
"""One request of an operation: a batch of LangGraph operations, or the preferences of a read-only source."""

StoreOperation: TypeAlias = Generator[StoreRequest, Any, _T]
"""A procedure on a store, for sync and async callers: it yields requests, is sent their results, and returns `_T`."""


def namespace_of(root: str, user_id: str) -> tuple[str, str]:
    """Return the namespace of a user's items.

    The id is percent-encoded, since LangGraph allows no periods in labels, and some stores refuse other characters.
    Ids with a label of more than 200 bytes are hashed.

    Raises:
        UserIdError: The id is not a string, or is empty.
    """
    if not isinstance(user_id, str):
        msg = f"A user id must be a string, got {type(user_id).__name__}. Convert it, for example with str(user_id)."
        raise UserIdError(msg)
    if not user_id:
        msg = "The user id is empty. Leave it out to ask without a user."
        raise UserIdError(msg)
    label = quote(user_id, safe="", errors="surrogatepass").replace(".", "%2E")
    if len(label) > _MAX_LABEL_BYTES:
        # "=" is always percent-encoded, so no other id has such a label.
        label = "sha256=" + hashlib.sha256(label.encode()).hexdigest()
    return (root, label)


def find_all(namespace: tuple[str, ...]) -> StoreOperation[list[SearchItem]]:
    """Find all items of exactly this namespace.

    If there is more than one page, search again with a higher limit instead of an offset: stores order their pages by
    time, so items move between pages while others write, and items of equal time come in any order.

    Raises:
        StoreTypeError: The store limits the size of pages and ignores offsets.
    """
    limit, num_before = PAGE_SIZE, 0
    while True:
        [page] = yield [SearchOp(namespace, limit=limit)]
        if len(page) < limit:
            break
        limit, num_before = 4 * limit, len(page)
    if page and len(page) == num_before:  # these are all items, or the store has a limit of its own
        page = yield from _find_rest(namespace, page, is_limited=True)
    elif page and (len(page) % 10 == 0 or len(page) % 16 == 0):  # a round number may be the limit of the store
        page = yield from _find_rest(namespace, page, is_limited=False)
    # Some stores match prefixes of labels too, and so return the items of other users.
    return [*{item.key: item for item in page if item.namespace == namespace}.values()]


def _find_rest(
    namespace: tuple[str, ...], first: Sequence[SearchItem], *, is_limited: bool
) -> StoreOperation[list[SearchItem]]:
    """Return the items of the first page and of all further pages, for a store that may limit the size of pages.

    Args:
        namespace: The namespace to search.
        first: The items of the first page.
        is_limited: Whether a higher limit returned no more items. A store that ignores offsets is refused then.

    Raises:
        StoreTypeError: The store returns the same items at every offset.
    """
    found = {(item.namespace, item.key): item for item in first}
    offset, num_before = len(first), 0
    while len(found) > num_before:  # a page without new items is the last one, or the store ignores offsets
        num_before = len(found)
        [page] = yield [SearchOp(namespace, limit=PAGE_SIZE, offset=offset)]
        found |= {(item.namespace, item.key): item for item in page}
        offset += len(page)
    if is_limited and len(page) >= min(PAGE_SIZE, len(first)):
        msg = (
            f"The store returns at most {len(first)} items at once and ignores the offset of a search, so a user's "
            "items cannot all be read. Raise the limit of the store, or use another store."
        )
        raise StoreTypeError(msg)
    return [*found.values()]


def put(namespace: tuple[str, ...], key: str, value: dict[str, Any], expires_at: datetime | None = None) -> PutOp:
    """Return an operation that writes an item without a vector index, and with a time to live if it expires."""
    ttl_s = float("inf") if expires_at is None else (expires_at - datetime.now(UTC)).total_seconds()
    return PutOp(namespace, key, value, index=False, ttl=max(0.0, ttl_s / 60) if ttl_s < _MAX_TTL_S else None)


def write(ops: Sequence[Op]) -> StoreOperation[None]:
    """Write any number of items, in batches of a size that databases accept."""
    for start in range(0, len(ops), PAGE_SIZE):
        yield [*ops[start : start + PAGE_SIZE]]


class OnePerStore(Generic[_T]):
    """Holds one object per store, for the lifetime of the store.

    Args:
        make: Creates the object for a store.
    """

    def __init__(self, make: Callable[[], _T]) -> None:
        self._make = make
        self._objects: dict[int, _T] = {}  # by id, since stores need not be hashable
        self.renew()
        renew_after_fork(self)

    def renew(self) -> None:
        """Replace the lock, which another thread may have held at a fork."""
        self._lock = threading.RLock()  # reentrant: the finalizers below may run while it is held

    def of(self, store: BaseStore) -> _T:
        """Return the object of this store; create it if there is none."""
        with self._lock:
            if id(store) not in self._objects:
                self._objects[id(store)] = self._make()
                weakref.finalize(store, self._objects.pop, id(store), None)
            return self._objects[id(store)]

    def all(self) -> list[_T]:
        """Return the objects of all stores."""
        with self._lock:
            return [*self._objects.values()]
