"""Many requests of all kinds, from threads and tasks; a third is cancelled, and the others are unaffected."""

import asyncio
import gc
import os
import random
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import psutil
import pytest

from langchain_amulet.engine.config import EngineConfig
from langchain_amulet.engine.engine import Engine
from langchain_amulet.engine.generation import Generation
from langchain_amulet.engine.params import PrefixKeys, Request, SamplingParams
from langchain_amulet.engine.runners.batched import TransformersRunner
from langchain_amulet.realignment import RealignmentConfig
from tests.fakes.engines import wait_until
from tests.fakes.figures import count
from tests.fakes.models import VOCAB_SIZE, tiny_model

NUM_READERS = 16
NUM_KINDS = 120
MAX_GROWTH = 32 * 2**20  # bytes; the allocator's, after all has been used once


def some_request(random_number: random.Random) -> Request:
    """One to three streams of 1 to 60 tokens, sampled or greedy, guarded or not, sharing beginnings or not."""
    start = [random_number.randrange(3, 6)] * random_number.randrange(0, 30)
    prompts = [
        start + [random_number.randrange(3, VOCAB_SIZE) for _ in range(random_number.randrange(1, 30))]
        for _ in range(random_number.choice([1, 2, 2, 2, 3]))
    ]
    return Request(
        prompts,
        [random_number.uniform(-1, 1) for _ in prompts[1:]],
        RealignmentConfig(random_number.uniform(0, 6), random_number.choice([0.0, 0.1])),
        SamplingParams(
            temperature=random_number.choice([0.0, 0.0, 1.0]),
            top_p=random_number.choice([1.0, 0.9]),
            max_tokens=random_number.randrange(1, 25),
            seed=random_number.randrange(1000),
            stop_token_ids=frozenset([random_number.randrange(VOCAB_SIZE)]),
        ),
        prefix_keys=[some_keys(random_number, len(start)) for _ in prompts],
    )


def some_keys(random_number: random.Random, num_shared: int) -> PrefixKeys:
    parts = random_number.choice([(), ((num_shared, ""),)])
    return PrefixKeys(parts, random_number.choice(["", "a", "a", None]), is_private=random_number.random() < 0.5)


class Soak:
    """Readers of both kinds on one engine, each checking what it gets."""

    def __init__(self, num_requests: int) -> None:
        runner = TransformersRunner(tiny_model("gemma3"))
        number = random.Random(0)
        self.requests = [some_request(number) for _ in range(NUM_KINDS)]
        cold = Engine(runner, EngineConfig(prefix_cache_bytes=0))
        self.expected = [list(cold.submit(request)) for request in self.requests]
        cold.close()
        budget = 24 * 100 * runner.bytes_per_token
        self.engine = Engine(
            TransformersRunner(tiny_model("gemma3")),
            EngineConfig(
                max_rows=20, max_waiting=8, cache_bytes=budget, prefix_cache_bytes=budget // 4, prefill_tokens=40
            ),
        )
        self.num_left = num_requests
        self.under_way: list[Generation] = []
        self.num_wrong = self.num_complete = self.num_cancelled = 0
        self._lock = threading.Lock()

    def next(self, number: random.Random) -> tuple[int, int | None] | None:
        """Which request is next, and after how many tokens to cancel it, if it is to be."""
        with self._lock:
            if not self.num_left:
                return None
            self.num_left -= 1
        kind = number.randrange(NUM_KINDS)
        return kind, number.randrange(10) if number.random() < 1 / 4 else None

    def check(self, kind: int, tokens: list[int], generation: Generation, cancel_after: int | None) -> None:
        expected = self.expected[kind]
        # The engine may have finished an answer before its reader, which lags behind, stops and cancels it.
        is_cancelled = generation.finish_reason == "cancelled" or len(tokens) == cancel_after
        is_right = tokens == (expected[: len(tokens)] if is_cancelled else expected)
        with self._lock:
            self.under_way.remove(generation)
            self.num_wrong += not is_right
            self.num_cancelled += is_cancelled
            self.num_complete += not is_cancelled

    def read(self, seed: int) -> None:
        number = random.Random(seed)
        while (choice := self.next(number)) is not None:
            kind, cancel_after = choice
            generation = self.engine.submit(self.requests[kind])
            self.under_way.append(generation)
            tokens: list[int] = []
            while len(tokens) != cancel_after and (token_id := next(generation, None)) is not None:
                tokens.append(token_id)
            generation.cancel()
            self.check(kind, tokens, generation, cancel_after)

    def cancel_at_random(self) -> None:
        """Cancel answers while their readers wait for the next token, or for a place in the queue."""
        number = random.Random(1)
        while self.num_left:
            time.sleep(number.random())
            with self._lock:
                doomed = number.choice(self.under_way) if self.under_way else None
            if doomed is not None:
                doomed.cancel()

    async def aread(self, seed: int) -> None:
        number = random.Random(seed)
        while (choice := self.next(number)) is not None:
            kind, cancel_after = choice
            generation = await self.engine.asubmit(self.requests[kind])
            self.under_way.append(generation)
            tokens: list[int] = []
            while len(tokens) != cancel_after and (token_id := await anext(generation, None)) is not None:
                tokens.append(token_id)
            generation.cancel()
            self.check(kind, tokens, generation, cancel_after)

    async def run(self) -> None:
        threading.Thread(target=self.cancel_at_random).start()
        tasks = [self.aread(seed) for seed in range(NUM_READERS // 2)]
        with ThreadPoolExecutor(NUM_READERS // 2) as pool:
            loop = asyncio.get_running_loop()
            threads = [loop.run_in_executor(pool, self.read, 100 + seed) for seed in range(NUM_READERS // 2)]
            await asyncio.gather(*tasks, *threads)


def resident_bytes() -> int:
    gc.collect()
    return psutil.Process(os.getpid()).memory_info().rss


@pytest.mark.slow
async def test_soak(is_campaign):
    num_requests = 2000 if is_campaign else 300
    soak = Soak(num_requests)
    soak.num_left = num_requests // 2
    await soak.run()
    memory = resident_bytes()
    soak.num_left = num_requests // 2
    await soak.run()
    growth = resident_bytes() - memory
    count("requests", num_requests)
    count("answers compared", num_requests)
    count("requests cancelled", soak.num_cancelled)
    count("wrong answers", soak.num_wrong)
    assert soak.num_wrong == 0
    assert soak.num_complete + soak.num_cancelled == num_requests
    assert num_requests / 6 < soak.num_cancelled < num_requests / 2
    wait_until(lambda: soak.engine.stats.num_running == 0)
    assert (soak.engine.stats.num_rows, soak.engine.stats.num_waiting) == (0, 0)
    assert soak.engine.stats.num_reused_tokens > num_requests
    assert growth < MAX_GROWTH, f"{growth / 2**20:.0f} MiB more than after the first half"
    line = f"{soak.num_complete} complete, {soak.num_cancelled} cancelled, memory + {growth / 2**20:.1f} MiB"
    sys.stderr.write(f"\n{line}; {soak.engine.stats}\n")
