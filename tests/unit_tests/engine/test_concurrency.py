"""Concurrent users of one ChatAmulet: one batch, cancellation, queues, and reuse between requests."""

import asyncio
import gc
import threading
import time
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from typing import cast

import pytest
from langchain_core.messages import AIMessageChunk
from langchain_core.output_parsers import StrOutputParser

from langchain_amulet import ChatAmulet, PreferenceMemory
from langchain_amulet.engine.batch import Batch
from langchain_amulet.engine.config import EngineConfig
from langchain_amulet.engine.engine import Engine
from langchain_amulet.exceptions import EngineBusyError, InvalidParameterError
from tests.fakes.chats import (
    ALICE,
    BOB,
    BRIEF,
    MODEL,
    QUESTION,
    SHORT,
    TOKENIZER,
    expected_answers,
    short_llm,
    users_memory,
)
from tests.fakes.engines import wait_until
from tests.fakes.models import tiny_model


@pytest.fixture
def memory() -> PreferenceMemory:
    return users_memory()


@pytest.fixture
def llm(memory) -> ChatAmulet:
    return short_llm(memory)


@pytest.fixture(scope="module")
def answers() -> dict[str, str]:
    return expected_answers()


# Cancellation


class SlowSteps:
    """Makes each step of an engine take a hundredth of a second at least, and counts them."""

    def __init__(self, monkeypatch, engine: Engine) -> None:
        self.count, self.third = 0, threading.Event()
        original = Batch.draw

        def draw(batch, logits):
            if not {*batch.sequences} & {*engine._scheduler.all_sequences()}:  # of an engine that another test left
                return original(batch, logits)
            time.sleep(0.01)
            self.count += 1
            if self.count == 3:
                self.third.set()
            return original(batch, logits)

        monkeypatch.setattr(Batch, "draw", draw)


@pytest.fixture
def steps(monkeypatch, llm) -> SlowSteps:
    return SlowSteps(monkeypatch, llm.engine)


def is_idle(llm: ChatAmulet) -> bool:
    return llm.engine.stats.num_running == 0


def test_closed_stream_frees_its_rows_within_a_step(llm, steps):
    stream = llm.stream(QUESTION, ALICE, max_tokens=200)
    next(stream)
    stream.close()
    drawn = steps.count
    wait_until(lambda: is_idle(llm))
    assert steps.count <= drawn + 1 < 200


def test_abandoned_stream_frees_its_rows_within_a_step(llm, steps):
    stream = llm.stream(QUESTION, max_tokens=200)
    next(stream)
    del stream
    gc.collect()
    drawn = steps.count
    wait_until(lambda: is_idle(llm))
    assert steps.count <= drawn + 1 < 200


async def test_cancelled_ainvoke_frees_its_rows_within_a_step(llm, steps):
    task = asyncio.create_task(llm.ainvoke(QUESTION, max_tokens=200))
    await asyncio.to_thread(steps.third.wait, 60)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    drawn = steps.count
    await asyncio.to_thread(wait_until, lambda: is_idle(llm))
    assert steps.count <= drawn + 1 < 200


async def test_timeout_frees_the_rows_within_a_few_steps(llm, steps):
    async def read() -> None:
        async for _ in llm.astream(QUESTION, max_tokens=200):
            if steps.count > 2:
                await asyncio.sleep(60)

    with pytest.raises(TimeoutError):
        await asyncio.wait_for(read(), timeout=1)
    drawn = steps.count
    await asyncio.to_thread(wait_until, lambda: is_idle(llm))
    assert steps.count <= drawn + 10 < 200  # the event loop closes the abandoned stream a little later


async def test_closed_astream_frees_its_rows_within_a_step(llm, steps):
    stream = llm.astream(QUESTION, max_tokens=200)
    await anext(stream)
    await stream.aclose()
    drawn = steps.count
    await asyncio.to_thread(wait_until, lambda: is_idle(llm))
    assert steps.count <= drawn + 1 < 200


def test_stop_string_ends_the_drawing(llm, steps, answers):
    message = llm.invoke(QUESTION, ALICE, max_tokens=200, stop=[answers["alice"][2:4]])
    assert message.text == answers["alice"][:2]
    wait_until(lambda: is_idle(llm))
    assert message.usage_metadata["output_tokens"] <= steps.count < 200


def test_usage_counts_no_token_after_the_stop_string(llm, answers):
    stop = [answers["alice"][4:6]]
    expected = llm.invoke(QUESTION, ALICE, stop=stop).usage_metadata
    stream = llm.stream(QUESTION, ALICE, stop=stop)
    chunks = [next(stream)]
    wait_until(lambda: is_idle(llm))  # all tokens are drawn before the next one is read
    chunks += list(stream)
    assert sum(chunks[1:], start=chunks[0]).usage_metadata == expected


def test_failed_engine_is_replaced(llm, answers):
    loaded = llm.load()
    loaded.engine.close()
    assert llm.invoke(QUESTION, ALICE).text == answers["alice"]
    assert llm.engine is not loaded.engine
    assert llm.load().model is loaded.model


# Many at once


def largest_batch(monkeypatch) -> list[int]:
    """Sizes of the batches that are drawn, from now on."""
    sizes: list[int] = []
    original = Batch.draw

    def draw(batch, logits):
        sizes.append(len(batch.sequences))
        time.sleep(0.02)
        return original(batch, logits)

    monkeypatch.setattr(Batch, "draw", draw)
    return sizes


def test_batch_shares_one_batch_whatever_the_number_of_cores(llm, answers, monkeypatch):
    sizes = largest_batch(monkeypatch)
    batched = llm.batch([QUESTION] * 24, [ALICE, BOB] * 12)
    assert [message.text for message in batched] == [answers["alice"], answers["bob"]] * 12
    assert max(sizes) > 6
    of_chain = (llm | StrOutputParser()).batch([QUESTION] * 24, [ALICE, BOB] * 12)
    assert of_chain == [answers["alice"], answers["bob"]] * 12
    assert {text for _, text in (llm | StrOutputParser()).batch_as_completed([QUESTION] * 3, [ALICE] * 3)} == {
        answers["alice"]
    }


def test_batch_keeps_to_the_callers_max_concurrency(llm, monkeypatch):
    sizes = largest_batch(monkeypatch)
    llm.batch([QUESTION] * 6, {"max_concurrency": 2})
    assert max(sizes) <= 2


async def test_abatch_shares_one_batch(llm, answers, monkeypatch):
    sizes = largest_batch(monkeypatch)
    batched = await llm.abatch([QUESTION] * 24, [BOB, ALICE] * 12)
    assert [message.text for message in batched] == [answers["bob"], answers["alice"]] * 12
    assert max(sizes) > 6


def test_streams_of_many_threads_share_one_batch(llm, answers, monkeypatch):
    sizes = largest_batch(monkeypatch)
    configs = {"alice": ALICE, "bob": BOB, "visitor": {}}
    with ThreadPoolExecutor(12) as threads:
        read = lambda name: (name, "".join(chunk.text for chunk in llm.stream(QUESTION, configs[name])))  # noqa: E731
        texts = list(threads.map(read, [*configs] * 4))
    assert all(text == answers[name] for name, text in texts)
    assert max(sizes) > 3


@pytest.mark.usefixtures("steps")
def test_full_queue_raises_if_configured_so():
    config = EngineConfig(max_rows=1, max_waiting=1, when_busy="raise")
    llm = ChatAmulet(model=tiny_model(), tokenizer=TOKENIZER, engine_config=config)
    first = cast("Generator[AIMessageChunk]", llm.stream(QUESTION, max_tokens=200))
    next(first)  # has the only row
    with ThreadPoolExecutor(1) as threads:
        second = threads.submit(llm.invoke, QUESTION, max_tokens=1)
        wait_until(lambda: llm.engine.stats.num_waiting == 1)
        with pytest.raises(EngineBusyError, match="queue is full: 1 requests.*max_waiting"):
            llm.invoke(QUESTION, max_tokens=1)
        first.close()
        assert second.result().usage_metadata["output_tokens"] == 1


def test_other_limits_for_a_loaded_model_are_refused(llm):
    llm.invoke(QUESTION, max_tokens=1)
    other = ChatAmulet(model=MODEL, tokenizer=TOKENIZER, engine_config=EngineConfig(max_rows=3))
    with pytest.raises(InvalidParameterError, match="loaded already.*engine_config"):
        other.invoke(QUESTION)


# Reuse of keys and values


@pytest.fixture
def keeping(memory) -> ChatAmulet:
    """On a model of its own, so that what other tests have left is not reused."""
    return ChatAmulet(model=tiny_model("qwen2", seed=5), tokenizer=TOKENIZER, memory=memory, **SHORT)


def num_reused_by(llm: ChatAmulet, config) -> int:
    engine = llm.engine
    wait_until(lambda: is_idle(llm))
    before = engine.stats.num_reused_tokens
    llm.invoke(QUESTION, config)
    return engine.stats.num_reused_tokens - before


CAROL = {"configurable": {"user_id": "carol"}}


def test_rows_are_reused_by_their_user_only(keeping, memory):
    base, pref = (len(prompt) - 1 for prompt in keeping.prompt_streams(QUESTION, BRIEF))
    memory.remember("carol", BRIEF)
    keeping.invoke(QUESTION, ALICE)
    assert num_reused_by(keeping, ALICE) == base + pref
    assert [num_reused_by(keeping, other) for other in ({}, BOB, CAROL)] == [0, 0, 0]


def test_shared_rows_are_reused_as_far_as_no_preference_has_a_part(keeping, memory):
    shared = keeping.model_copy(update={"prefix_sharing": "all"})
    base, pref = (len(prompt) - 1 for prompt in shared.prompt_streams(QUESTION, BRIEF))
    memory.remember("carol", BRIEF)
    shared.invoke(QUESTION, ALICE)
    assert num_reused_by(shared, ALICE) == base + pref
    assert num_reused_by(shared, {}) == base
    for other in (BOB, CAROL):
        assert base <= num_reused_by(shared, other) < 2 * base  # their streams begin as the base prompt does


def test_prefixes_are_reused_whether_preferences_come_from_the_store_or_from_its_cache(keeping):
    memory = PreferenceMemory(cache_seconds=600)
    memory.remember("alice@example.com", BRIEF)
    cached = keeping.model_copy(update={"memory": memory})
    base, pref = (len(prompt) - 1 for prompt in keeping.prompt_streams(QUESTION, BRIEF))
    cached.invoke(QUESTION, ALICE)
    assert cached.invoke(QUESTION, ALICE).response_metadata["amulet"]["preferences_age_s"] > 0
    assert num_reused_by(cached, ALICE) == base + pref


async def test_forgetting_drops_rows_with_preferences(keeping, memory):
    base, pref = (len(prompt) - 1 for prompt in keeping.prompt_streams(QUESTION, BRIEF))
    keeping.invoke(QUESTION, ALICE)
    memory.forget("bob")
    assert num_reused_by(keeping, ALICE) < base + pref
    assert num_reused_by(keeping, ALICE) == base + pref
    await memory.aforget("bob")
    assert num_reused_by(keeping, ALICE) < base + pref
