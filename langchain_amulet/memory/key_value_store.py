"""A LangGraph store over a LangChain key-value store."""

import asyncio
import contextlib
import hashlib
import json
import time
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from langchain_core.stores import BaseStore as KeyValueStore
from langchain_core.stores import InvalidKeyException
from langgraph.store.base import BaseStore, GetOp, Item, Op, PutOp, SearchItem, SearchOp

_DAMAGED = "damaged: "  # begins the keys of damaged items, of which only the stored key is known
_DELAYS_S = (0.0, 0.01, 0.05, 0.1)  # before each read of an item, while it is damaged
_LONG_AGO = datetime(1970, 1, 1, tzinfo=UTC)


class KeyValueAdapter(BaseStore):
    """A LangGraph store over a LangChain key-value store. It supports lookup by namespace and key only.

    Each item is stored under one key as JSON bytes, which stores of bytes and of files accept. `LocalFileStore` does
    not write files atomically: use it from one program at a time. An item that is damaged has an empty value, so that
    it can be found, replaced and deleted; reading preferences from it raises an error that names its key.

    Args:
        store: The key-value store: `InMemoryStore`, `LocalFileStore`, `RedisStore`, ...
    """

    def __init__(self, store: KeyValueStore[str, Any]) -> None:
        self.store = store

    def batch(self, ops: Iterable[Op]) -> list[Any]:
        """Execute operations one after another."""
        return [self._do(op) for op in ops]

    async def abatch(self, ops: Iterable[Op]) -> list[Any]:
        """Execute operations one after another."""
        return [await self._ado(op) for op in ops]

    def _do(self, op: Op) -> Any:
        match op:
            case PutOp(namespace, key, None):
                return self.store.mdelete([_key_to_delete(namespace, key)])
            case PutOp(namespace, key, dict() as value):
                return self.store.mset([(_flat_key(namespace, key), _dump(namespace, key, value))])
            case GetOp(namespace, key):
                return self._read(namespace, [_flat_key(namespace, key)])[0]
            case SearchOp(namespace):
                return _page(op, self._read(namespace, self._keys(_flat_key(namespace))))
        raise NotImplementedError(type(op).__name__)

    async def _ado(self, op: Op) -> Any:
        match op:
            case PutOp(namespace, key, None):
                return await self.store.amdelete([_key_to_delete(namespace, key)])
            case PutOp(namespace, key, dict() as value):
                return await self.store.amset([(_flat_key(namespace, key), _dump(namespace, key, value))])
            case GetOp(namespace, key):
                return (await self._aread(namespace, [_flat_key(namespace, key)]))[0]
            case SearchOp(namespace):
                return _page(op, await self._aread(namespace, await self._akeys(_flat_key(namespace))))
        raise NotImplementedError(type(op).__name__)

    def _read(self, namespace: tuple[str, ...], keys: Sequence[str]) -> list[Item | None]:
        """Read the items under these flat keys; read damaged ones again, since they may just be being written."""
        items: dict[str, Item | None] = dict.fromkeys(keys)
        unread = [*keys]
        for delay_s in _DELAYS_S:
            time.sleep(delay_s)
            items |= _load_all(namespace, unread, self.store.mget(unread)) if unread else {}
            unread = [key for key in unread if _is_damaged(items[key])]
            if not unread:
                break
        return [*items.values()]

    async def _aread(self, namespace: tuple[str, ...], keys: Sequence[str]) -> list[Item | None]:
        items: dict[str, Item | None] = dict.fromkeys(keys)
        unread = [*keys]
        for delay_s in _DELAYS_S:
            await asyncio.sleep(delay_s)
            items |= _load_all(namespace, unread, await self.store.amget(unread)) if unread else {}
            unread = [key for key in unread if _is_damaged(items[key])]
            if not unread:
                break
        return [*items.values()]

    def _keys(self, prefix: str) -> list[str]:
        keys = [*self.store.yield_keys(prefix=prefix)]
        if not keys:
            with contextlib.suppress(InvalidKeyException):  # file stores refuse "*"
                keys = [*self.store.yield_keys(prefix=_as_pattern(prefix))]
        return sorted(key for key in keys if key.startswith(prefix))

    async def _akeys(self, prefix: str) -> list[str]:
        keys = [key async for key in self.store.ayield_keys(prefix=prefix)]
        if not keys:
            with contextlib.suppress(InvalidKeyException):
                keys = [key async for key in self.store.ayield_keys(prefix=_as_pattern(prefix))]
        return sorted(key for key in keys if key.startswith(prefix))


def _as_pattern(prefix: str) -> str:
    """Return the prefix as a pattern, for stores over Redis, which match it against the whole key."""
    return f"{prefix}*"


def _flat_key(namespace: tuple[str, ...], key: str = "") -> str:
    """Return a key that file stores accept too, of hexadecimal hashes and slashes. Without `key`, return its prefix."""
    owner = hashlib.sha256("/".join(namespace).encode()).hexdigest()
    return f"{namespace[0]}/{owner}/{hashlib.sha256(key.encode()).hexdigest() if key else ''}"


def _key_to_delete(namespace: tuple[str, ...], key: str) -> str:
    """Return the flat key of an item, which the key of a damaged item contains. It is always one of this namespace."""
    stored_key = key.removeprefix(_DAMAGED)
    is_damaged = key.startswith(_DAMAGED) and stored_key.startswith(_flat_key(namespace))
    return stored_key if is_damaged else _flat_key(namespace, key)


def _dump(namespace: tuple[str, ...], key: str, value: Mapping[str, Any]) -> bytes:
    at = datetime.now(UTC).isoformat()
    return json.dumps({"namespace": namespace, "key": key, "value": value, "at": at}, ensure_ascii=False).encode()


def _load_all(namespace: tuple[str, ...], keys: Sequence[str], stored: Iterable[Any]) -> dict[str, Item | None]:
    return {key: _load(key, namespace, value) for key, value in zip(keys, stored, strict=True)}


def _is_damaged(item: Item | None) -> bool:
    return item is not None and item.key.startswith(_DAMAGED)


def _load(flat_key: str, namespace: tuple[str, ...], stored: Any) -> Item | None:
    if stored is None:
        return None
    item = _parse(stored)
    if item is None or item.namespace != namespace:
        return Item(namespace=namespace, key=_DAMAGED + flat_key, value={}, created_at=_LONG_AGO, updated_at=_LONG_AGO)
    return item


def _parse(stored: Any) -> Item | None:
    """Return an item, or `None` if it is damaged. The error of a JSON parser would hold the whole text."""
    try:
        item = json.loads(stored)
        at = datetime.fromisoformat(item["at"])
        value = {**item["value"]}
        return Item(namespace=tuple(item["namespace"]), key=str(item["key"]), value=value, created_at=at, updated_at=at)
    except (KeyError, TypeError, ValueError, RecursionError):
        return None


def _page(op: SearchOp, items: Iterable[Item | None]) -> list[SearchItem]:
    matches = [
        SearchItem(item.namespace, item.key, item.value, item.created_at, item.updated_at)
        for item in items
        if item is not None
    ]
    return matches[op.offset : op.offset + op.limit]
