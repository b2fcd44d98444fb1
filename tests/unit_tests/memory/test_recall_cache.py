"""The cache of recently read preferences, and stores that do not answer."""

import asyncio
import gc
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from functools import partial

import pytest
from langchain_core.stores import InMemoryByteStore
from langgraph.store.memory import InMemoryStore
from langgraph.store.sqlite import SqliteStore

from langchain_amulet.exceptions import InvalidParameterError, StoreTimeoutError
from langchain_amulet.memory import execution, recall_cache
from langchain_amulet.memory.daemon_threads import DaemonThreads
from langchain_amulet.memory.preference_memory import PreferenceMemory, access_to
from langchain_amulet.memory.recall_cache import RecallCache
from langchain_amulet.preferences import Preference

BRIEF, KIND = Preference("Be brief."), Preference("Be kind.")
ALICE, BOB = ("preferences", "alice"), ("preferences", "bob")


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def cache(clock) -> RecallCache:
    return RecallCache(clock)


def keep(cache: RecallCache, where=ALICE, preferences=(BRIEF,), variant=None) -> None:
    cache.put(where, variant, preferences, cache.start_read())


def test_returns_preferences_with_their_age(cache, clock):
    keep(cache)
    clock.now += 5
    assert cache.get(ALICE, None, 5) == ((BRIEF,), 5)
    clock.now += 0.1
    assert cache.get(ALICE, None, 5) is None


def test_age_counts_from_the_start_of_the_read(cache, clock):
    start = cache.start_read()
    clock.now += 7
    cache.put(ALICE, None, (BRIEF,), start)
    assert cache.get(ALICE, None, 10).age_s == 7


def test_entries_of_other_users_and_variants_are_not_returned(cache):
    keep(cache)
    assert cache.get(BOB, None, 5) is None
    assert cache.get(ALICE, "another variant", 5) is None


def test_a_write_drops_the_entry_and_discards_reads_in_progress(cache):
    keep(cache)
    keep(cache, BOB)
    start = cache.start_read()
    cache.drop(ALICE)
    cache.put(ALICE, None, (BRIEF,), start)
    assert cache.get(ALICE, None, 5) is None
    assert cache.get(BOB, None, 5) is not None


def test_preferences_that_expired_in_the_cache_are_not_returned(cache, monkeypatch):
    keep(cache, preferences=(Preference("Be brief.", expires_at=datetime.now(UTC) + timedelta(hours=1)), KIND))
    assert len(cache.get(ALICE, None, 5).preferences) == 2
    monkeypatch.setattr(Preference, "is_expired", property(lambda self: self.expires_at is not None))
    assert cache.get(ALICE, None, 5).preferences == (KIND,)


def test_keeps_a_limited_number_of_users(cache, monkeypatch):
    monkeypatch.setattr(recall_cache, "_MAX_USERS", 2)
    for where in (ALICE, BOB, ALICE, ("preferences", "carol")):
        keep(cache, where)
    assert cache.get(ALICE, None, 5)
    assert cache.get(BOB, None, 5) is None


def test_caches_and_threads_of_deleted_stores_are_freed():
    memory = PreferenceMemory(cache_seconds=60)
    memory.recall("alice")
    key = id(memory.store)
    assert key in recall_cache.caches._objects
    assert key in execution.threads._objects
    del memory
    gc.collect()
    assert key not in recall_cache.caches._objects
    assert key not in execution.threads._objects


# Memories


class CountingStore(InMemoryStore):
    __hash__ = None  # not hashable, like a dataclass
    num_searches = 0

    def batch(self, ops):
        self.num_searches += 1
        return super().batch(ops)

    async def abatch(self, ops):
        return self.batch(ops)


async def test_memory_reads_the_store_again_only_after_cache_seconds(monkeypatch):
    store = CountingStore()
    memory = PreferenceMemory(store, cache_seconds=60)
    memory.remember("alice", BRIEF)
    store.num_searches = 0
    assert memory.recall("alice") == await memory.arecall("alice") == memory.recall("alice") == [BRIEF]
    assert store.num_searches == 1
    access = access_to(memory)
    assert access.recall("alice").age_s > 0
    assert (await access.arecall("alice")).age_s > 0
    clock = time.monotonic() + 61
    monkeypatch.setattr(recall_cache.caches.of(store), "_clock", lambda: clock)
    assert access.recall("alice") == ((BRIEF,), 0)
    assert store.num_searches == 2


@pytest.mark.parametrize("is_async", [False, True])
async def test_write_during_a_read_is_not_hidden_by_the_cache(is_async):
    class Slow(InMemoryStore):
        during_read: Callable[[], object] | None = None

        def batch(self, ops):
            results = super().batch(ops)
            if during_read := self.during_read:
                self.during_read = None
                during_read()
            return results

        async def abatch(self, ops):
            return self.batch(ops)

    store = Slow()
    memory = PreferenceMemory(store, cache_seconds=60)
    store.during_read = lambda: memory.remember("alice", BRIEF)
    assert await memory.arecall("alice") == [] if is_async else memory.recall("alice") == []
    assert memory.recall("alice") == [BRIEF]


def test_memory_without_cache_always_reads_the_store():
    store = CountingStore()
    memory = PreferenceMemory(store)
    assert [access_to(memory).recall("alice") for _ in range(3)] == [((), 0)] * 3
    assert store.num_searches == 3


async def test_writes_of_this_process_take_effect_at_once():
    memory = PreferenceMemory(cache_seconds=60)
    other = PreferenceMemory(memory.store)
    assert memory.recall("alice") == []
    other.remember("alice", BRIEF)
    assert memory.recall("alice") == [BRIEF]
    await other.aupdate("alice", "Be brief.", new_text="Be kind.")
    assert await memory.arecall("alice") == [KIND]
    exported = other.export("alice")
    other.forget("alice", "Be kind.")
    assert memory.recall("alice") == []
    await other.aimport_("alice", exported)
    assert memory.recall("alice") == [KIND]
    await other.aforget_user("alice")
    assert memory.recall("alice") == []


def test_writes_through_another_store_over_the_same_database_take_effect_at_once(tmp_path):
    path, byte_store = str(tmp_path / "memory.db"), InMemoryByteStore()
    with SqliteStore.from_conn_string(path) as first, SqliteStore.from_conn_string(path) as second:
        for store, other_store in ((first, second), (byte_store, byte_store)):
            memory = PreferenceMemory(store, cache_seconds=60)
            assert memory.recall("alice") == []
            PreferenceMemory(other_store).remember("alice", BRIEF)
            assert memory.recall("alice") == [BRIEF]


def test_memories_with_and_without_langmem_do_not_share_cache_entries():
    store = InMemoryStore()
    store.put(("memories", "alice"), "1", {"content": "Likes tea."})
    more = PreferenceMemory(store, cache_seconds=60, langmem_namespace=("memories", "{langgraph_user_id}"))
    assert len(more.recall("alice")) == 1
    assert PreferenceMemory(store, cache_seconds=60).recall("alice") == []


def test_changing_the_returned_list_does_not_change_the_cache():
    memory = PreferenceMemory(cache_seconds=60)
    memory.recall("alice").append(BRIEF)
    assert memory.recall("alice") == []


# Stores that do not answer


class StuckStore(InMemoryStore):
    """A store that answers only once `may_answer` is set."""

    def __init__(self) -> None:
        super().__init__()
        self.may_answer = threading.Event()

    def batch(self, ops):
        self.may_answer.wait(30)
        return super().batch(ops)

    async def abatch(self, ops):
        return await asyncio.to_thread(self.batch, ops)


class NotADatabase(InMemoryStore):
    async def abatch(self, _ops=None):
        raise NotImplementedError


@pytest.fixture
def stuck() -> Iterator[StuckStore]:
    store = StuckStore()
    yield store
    store.may_answer.set()


def test_read_of_a_stuck_store_times_out(stuck):
    memory = PreferenceMemory(stuck, read_timeout=0.05)
    for read in (memory.recall, memory.history, memory.export):
        with pytest.raises(StoreTimeoutError, match="within 0.05 s.*read_timeout.*on_store_error"):
            read("alice")
    stuck.may_answer.set()
    assert PreferenceMemory(stuck).recall("alice") == []


async def test_async_read_of_a_stuck_store_times_out(stuck):
    memory = PreferenceMemory(stuck, read_timeout=0.05)
    for read in (memory.arecall, memory.ahistory, memory.aexport):
        with pytest.raises(StoreTimeoutError, match="within 0.05 s"):
            await read("alice")
    with pytest.raises(StoreTimeoutError):  # a sync call, as in a notebook
        memory.recall("alice")
    stuck.may_answer.set()
    assert await PreferenceMemory(stuck).arecall("alice") == []


async def test_stuck_stores_do_not_use_up_the_threads_of_others(stuck):
    stuck.abatch = NotADatabase.abatch  # a sync store for async callers
    memory = PreferenceMemory(stuck, read_timeout=0.2)
    started = threading.active_count()
    errors = await asyncio.gather(*(memory.arecall("alice") for _ in range(100)), return_exceptions=True)
    assert {type(error) for error in errors} == {StoreTimeoutError}
    assert threading.active_count() - started <= 32
    with pytest.raises(StoreTimeoutError):
        memory.recall("alice")  # waits for a thread
    assert await asyncio.to_thread(lambda: "free") == "free"
    healthy = PreferenceMemory(read_timeout=5)
    assert healthy.recall("alice") == await healthy.arecall("alice") == []
    stuck.may_answer.set()
    assert PreferenceMemory(stuck, read_timeout=20).recall("alice") == []


def test_stuck_threads_do_not_delay_the_exit():
    script = (
        "import threading\n"
        "from langchain_amulet.memory.daemon_threads import DaemonThreads\n"
        "DaemonThreads().submit(threading.Event().wait)\n"
        "print('done')"
    )
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True)
    assert run.stdout == "done\n"


def test_threads_are_reused_and_end_when_idle(monkeypatch):
    monkeypatch.setattr("langchain_amulet.memory.daemon_threads._IDLE_S", 0.01)
    threads = DaemonThreads(2)
    assert [future.result(10) for future in [threads.submit(partial(pow, i, 2)) for i in range(50)]] == [
        i**2 for i in range(50)
    ]
    with pytest.raises(ZeroDivisionError):
        threads.submit(lambda: 1 / 0).result(10)
    deadline = time.monotonic() + 10
    while threads._num_threads and time.monotonic() < deadline:
        time.sleep(0.01)
    assert threads._num_threads == 0
    assert threads.submit(lambda: "again").result(10) == "again"


def test_writes_and_memories_without_a_timeout_wait(stuck):
    threading.Timer(0.1, stuck.may_answer.set).start()
    PreferenceMemory(stuck, read_timeout=0.01).remember("alice", BRIEF)
    stuck.may_answer.clear()
    threading.Timer(0.1, stuck.may_answer.set).start()
    assert PreferenceMemory(stuck, read_timeout=None).recall("alice") == [BRIEF]


async def test_timeout_error_of_the_store_itself_is_passed_on():
    class Impatient(InMemoryStore):
        def batch(self, _ops):
            raise TimeoutError("the store's own")  # noqa: EM101, TRY003

        abatch = batch

    memory = PreferenceMemory(Impatient())
    for call in (memory.recall, memory.forget_user):
        with pytest.raises(TimeoutError, match="failed with TimeoutError"):
            call("alice")
    for acall in (memory.arecall, memory.aforget_user):
        with pytest.raises(TimeoutError, match="failed with TimeoutError"):
            await acall("alice")


@pytest.mark.parametrize(
    ("wrong", "remedy"),
    [
        ({"read_timeout": 0}, "None waits"),
        ({"read_timeout": float("nan")}, "above 0"),
        ({"cache_seconds": -1}, "0 reads"),
    ],
)
def test_invalid_times_are_refused(wrong, remedy):
    with pytest.raises(InvalidParameterError, match=remedy):
        PreferenceMemory(**wrong)
