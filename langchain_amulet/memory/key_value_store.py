"""A LangGraph store over a LangChain key-value store."""

import contextlib
import hashlib
import json
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

from langchain_core.stores import BaseStore as KeyValueStore
from langchain_core.stores import InvalidKeyException
from langgraph.store.base import BaseStore, GetOp, Item, Op, PutOp, SearchItem, SearchOp


class KeyValueAdapter(BaseStore):
    """A LangGraph store over a LangChain key-value store. It supports lookup by namespace and key only.

    Each item is stored under one key as JSON bytes, which stores of bytes and of files accept. `LocalFileStore` does
    not write files atomically: use it from one program at a time.

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
                return self.store.mdelete([_flat_key(namespace, key)])
            case PutOp(namespace, key, dict() as value):
                return self.store.mset([(_flat_key(namespace, key), _dump(namespace, key, value))])
            case GetOp(namespace, key):
                return _load(self.store.mget([_flat_key(namespace, key)])[0])
            case SearchOp(namespace):
                keys = self._keys(_flat_key(namespace))
                return _page(op, self.store.mget(keys) if keys else [])
        raise NotImplementedError(type(op).__name__)

    async def _ado(self, op: Op) -> Any:
        match op:
            case PutOp(namespace, key, None):
                return await self.store.amdelete([_flat_key(namespace, key)])
            case PutOp(namespace, key, dict() as value):
                return await self.store.amset([(_flat_key(namespace, key), _dump(namespace, key, value))])
            case GetOp(namespace, key):
                return _load((await self.store.amget([_flat_key(namespace, key)]))[0])
            case SearchOp(namespace):
                keys = await self._akeys(_flat_key(namespace))
                return _page(op, await self.store.amget(keys) if keys else [])
        raise NotImplementedError(type(op).__name__)

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


def _dump(namespace: tuple[str, ...], key: str, value: Mapping[str, Any]) -> bytes:
    at = datetime.now(UTC).isoformat()
    return json.dumps({"namespace": namespace, "key": key, "value": value, "at": at}, ensure_ascii=False).encode()


def _load(stored: bytes | None) -> Item | None:
    if stored is None:
        return None
    item = json.loads(stored)
    return Item(
        namespace=tuple(item["namespace"]),
        key=item["key"],
        value=item["value"],
        created_at=item["at"],
        updated_at=item["at"],
    )


def _page(op: SearchOp, stored: Iterable[bytes | None]) -> list[SearchItem]:
    items = [item for item in map(_load, stored) if item is not None]
    matches = [SearchItem(item.namespace, item.key, item.value, item.created_at, item.updated_at) for item in items]
    return matches[op.offset : op.offset + op.limit]
