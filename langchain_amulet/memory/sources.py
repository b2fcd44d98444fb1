"""What a memory can be made of: stores of LangGraph and LangChain, mappings, functions."""

import asyncio
import inspect
from collections.abc import Awaitable, Callable, Iterable, Mapping
from contextlib import AsyncContextDecorator, ContextDecorator
from functools import partial
from typing import Any, TypeAlias

from langchain_core.stores import BaseStore as KeyValueStore
from langgraph.store.base import BaseStore, Op, PutOp, SearchOp
from langgraph.store.memory import InMemoryStore

from langchain_amulet.exceptions import StoreTypeError
from langchain_amulet.memory.execution import threads
from langchain_amulet.memory.key_value_store import KeyValueAdapter
from langchain_amulet.preferences import PreferenceLike

PreferenceFunction: TypeAlias = Callable[[str], PreferenceLike | Awaitable[PreferenceLike]]
PreferenceSource: TypeAlias = (
    BaseStore | KeyValueStore[str, Any] | Mapping[str, PreferenceLike] | PreferenceFunction | None
)


def as_store(source: PreferenceSource) -> BaseStore:
    """The LangGraph store of whatever a memory was given; `None` is a new one in this process.

    Raises:
        StoreTypeError: Preferences cannot be kept in, nor read from, such a thing.
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
    given = source.__name__ if isinstance(source, type) else type(source).__name__
    msg = (
        f"PreferenceMemory keeps preferences in a LangGraph BaseStore, got {given}. Use InMemoryStore, SqliteStore, "
        f"PostgresStore, ..., or None for this process only. A store of LangChain's, a mapping from user ids or a "
        f"function of one serve too; what opens a store is entered by `with` first."
    )
    raise StoreTypeError(msg)


class FunctionStore(BaseStore):
    """Read-only: a search whose query is a user id finds what a function says that this user prefers.

    Args:
        function: Sync, or async for callers who are.
    """

    def __init__(self, function: PreferenceFunction) -> None:
        self._function = function

    def batch(self, ops: Iterable[Op]) -> list[Any]:
        """Ask the function.

        Raises:
            StoreTypeError: Something was to be written; or the function is async.
        """
        return [self._ask(op) for op in ops]

    async def abatch(self, ops: Iterable[Op]) -> list[Any]:
        """Ask the function; one that is not async runs in a thread, since it may read files or databases."""
        answers = []
        for op in ops:
            user_id = _user_id(op)
            answer = await asyncio.wrap_future(threads.of(self).submit(partial(self._function, user_id)))
            answers.append(await answer if inspect.isawaitable(answer) else answer)
        return answers

    def _ask(self, op: Op) -> PreferenceLike:
        answer = self._function(_user_id(op))
        if not inspect.isawaitable(answer):
            return answer
        if inspect.iscoroutine(answer):
            answer.close()
        msg = "The function that tells preferences is async. Use ainvoke, astream and the like, or a sync function."
        raise StoreTypeError(msg)


def _user_id(op: Op) -> str:
    if isinstance(op, SearchOp) and op.query is not None:
        return op.query
    doing = "written to" if isinstance(op, PutOp) else "searched"
    msg = (
        f"A mapping or function of preferences can be read, and not {doing}. "
        f"Give PreferenceMemory a LangGraph store, such as InMemoryStore or SqliteStore."
    )
    raise StoreTypeError(msg)
