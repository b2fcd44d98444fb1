"""Threads and processes that write to one database at once: no write is lost, and no deletion is undone."""

import asyncio
import contextlib
import inspect
import logging
import multiprocessing
import sqlite3
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import psycopg
import pytest
from langchain_core.stores import InMemoryByteStore
from langgraph.store.base import PutOp
from langgraph.store.memory import InMemoryStore
from langgraph.store.sqlite.aio import AsyncSqliteStore

from langchain_amulet.exceptions import StoreError
from langchain_amulet.memory import execution, store_ops
from langchain_amulet.memory.preference_memory import PreferenceMemory
from langchain_amulet.preferences import Preference
from tests.fakes.databases import Caller, opened
from tests.fakes.writers import ALL, database, expected_weights, write, write_alone

NUM_THREADS = 50
NUM_PROCESSES = 4


@pytest.fixture(params=["sqlite", "postgres"])
def kind(request) -> str:
    return request.param


@pytest.fixture
def place(kind, request, tmp_path) -> str:
    return request.getfixturevalue("empty_postgres").uri if kind == "postgres" else str(tmp_path / "memory.db")


def check(memory: PreferenceMemory, writers: list[str], num_rounds: int) -> None:
    for user_id, authors in [(ALL, writers), *((writer, [writer]) for writer in writers)]:
        weights = {preference.text: preference.weight for preference in memory.recall(user_id)}
        assert weights == expected_weights(authors, num_rounds)
        history = [change.preference.text for change in memory.history(user_id)]
        texts = [text for text in expected_weights(authors, num_rounds) if "keeps" in text]
        texts += [text.replace("keeps", word) for text in texts for word in ("changes", "changed")]
        assert sorted(history) == sorted(texts)


def run_threads(work: Callable[[str, Callable[[], object]], None], writers: list[str]) -> None:
    start = threading.Barrier(len(writers), timeout=60)
    with ThreadPoolExecutor(len(writers)) as pool:
        list(pool.map(lambda writer: work(writer, start.wait), writers))


@pytest.fixture
def hasty_threads() -> Iterator[None]:
    """Switch between threads a thousand times as often."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(interval / 1000)
    yield
    sys.setswitchinterval(interval)


def test_fifty_threads_with_one_connection_lose_nothing(kind, place):
    writers = [f"Thread {number}" for number in range(NUM_THREADS)]
    with database(kind, place) as store:
        memory = PreferenceMemory(store)
        run_threads(lambda writer, wait: (wait(), write(memory, writer, 1)), writers)
        check(memory, writers, 1)


def test_fifty_threads_with_a_connection_each_lose_nothing(kind, place):
    writers = [f"Thread {number}" for number in range(NUM_THREADS)]
    with database(kind, place) as store:
        run_threads(lambda writer, wait: write_alone(kind, place, writer, 1, wait), writers)
        check(PreferenceMemory(store), writers, 1)


@pytest.mark.parametrize("store", [InMemoryStore, InMemoryByteStore])
@pytest.mark.usefixtures("hasty_threads")
def test_fifty_threads_with_a_store_in_memory_lose_nothing(store):
    writers = [f"Thread {number}" for number in range(NUM_THREADS)]
    memory = PreferenceMemory(store())
    run_threads(lambda writer, wait: (wait(), write(memory, writer, 1)), writers)
    check(memory, writers, 1)


def test_four_processes_lose_nothing(kind, place):
    writers = [f"Process {number}" for number in range(NUM_PROCESSES)]
    with database(kind, place) as store:
        spawn = multiprocessing.get_context("spawn")
        wait = spawn.Barrier(NUM_PROCESSES, timeout=120).wait
        processes = [spawn.Process(target=write_alone, args=(kind, place, writer, 10, wait)) for writer in writers]
        for process in processes:
            process.start()
        try:
            for process in processes:
                process.join(200)
        finally:
            for process in processes:
                process.terminate()
        assert [process.exitcode for process in processes] == [0] * NUM_PROCESSES
        check(PreferenceMemory(store), writers, 10)


# Locks and deadlocks


class Impatient(NamedTuple):
    """A memory over SQLite without a busy timeout, and another connection that takes locks."""

    caller: Caller
    other: sqlite3.Connection


@pytest.fixture(params=["sync", "async"])
async def impatient(request, sqlite, tmp_path) -> AsyncIterator[Impatient]:
    async with opened(sqlite, tmp_path, None) as store:
        executed = store.conn.execute("PRAGMA busy_timeout = 0")
        if inspect.isawaitable(executed):
            await executed
        caller = Caller(PreferenceMemory(store), is_async=request.param == "async")
        await caller.remember("alice", "Be kind.")
        other = sqlite3.connect(tmp_path / "memory.db", isolation_level=None)
        with contextlib.closing(other):
            yield Impatient(caller, other)


LOCKS = {
    "to write": ["BEGIN EXCLUSIVE"],  # others cannot begin a transaction
    "to read": ["BEGIN", "SELECT * FROM store"],  # others cannot commit
}


@pytest.mark.parametrize("sqlite", ["sqlite", "async sqlite"])
@pytest.mark.parametrize("lock", LOCKS)
async def test_write_waits_for_a_database_that_is_locked_for_a_moment(impatient, lock):
    for statement in LOCKS[lock]:
        impatient.other.execute(statement).fetchall()
    asyncio.get_running_loop().call_later(0.1, impatient.other.execute, "COMMIT")
    await impatient.caller.remember("alice", "Be brief.")
    assert await impatient.caller.recall("alice") == [Preference("Be kind."), Preference("Be brief.")]


@pytest.mark.parametrize("sqlite", ["sqlite", "async sqlite"])
@pytest.mark.parametrize("lock", LOCKS)
async def test_database_that_stays_locked_raises_until_it_is_released(impatient, lock, monkeypatch):
    monkeypatch.setattr(execution, "_DELAYS_S", (0.0, 0.01))
    for statement in LOCKS[lock]:
        impatient.other.execute(statement).fetchall()
    with pytest.raises(StoreError, match="failed with .*sqlite_errorname SQLITE_BUSY"):
        await impatient.caller.remember("alice", "Be brief.")
    impatient.other.execute("COMMIT")
    await impatient.caller.remember("alice", "Be concise.")
    assert await impatient.caller.recall("alice") == [Preference("Be kind."), Preference("Be concise.")]


def test_write_is_retried_after_postgresql_rolls_it_back_to_end_a_deadlock(empty_postgres, caplog):
    where = ("preferences", "alice")
    with (
        database("postgres", empty_postgres.uri) as store,
        psycopg.connect(empty_postgres.uri) as other,
        ThreadPoolExecutor(1) as pool,
        caplog.at_level(logging.INFO, "langchain_amulet.memory.execution"),
    ):
        store.batch([PutOp(where, key, {"text": "Be kind."}) for key in "ab"])
        store.conn.execute(
            "SET deadlock_timeout = '1s'"
        )  # this connection detects the deadlock first, and is rolled back
        other.execute("SET deadlock_timeout = '60s'")
        other.execute("UPDATE store SET ttl_minutes = 1 WHERE key = 'b'")
        ops = [PutOp(where, key, {"text": "Be brief."}) for key in "ab"]
        writing = pool.submit(execution.run, store, store_ops.write(ops))
        while not other.execute("SELECT 1 FROM pg_locks WHERE NOT granted").fetchone():
            time.sleep(0.01)
        other.execute("UPDATE store SET ttl_minutes = 1 WHERE key = 'a'")
        other.commit()
        writing.result()
        assert [item.value["text"] for item in store.search(where)] == ["Be brief."] * 2
    assert "DeadlockDetected" in caplog.text


class Crowded(InMemoryStore):
    """A store that another thread writes to during the first searches."""

    def __init__(self) -> None:
        super().__init__()
        self.num_times = 3

    def batch(self, ops):
        if self.num_times > 0:
            self.num_times -= 1
            raise RuntimeError("dictionary changed size during iteration")  # noqa: EM101, TRY003
        return super().batch(ops)


def test_search_in_memory_is_retried_while_another_thread_writes():
    store = Crowded()
    assert PreferenceMemory(store).recall("alice") == []
    assert store.num_times == 0


@pytest.mark.parametrize("kind", ["async sqlite", "async postgres"])
async def test_fifty_tasks_lose_nothing(kind, tmp_path, request):
    postgres = request.getfixturevalue("empty_postgres") if "postgres" in kind else None
    writers = [f"Task {number}" for number in range(NUM_THREADS)]

    async def write_one(memory: PreferenceMemory, writer: str) -> None:
        await memory.aremember(ALL, f"{writer} keeps")
        await memory.aremember(ALL, f"{writer} drops", 0.5)
        await memory.aforget(ALL, f"{writer} drops")
        await memory.aupdate(ALL, f"{writer} keeps", weight=-1.0)

    async with opened(kind, tmp_path, postgres) as store:
        memory = PreferenceMemory(store)
        await asyncio.gather(*(write_one(memory, writer) for writer in writers))
        recalled = {preference.text: preference.weight for preference in await memory.arecall(ALL)}
        assert recalled == {f"{writer} keeps": -1.0 for writer in writers}
        assert len(await memory.ahistory(ALL)) == 2 * NUM_THREADS


async def test_async_store_is_usable_after_callers_were_cancelled(tmp_path):
    async with AsyncSqliteStore.from_conn_string(str(tmp_path / "memory.db")) as store:
        memory = PreferenceMemory(store)
        await memory.aremember("alice", "Be brief.")
        for num_steps in range(12):
            task = asyncio.ensure_future(memory.arecall("alice"))
            for _ in range(num_steps):
                await asyncio.sleep(0)
            task.cancel()
        assert await memory.arecall("alice") == [Preference("Be brief.")]


async def test_forget_is_completed_if_the_caller_is_cancelled(tmp_path):
    async with AsyncSqliteStore.from_conn_string(str(tmp_path / "memory.db")) as store:
        memory = PreferenceMemory(store)
        await memory.aremember("alice", "Be brief.")
        task = asyncio.ensure_future(memory.aforget("alice"))
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait(execution._pending, timeout=10)
        assert await memory.arecall("alice") == []
