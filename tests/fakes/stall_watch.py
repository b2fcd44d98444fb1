"""Measures how long one user waits between tokens while others send the worst they can."""

import contextlib
import itertools
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from statistics import median
from typing import Any, NamedTuple

from langchain_amulet.engine.engine import Engine
from langchain_amulet.engine.params import Request, SamplingParams

PROMPT = [3, 4, 5, 6]
MOST_TOKENS = 6000


class Mark(NamedTuple):
    """The engine's counts when a token arrived."""

    steps: int
    calls: int
    """Calls of Python functions and of built-in ones on the engine's thread."""
    thread_s: float
    """Time that the engine's thread has computed."""
    process_s: float
    """Time that all threads have computed: what a thread that holds Python's lock adds."""
    running: int
    """Requests that hold rows."""


class Gaps(NamedTuple):
    """The longest gaps between two tokens of a user, each per running request.

    All but `steps` are ratios to the usual gap of a user who is alone.
    """

    num_tokens: int
    steps: int
    calls: float
    thread_s: float
    process_s: float


class StallWatch:
    """One user's answer on an engine, token by token; greedy, without preferences."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._calls = self._steps = self._running = 0
        step = engine._scheduler.step

        def counted_step() -> None:
            self._steps += 1
            self._running = engine._scheduler.num_running
            step()

        engine._scheduler.step = counted_step
        engine._worker.submit(lambda: sys.setprofile(self._count))
        self._usual = self._gaps(self._answer(80))

    def during(self, attack: Callable[[], object]) -> Gaps:
        """Return the longest gaps of the user while the attack runs, and what it raises is ignored."""
        with self._answering() as marks:
            start = len(marks)
            with contextlib.suppress(Exception):
                attack()
            num_before, deadline = len(marks), time.monotonic() + 20
            while len(marks) < num_before + 5 and time.monotonic() < deadline:
                time.sleep(0.001)
            seen = [*marks[max(0, start - 1) :]]
        usual = [median(column) for column in zip(*self._usual, strict=True)]
        shares = [
            [part / whole / gap.running for part, whole in zip(gap[1:4], usual[1:4], strict=True)]
            for gap in self._gaps(seen)
        ]
        ratios = [round(max(column), 1) for column in zip(*shares, strict=True)]
        return Gaps(len(seen), max(gap.steps for gap in self._gaps(seen)), *ratios)

    @contextlib.contextmanager
    def _answering(self) -> Iterator[list[Mark]]:
        marks: list[Mark] = []
        generation = self._engine.submit(Request([PROMPT], sampling=SamplingParams(max_tokens=MOST_TOKENS)))
        channel: Any = generation._sequence.channel
        channel.put = lambda _token_id: marks.append(self._mark())
        while len(marks) < 3:
            time.sleep(0.001)
        try:
            yield marks
        finally:
            generation.cancel()

    def _answer(self, num_tokens: int) -> list[Mark]:
        with self._answering() as marks:
            while len(marks) < num_tokens:
                time.sleep(0.001)
        return marks[:num_tokens]

    def _gaps(self, marks: Sequence[Mark]) -> list[Mark]:
        """Return the differences; a gap begins within the step of the first mark, so its requests count too."""
        return [
            Mark._make(
                [*(new - old for old, new in zip(first[:-1], then[:-1], strict=True)), max(first.running, then.running)]
            )
            for first, then in itertools.pairwise(marks)
        ]

    def _mark(self) -> Mark:
        running = max(1, self._running, self._engine._scheduler.num_running)
        return Mark(self._steps, self._calls, time.thread_time(), time.process_time(), running)

    def _count(self, _frame: Any, event: str, _arg: Any) -> None:
        self._calls += event in ("call", "c_call")
