"""Queue, cancellation, failures and closing of an engine, on a fake runner."""

import asyncio
import gc
import os
import subprocess
import sys
import threading
import time
import weakref
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from langchain_amulet.engine.channel import Channel
from langchain_amulet.engine.config import EngineConfig
from langchain_amulet.engine.engine import Engine
from langchain_amulet.engine.generation import Generation
from langchain_amulet.engine.params import Request, SamplingParams
from langchain_amulet.exceptions import (
    EngineBusyError,
    EngineMemoryError,
    GenerationError,
    InvalidParameterError,
    ModelClosedError,
)
from tests.fakes.engines import FakeRunner, alone, wait_until


class GatedRunner(FakeRunner):
    """Waits before each forward until it may go on, so that tests decide how many have been."""

    def __init__(self) -> None:
        super().__init__()
        self.may_go_on = threading.Semaphore(0)
        self.is_open = False
        self.num_begun = 0
        self.error: BaseException | None = None

    def prefill(self, first_row, input_ids):
        self.num_begun += 1
        if not self.is_open:
            self.may_go_on.acquire()
        if self.error is not None:
            raise self.error
        return super().prefill(first_row, input_ids)

    def open(self) -> None:
        self.is_open = True
        self.may_go_on.release()


@pytest.fixture
def runner():
    runner = GatedRunner()
    yield runner
    runner.error = None
    runner.open()


def request(*prompts: list[int], max_tokens: int = 20) -> Request:
    return Request(prompts, [1.0] * (len(prompts) - 1), sampling=SamplingParams(max_tokens=max_tokens))


def filled(runner: GatedRunner, when_busy: str) -> tuple[Engine, Generation, Generation]:
    """One request under way, and one in the queue, which holds no more."""
    engine = Engine(runner, EngineConfig(max_rows=1, max_waiting=1, when_busy=when_busy))
    running = engine.submit(request([1, 2]))
    wait_until(lambda: runner.num_begun == 1)
    return engine, running, engine.submit(request([3]))


def test_full_queue_raises_if_configured_so(runner):
    engine, _, waiting = filled(runner, "raise")
    with pytest.raises(EngineBusyError, match='queue is full: 1 requests.*when_busy="wait"'):
        engine.submit(request([4]))
    runner.open()
    assert list(waiting) == alone(request([3]))


async def test_full_queue_raises_in_asubmit(runner):
    engine, *_ = filled(runner, "raise")
    with pytest.raises(EngineBusyError):
        await engine.asubmit(request([4]))


def test_full_queue_makes_threads_wait(runner):
    engine, *_ = filled(runner, "wait")
    with ThreadPoolExecutor(3) as threads:
        others = [threads.submit(lambda i: list(engine.submit(request([i]))), i) for i in (4, 5, 6)]
        wait_until(lambda: engine.stats.num_waiting == 4)
        assert not any(other.done() for other in others)
        runner.open()
        assert [other.result() for other in others] == [alone(request([i])) for i in (4, 5, 6)]


async def test_full_queue_makes_tasks_wait_without_blocking_the_event_loop(runner):
    engine, *_ = filled(runner, "wait")
    tasks = [asyncio.create_task(engine.asubmit(request([i]))) for i in (4, 5)]
    await asyncio.sleep(0.05)
    assert not any(task.done() for task in tasks)
    tasks[0].cancel()
    runner.open()
    assert [token async for token in await tasks[1]] == alone(request([5]))
    with pytest.raises(asyncio.CancelledError):
        await tasks[0]
    wait_until(lambda: engine.stats.num_running == 0)


def test_forgetting_concerns_the_requests_before_it_and_no_later_ones(runner):
    engine = Engine(runner, EngineConfig(max_rows=4))
    before = engine.submit(request([1, 2]))
    wait_until(lambda: runner.num_begun == 1)
    engine.forget_private()
    after = engine.submit(request([3, 4]))
    runner.open()
    list(after)
    assert (before._sequence.is_forgotten, after._sequence.is_forgotten) == (True, False)


def test_cancelled_request_frees_its_rows_within_one_step(runner):
    engine = Engine(runner)
    generation = engine.submit(request([1, 2], [1, 2, 3]))
    other = engine.submit(request([4]))
    for _ in range(3):
        runner.may_go_on.release()
    wait_until(lambda: runner.num_begun == 4)
    generation.cancel()
    assert generation.finish_reason == "cancelled"
    runner.may_go_on.release()
    wait_until(lambda: runner.num_begun == 5)
    assert engine.stats.num_rows == 1
    runner.open()
    assert list(generation) == alone(request([1, 2], [1, 2, 3]))[: len(generation.token_ids)]
    assert list(other) == alone(request([4]))


def test_abandoned_request_frees_its_rows_within_one_step(runner):
    engine = Engine(runner)
    generation = engine.submit(request([1, 2], max_tokens=100))
    runner.may_go_on.release()
    assert next(generation) == alone(request([1, 2]))[0]
    wait_until(lambda: runner.num_begun == 2)
    del generation
    gc.collect()
    runner.may_go_on.release()
    wait_until(lambda: engine.stats.num_rows == 0)
    assert runner.num_begun == 2


def test_cancelled_request_leaves_the_queue(runner):
    engine, _, waiting = filled(runner, "raise")
    waiting.cancel()
    runner.may_go_on.release(2)
    wait_until(lambda: engine.stats.num_waiting == 0)
    assert list(waiting) == []


async def test_cancelled_reader_loses_no_token(runner):
    engine = Engine(runner)
    generation = engine.submit(request([1, 2]))
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(anext(generation), timeout=0.05)
    runner.open()
    assert [token async for token in generation] == alone(request([1, 2]))


def test_failure_of_the_model_reaches_all_readers(runner):
    engine = Engine(runner)
    generations = [engine.submit(request([i])) for i in range(3)]
    for generation in generations[:1]:
        runner.may_go_on.release()
        next(generation)
    runner.error = ValueError("burnt out")
    runner.open()
    for generation in generations:
        with pytest.raises(GenerationError, match="ValueError: burnt out") as caught:
            list(generation)
        assert isinstance(caught.value.__cause__, ValueError)
        assert list(generation) == []
        assert generation.finish_reason == "error"
    runner.error = None
    assert list(engine.submit(request([1]))) == alone(request([1]))


def test_failure_of_the_worker_reaches_all_readers_and_closes_the_engine(runner, caplog):
    engine, running, waiting = filled(runner, "wait")
    with ThreadPoolExecutor(1) as threads:
        queueing = threads.submit(lambda: list(engine.submit(request([5]))))
        wait_until(lambda: engine.stats.num_waiting == 2)
        runner.error = SystemExit("out")
        runner.open()
        for read in (lambda: list(running), lambda: list(waiting), queueing.result):
            with pytest.raises(GenerationError, match="SystemExit: out"):
                read()
    assert "worker has failed" in caplog.text
    with pytest.raises(ModelClosedError, match="itself after SystemExit: out"):
        engine.submit(request([1]))


def test_closed_engine_refuses_requests_and_finishes_running_ones(runner):
    engine, running, waiting = filled(runner, "wait")
    with ThreadPoolExecutor(1) as threads:
        queueing = threads.submit(engine.submit, request([5]))
        wait_until(lambda: engine.stats.num_waiting == 2)
        engine.close()
        with pytest.raises(ModelClosedError, match="Load the model again"):
            queueing.result()
    with pytest.raises(ModelClosedError, match="Load the model again"):
        engine.submit(request([1]))
    runner.open()
    assert list(running) == alone(request([1, 2]))
    assert list(waiting) == alone(request([3]))


def test_closing_can_cancel_running_requests(runner):
    engine, running, waiting = filled(runner, "wait")
    engine.close(cancel=True)
    assert list(running) == list(waiting) == []
    assert running.finish_reason == waiting.finish_reason == "cancelled"


def test_request_too_large_for_the_device_is_refused(runner):
    runner.open()
    runner.fail(torch.OutOfMemoryError(), 0, times=2)
    with pytest.raises(EngineMemoryError, match="Shorten"):
        next(Engine(runner).submit(request([1])))


def test_garbage_collected_in_the_middle_of_a_step(runner):
    """A finalizer may run anywhere, also where its own locks are held."""
    engine = Engine(runner)
    generation = engine.submit(request([1, 2]))
    sequence = generation._sequence
    with sequence._lock, sequence.channel._lock:
        del generation
        gc.collect()
    assert sequence.finish_reason == "cancelled"


async def test_token_that_arrives_while_its_reader_is_cancelled_is_not_lost(runner):
    runner.open()
    engine = Engine(runner)
    generation = engine.submit(request([1, 2]))
    wait_until(lambda: engine.stats.num_running == 0)
    future = generation._sequence.channel.next()
    assert future.result() == alone(request([1, 2]))[0]
    generation._sequence.channel.give_back(future)  # as an interrupted reader does
    assert [token async for token in generation] == alone(request([1, 2]))


def test_token_of_an_interrupted_reader_goes_to_the_reader_that_waits():
    channel = Channel()
    interrupted, waiting = channel.next(), channel.next()
    channel.put(7)
    channel.give_back(interrupted)
    assert waiting.done()
    assert waiting.result() == 7


def test_interrupted_reader_takes_no_token(runner, monkeypatch):
    engine = Engine(runner)
    generation = engine.submit(request([1, 2]))

    def interrupted(_futures):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("langchain_amulet.engine.generation.wait", interrupted)
        with pytest.raises(KeyboardInterrupt):
            next(generation)
    runner.open()
    assert list(generation) == alone(request([1, 2]))


def test_interrupted_submit_is_cancelled(runner, monkeypatch):
    engine, *_ = filled(runner, "wait")

    def interrupted(_future):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("concurrent.futures.Future.result", interrupted)
        with pytest.raises(KeyboardInterrupt):
            engine.submit(request([7]))
    [(orphan, _)] = engine._overflow
    assert orphan.finish_reason == "cancelled"


def test_caller_may_change_the_prompt_after_submission(runner):
    prompt = [1, 2]
    generation = Engine(runner).submit(request(prompt))
    prompt.append(3)
    runner.open()
    assert list(generation) == alone(request([1, 2]))


def test_error_does_not_keep_the_model_alive(runner):
    engine = Engine(runner)
    generation = engine.submit(request([1]))
    runner.error = ValueError("burnt out")
    runner.open()
    with pytest.raises(GenerationError) as caught:
        next(generation)
    assert "in prefill" in caught.value.__cause__.__notes__[0]
    freed = weakref.ref(engine)
    del engine, generation
    wait_until(lambda: gc.collect() >= 0 and freed() is None)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_forked_process_must_load_the_model_again():
    script = (
        "import os\n"
        "from tests.fakes.engines import FakeRunner\n"
        "from langchain_amulet.engine.engine import Engine\n"
        "from langchain_amulet.engine.params import Request\n"
        "engine = Engine(FakeRunner())\n"
        "if not os.fork():\n"
        "    try:\n"
        "        engine.submit(Request([[1]]))\n"
        "    except RuntimeError as error:\n"
        "        print(error, flush=True)\n"
        "    os._exit(0)\n"
        "os.wait()"
    )
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False)
    assert "Load the model again" in run.stdout


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_waits_for_the_engine_of_the_parent_process_end_in_a_forked_one():
    """The fork happens while another thread holds the locks; the parent reads on, and the child can start anew."""
    script = (
        "import gc, os\n"
        "from tests.fakes.engines import FakeRunner\n"
        "from tests.unit_tests.engine.test_lifecycle import GatedRunner, request\n"
        "from langchain_amulet.engine.engine import Engine\n"
        "runner = GatedRunner()\n"
        "engine = Engine(runner)\n"
        "generation, scoring = engine.submit(request([1, 2])), engine.score([[1]], [2])\n"
        "sequence = generation._sequence\n"
        "locks = [engine._lock, sequence._lock, sequence.channel._lock, scoring._condition]\n"
        "[lock.acquire() for lock in locks]\n"
        "child = os.fork()\n"
        "if not child:\n"
        "    for wait in (lambda: next(generation), scoring.result, lambda: engine.submit(request([1]))):\n"
        "        try:\n"
        "            wait()\n"
        "        except RuntimeError as error:\n"
        "            print(type(error).__name__, 'forked' in str(error), flush=True)\n"
        "    generation.cancel()\n"
        "    engine.close(cancel=True)\n"
        "    print(len(list(Engine(FakeRunner()).submit(request([1])))), flush=True)\n"
        "    os._exit(0)\n"
        "[lock.release() for lock in locks]\n"
        "os.waitpid(child, 0)\n"
        "runner.open()\n"
        "print(len(list(generation)), tuple(scoring.result().shape))\n"
    )
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False)
    assert run.stdout.splitlines() == [*["ModelClosedError True"] * 3, "20", "20 (1, 1)"], run.stderr


def test_worker_ends_with_the_engine(runner):
    runner.open()
    engine = Engine(runner)
    list(engine.submit(request([1])))
    thread = engine._worker._thread
    assert thread.is_alive()
    del engine
    wait_until(lambda: gc.collect() >= 0 and not thread.is_alive())


def test_process_can_exit_during_an_answer():
    script = (
        "from tests.fakes.engines import FakeRunner\n"
        "from langchain_amulet.engine.engine import Engine\n"
        "from langchain_amulet.engine.params import Request, SamplingParams\n"
        "runner = FakeRunner(max_context=10**9)\n"
        "generation = Engine(runner).submit(Request([[1]], sampling=SamplingParams(max_tokens=10**8)))\n"
        "print(next(generation))"
    )
    started = time.monotonic()
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False)
    assert (run.returncode, run.stdout, run.stderr) == (0, f"{alone(request([1]))[0]}\n", "")
    assert time.monotonic() - started < 30


def test_token_ids_beyond_the_vocabulary_are_refused(runner):
    with pytest.raises(InvalidParameterError, match="from 0 to 39; got 1 to 40"):
        Engine(runner).submit(request([1, 40]))


def test_more_streams_than_rows_are_refused(runner):
    with pytest.raises(InvalidParameterError, match="3 streams; the engine has 2 rows"):
        Engine(runner, EngineConfig(max_rows=2)).submit(request([1], [2], [3]))


@pytest.mark.parametrize(
    ("values", "remedy"),
    [
        ({"max_rows": 0}, "max_rows must be a whole number, at least 1"),
        ({"max_waiting": None}, "max_waiting must be"),
        ({"cache_bytes": 0}, "cache_bytes must be"),
        ({"prefix_cache_bytes": -1}, "at least 0"),
        ({"prefill_tokens": 1.5}, "whole number"),
        ({"when_busy": "shout"}, "'wait' or 'raise'"),
    ],
)
def test_limits_out_of_range_are_refused(values, remedy):
    with pytest.raises(InvalidParameterError, match=remedy):
        EngineConfig(**values)


def test_limits_default_to_shares_of_the_device_memory(runner):
    config = Engine(runner, EngineConfig(prefill_tokens=7)).config
    assert (config.cache_bytes, config.prefix_cache_bytes, config.prefill_tokens) == (500_000, 100_000, 7)
