"""Stores that hang, calls that are given up, and processes that are forked."""

import asyncio
import contextlib
import contextvars
import os
import sqlite3
import threading
from collections.abc import Iterator
from functools import partial

import pytest
from langgraph.store.memory import InMemoryStore
from langgraph.store.sqlite import SqliteStore

from langchain_amulet import ChatAmulet, PreferenceMemory
from langchain_amulet.memory import execution
from langchain_amulet.memory.access import _deletions
from langchain_amulet.memory.daemon_threads import DaemonThreads
from langchain_amulet.memory.recall_cache import caches
from langchain_amulet.memory.store_quirks import _in_memory
from langchain_amulet.preferences import Preference
from tests.fakes.chat_templates import byte_tokenizer
from tests.fakes.forks import in_child
from tests.fakes.models import tiny_model

BRIEF = Preference("Be brief.")
needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")


class Hung(InMemoryStore):
    """A sync store that answers only once `may_answer` is set; it counts the calls."""

    def __init__(self) -> None:
        super().__init__()
        self.may_answer = threading.Event()
        self.num_calls = 0

    def batch(self, ops):
        self.num_calls += 1
        self.may_answer.wait(30)
        return super().batch(ops)

    async def abatch(self, _ops):
        raise NotImplementedError


@pytest.fixture
def hung() -> Iterator[Hung]:
    store = Hung()
    yield store
    store.may_answer.set()


@pytest.fixture
def busy() -> Iterator[DaemonThreads]:
    """A pool whose only thread is busy."""
    threads, may_end, has_begun = DaemonThreads(1), threading.Event(), threading.Event()
    threads.submit(lambda: (has_begun.set(), may_end.wait(30)))
    assert has_begun.wait(10)
    yield threads
    may_end.set()


async def until_waiting(store: Hung, num_calls: int) -> None:
    while execution.threads.of(store).num_waiting < num_calls:  # noqa: ASYNC110 - threads do not set asyncio events
        await asyncio.sleep(0)


# Calls that are given up


def test_cancelled_call_leaves_the_queue(busy):
    futures = [busy.submit(partial(pow, number, 2)) for number in range(500)]
    assert busy.num_waiting == 500
    assert all(future.cancel() for future in futures[1:])
    assert busy.num_waiting == 1


async def test_reads_that_are_cancelled_leave_no_call_behind(hung):
    reads = [asyncio.ensure_future(PreferenceMemory(hung).arecall("alice")) for _ in range(100)]
    await until_waiting(hung, 100 - 32)
    for read in reads:
        read.cancel()
    await asyncio.wait(reads)
    assert execution.threads.of(hung).num_waiting == 0
    hung.may_answer.set()
    assert hung.num_calls == 32


@pytest.mark.parametrize("is_async", [False, True])
async def test_reads_that_time_out_leave_no_call_behind(hung, is_async):
    memory = PreferenceMemory(hung, read_timeout=0.05)
    read = memory.arecall if is_async else lambda user_id: asyncio.to_thread(memory.recall, user_id)
    await asyncio.gather(*(read("alice") for _ in range(100)), return_exceptions=True)
    assert execution.threads.of(hung).num_waiting == 0


async def test_function_that_hangs_is_not_called_for_reads_that_were_given_up():
    may_answer, calls = threading.Event(), []
    memory = PreferenceMemory(lambda user_id: (calls.append(user_id), may_answer.wait(30)), read_timeout=0.05)
    await asyncio.gather(*(memory.arecall("alice") for _ in range(100)), return_exceptions=True)
    may_answer.set()
    assert (len(calls), execution.threads.of(memory.store).num_waiting) == (32, 0)


async def test_write_is_completed_although_its_caller_is_cancelled_before_it_has_a_thread(hung):
    memory = PreferenceMemory(hung)
    writes = [asyncio.ensure_future(memory.aremember("alice", f"Preference {number}.")) for number in range(40)]
    await until_waiting(hung, 40 - 32)
    for write in writes:
        write.cancel()
    hung.may_answer.set()
    await asyncio.gather(*execution._pending, return_exceptions=True)
    assert len(await memory.arecall("alice")) == 40


def test_read_that_the_user_interrupts_leaves_no_call_behind(busy, monkeypatch):
    store = InMemoryStore()
    monkeypatch.setattr(execution.threads, "of", lambda _: busy)
    monkeypatch.setattr("concurrent.futures.Future.result", _interrupted)
    with pytest.raises(KeyboardInterrupt):
        PreferenceMemory(store).recall("alice")
    assert busy.num_waiting == 0


class InterruptedOnce(SqliteStore):
    """A store whose first write is interrupted inside its transaction."""

    is_interrupted = False

    def batch(self, ops):
        if not self.is_interrupted:
            self.is_interrupted = True
            self.conn.execute("BEGIN IMMEDIATE")
            raise KeyboardInterrupt
        return super().batch(ops)


def test_write_that_the_user_interrupts_leaves_no_transaction_open():
    with contextlib.closing(sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)) as connection:
        store = InterruptedOnce(connection)
        store.setup()
        memory = PreferenceMemory(store)
        with pytest.raises(KeyboardInterrupt):
            memory.remember("alice", "Be kind.")
        memory.remember("alice", BRIEF)
        assert memory.recall("alice") == [BRIEF]


class InterruptedBeforeRelease(SqliteStore):
    """A store whose first write is interrupted before it releases its lock."""

    def batch(self, _ops):
        self.lock.acquire()
        raise KeyboardInterrupt


def test_interrupt_reaches_the_user_although_the_store_is_still_locked(monkeypatch):
    monkeypatch.setattr(execution, "_INTERRUPTED_S", 0.01)
    with contextlib.closing(sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)) as connection:
        store = InterruptedBeforeRelease(connection)
        with pytest.raises(KeyboardInterrupt):
            PreferenceMemory(store).remember("alice", BRIEF)


def _interrupted(*_):
    raise KeyboardInterrupt


async def test_function_runs_in_the_context_of_its_caller():
    tenant = contextvars.ContextVar("tenant", default="nobody")
    memory = PreferenceMemory(lambda _: f"Be brief, {tenant.get()}.")
    tenant.set("somebody")
    assert memory.recall("alice") == await memory.arecall("alice") == [Preference("Be brief, somebody.")]


def test_pool_survives_a_thread_that_cannot_be_started(monkeypatch):
    threads = DaemonThreads(1)
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", _no_thread)
        with pytest.raises(RuntimeError, match="can't start"):
            threads.submit(lambda: "lost")
    assert threads.submit(lambda: "found").result(10) == "found"


def _no_thread(_):
    msg = "can't start new thread"
    raise RuntimeError(msg)


# Forks


@needs_fork
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
@pytest.mark.parametrize("num_busy", [1, 40])
def test_child_of_a_fork_reads_at_once_whatever_its_parent_was_reading(hung, num_busy):
    memory = PreferenceMemory(hung, read_timeout=5)
    for _ in range(num_busy):
        execution.threads.of(hung).submit(lambda: hung.may_answer.wait(30))
    twin = PreferenceMemory(InMemoryStore(), read_timeout=5)
    assert twin.recall("alice") == []  # its thread is idle now
    assert in_child(lambda: hung.may_answer.set() or memory.recall("alice") == twin.recall("alice") == [])


@needs_fork
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_child_of_a_fork_does_not_wait_for_locks_that_its_parent_held():
    memory = PreferenceMemory(cache_seconds=60, read_timeout=5)
    memory.remember("alice", BRIEF)
    with execution.threads._lock, _in_memory.lock, caches.of(memory.store)._lock:
        assert in_child(lambda: memory.remember("alice", "Be kind.") in memory.recall("alice"))
    with _deletions._lock:
        assert in_child(lambda: memory.forget("alice") is None)


@needs_fork
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_child_of_a_fork_can_forget_although_the_engine_runs_in_its_parent():
    with_memory = PreferenceMemory(read_timeout=5)
    llm = ChatAmulet(model=tiny_model("qwen2", seed=5), tokenizer=byte_tokenizer(), memory=with_memory, max_tokens=4)
    with_memory.remember("alice", BRIEF)
    llm.invoke("Why?", {"configurable": {"user_id": "alice"}})
    assert in_child(lambda: with_memory.forget("alice") is None and with_memory.recall("alice") == [])
    llm.close()
