"""Converts stores, mappings and functions to the LangGraph store of a `PreferenceMemory`."""

import inspect
from collections.abc import Awaitable, Callable, Iterable, Mapping
from contextlib import AsyncContextDecorator, ContextDecorator
from functools import partial
from typing import Any, NoReturn, TypeAlias

from langchain_core.stores import BaseStore as KeyValueStore
from langgraph.store.base import BaseStore, Op
from langgraph.store.memory import InMemoryStore

from langchain_amulet.exceptions import StoreTypeError
from langchain_amulet.memory.execution import in_thread
from langchain_amulet.memory.key_value_store import KeyValueAdapter
from langchain_amulet.preferences import PreferenceLike

PreferenceFunction: TypeAlias = Callable[[str], PreferenceLike | Awaitable[PreferenceLike]]
PreferenceSource: TypeAlias = (
    BaseStore | KeyValueStore[str, Any] | Mapping[str, PreferenceLike] | PreferenceFunction | None
)


def as_store(source: PreferenceSource) -> BaseStore:
    """Convert a source to a LangGraph store; `None` gives a new `InMemoryStore`.

    Raises:
        StoreTypeError: `source` is neither a store, a mapping, a function, nor `None`.
    """
    if source is None:
        return InMemoryStore()
    if isinstance(source, BaseStore):
        return source
    if isinstance(source, KeyValueStore):
        return KeyValueAdapter(source)
    if isinstance(source, Mapping):
        return FunctionStore(source.get)
    if callable(source) and not isinstance(source, type | ContextDecorator | AsyncContextDecorator):
        return FunctionStore(source)
    name = source.__name__ if isinstance(source, type) else type(source).__name__
    msg = (
        f"PreferenceMemory needs a LangGraph BaseStore (InMemoryStore, SqliteStore, PostgresStore, ...), a LangChain "
        f"key-value store, a mapping from user ids to preferences, a function of the user id, or None for this process "
        f"only; got {name}. A context manager that opens a store must be entered with `with` first."
    )
    raise StoreTypeError(msg)


class FunctionStore(BaseStore):
    """A read-only source of preferences: a function of the user id.

    It has no items, so every LangGraph operation on it raises `StoreTypeError`.

    Args:
        function: Called with a user id. An async function serves async callers only.
    """

    def __init__(self, function: PreferenceFunction) -> None:
        self._function = function

    def read(self, user_id: str) -> PreferenceLike:
        """Call the function.

        Raises:
            StoreTypeError: The function is async.
        """
        answer = self._function(user_id)
        if not inspect.isawaitable(answer):
            return answer
        if inspect.iscoroutine(answer):
            answer.close()
        msg = "The function that reads preferences is async. Use ainvoke, astream, ..., or pass a sync function."
        raise StoreTypeError(msg)

    async def aread(self, user_id: str) -> PreferenceLike:
        """Call the function in a thread, since a sync function may read files or databases; await its result."""
        answer = await in_thread(self, partial(self._function, user_id))
        return await answer if inspect.isawaitable(answer) else answer

    def batch(self, ops: Iterable[Op]) -> NoReturn:  # noqa: ARG002 - refused, whatever they are
        """Refuse all operations.

        Raises:
            StoreTypeError: Always.
        """
        msg = (
            "A mapping or function of preferences is read-only: it returns a user's preferences, but has no items "
            "to search or write. Pass PreferenceMemory a LangGraph store, such as InMemoryStore or SqliteStore."
        )
        raise StoreTypeError(msg)

    async def abatch(self, ops: Iterable[Op]) -> NoReturn:
        """Refuse all operations.

        Raises:
            StoreTypeError: Always.
        """
        self.batch(ops)
