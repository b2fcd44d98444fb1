"""LangChain's key-value stores as stores of LangGraph's."""

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
    """A LangGraph store over one of LangChain's key-value stores, for items that are found by user and key.

    Each item is one key and holds JSON, so that stores of bytes and stores in files take it. Files are not written at
    one stroke: keep `LocalFileStore` to one program at a time.

    Args:
        store: Where to keep them: `InMemoryStore`, `LocalFileStore`, `RedisStore`, ...
    """

    def __init__(self, store: KeyValueStore[str, Any]) -> None:
        self.store = store

    def batch(self, ops: Iterable[Op]) -> list[Any]:
        """Carry operations out, one after another."""
        return [self._do(op) for op in ops]

    async def abatch(self, ops: Iterable[Op]) -> list[Any]:
        """Carry operations out, one after another."""
        return [await self._ado(op) for op in ops]

    def _do(self, op: Op) -> Any:
        match op:
            case PutOp(where, key, None):
                return self.store.mdelete([_flat(where, key)])
            case PutOp(where, key, dict() as value):
                return self.store.mset([(_flat(where, key), _dump(where, key, value))])
            case GetOp(where, key):
                return _load(self.store.mget([_flat(where, key)])[0])
            case SearchOp(where):
                keys = self._keys(_flat(where))
                return _page(op, self.store.mget(keys) if keys else [])
        raise NotImplementedError(type(op).__name__)

    async def _ado(self, op: Op) -> Any:
        match op:
            case PutOp(where, key, None):
                return await self.store.amdelete([_flat(where, key)])
            case PutOp(where, key, dict() as value):
                return await self.store.amset([(_flat(where, key), _dump(where, key, value))])
            case GetOp(where, key):
                return _load((await self.store.amget([_flat(where, key)]))[0])
            case SearchOp(where):
                keys = await self._akeys(_flat(where))
                return _page(op, await self.store.amget(keys) if keys else [])
        raise NotImplementedError(type(op).__name__)

    def _keys(self, prefix: str) -> list[str]:
        keys = [*self.store.yield_keys(prefix=prefix)]
        if not keys:
            with contextlib.suppress(InvalidKeyException):  # of stores in files
                keys = [*self.store.yield_keys(prefix=_as_pattern(prefix))]
        return sorted(key for key in keys if key.startswith(prefix))

    async def _akeys(self, prefix: str) -> list[str]:
        keys = [key async for key in self.store.ayield_keys(prefix=prefix)]
        if not keys:
            with contextlib.suppress(InvalidKeyException):
                keys = [key async for key in self.store.ayield_keys(prefix=_as_pattern(prefix))]
        return sorted(key for key in keys if key.startswith(prefix))


def _as_pattern(prefix: str) -> str:
    """For the stores over Redis, which look for keys that match the prefix as a whole."""
    return f"{prefix}*"


def _flat(where: tuple[str, ...], key: str = "") -> str:
    """A key that stores in files take too: letters, digits, slashes and little else."""
    owner = hashlib.sha256("/".join(where).encode()).hexdigest()
    return f"{where[0]}/{owner}/{hashlib.sha256(key.encode()).hexdigest() if key else ''}"


def _dump(where: tuple[str, ...], key: str, value: Mapping[str, Any]) -> bytes:
    at = datetime.now(UTC).isoformat()
    return json.dumps({"namespace": where, "key": key, "value": value, "at": at}, ensure_ascii=False).encode()


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
    found = [SearchItem(item.namespace, item.key, item.value, item.created_at, item.updated_at) for item in items]
    return found[op.offset : op.offset + op.limit]
