"""Building blocks of store operations: a user's namespace, finding and writing items."""

import hashlib
import threading
import weakref
from collections.abc import Callable, Generator, Sequence
from datetime import UTC, datetime
from typing import Any, Generic, TypeAlias, TypeVar
from urllib.parse import quote

from langgraph.store.base import BaseStore, Op, PutOp, SearchItem, SearchOp

from langchain_amulet.exceptions import UserIdError

_T = TypeVar("_T")

PAGE_SIZE = 500
_MAX_LABEL_BYTES = 200
_MAX_TTL_S = 1e9  # three decades; databases' dates end
StoreOperation: TypeAlias = Generator[list[Op], list[Any], _T]
"""What to do with a store, without saying how: yields operations, is sent their results, and returns an answer."""


def namespace(root: str, user_id: str) -> tuple[str, str]:
    """Where a user's items are. The id is percent-encoded: labels allow no periods, and stores differ in what else.

    Raises:
        UserIdError: The id is no string, or empty.
    """
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
    return (root, label)


def find_all(where: tuple[str, ...]) -> StoreOperation[list[SearchItem]]:
    """All items of exactly this namespace.

    More than a page of them is asked for again as a whole: stores order pages by time, so that items move from page to
    page while others write, and items of the same time come in any order.
    """
    limit, num_found = PAGE_SIZE, 0
    while True:
        [page] = yield [SearchOp(where, limit=limit)]
        if len(page) < limit:
            break
        limit, num_found = 4 * limit, len(page)
    if page and len(page) == num_found:  # all there is, or all that this store finds at once
        page = [*page, *(yield from _find_rest(where, num_found))]
    # Some stores' search also finds namespaces that merely begin alike: another user's.
    return [*{item.key: item for item in page if item.namespace == where}.values()]


def _find_rest(where: tuple[str, ...], offset: int) -> StoreOperation[list[SearchItem]]:
    rest: list[SearchItem] = []
    while True:
        [page] = yield [SearchOp(where, limit=PAGE_SIZE, offset=offset + len(rest))]
        if not page:
            return rest
        rest += page


def put(where: tuple[str, ...], key: str, value: dict[str, Any], expires_at: datetime | None = None) -> PutOp:
    """Write an item that no search by meaning indexes; stores that can drop it once it has expired."""
    ttl_s = float("inf") if expires_at is None else (expires_at - datetime.now(UTC)).total_seconds()
    return PutOp(where, key, value, index=False, ttl=max(0.0, ttl_s / 60) if ttl_s < _MAX_TTL_S else None)


def write(ops: Sequence[Op]) -> StoreOperation[None]:
    """Write any number of items, in as many batches as databases take."""
    for start in range(0, len(ops), PAGE_SIZE):
        yield [*ops[start : start + PAGE_SIZE]]


class OnePerStore(Generic[_T]):
    """Something that each store has one of, for as long as the store is there.

    Args:
        make: Makes it.
    """

    def __init__(self, make: Callable[[], _T]) -> None:
        self._make = make
        self._lock = threading.RLock()  # the finalizers below may run while it is held
        self._found: dict[int, _T] = {}  # by id: stores need not be hashable

    def of(self, store: BaseStore) -> _T:
        """That of this store."""
        with self._lock:
            if id(store) not in self._found:
                self._found[id(store)] = self._make()
                weakref.finalize(store, self._found.pop, id(store), None)
            return self._found[id(store)]

    def all(self) -> list[_T]:
        """Those of all stores."""
        with self._lock:
            return [*self._found.values()]
