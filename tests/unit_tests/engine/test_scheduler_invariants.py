"""The scheduler under any sequence of submissions, steps, cancellations and failures (stateful property test)."""

import pytest
import torch
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from langchain_amulet.engine.config import EngineConfig
from langchain_amulet.engine.scheduler import Scheduler
from langchain_amulet.engine.sequence import Sequence
from langchain_amulet.exceptions import ContextLengthError
from langchain_amulet.realignment import RealignmentConfig
from tests.fakes.drafters import know_answers
from tests.fakes.engines import FakeRunner, add, alone, drain, request


class SchedulerMachine(RuleBasedStateMachine):
    """Submit, step, cancel and break things in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.sequences: list[Sequence] = []
        self.ends: dict[int, int] = {}

    @initialize(
        max_rows=st.integers(3, 9),
        cache_bytes=st.integers(60, 400),
        prefix_cache_bytes=st.sampled_from([0, 50, 1000]),
        prefill_tokens=st.integers(1, 60),
        num_draft_tokens=st.sampled_from([0, 1, 6]),
    )
    def build(self, **limits):
        self.patch = pytest.MonkeyPatch()
        self.patch.setattr("langchain_amulet.engine.admission._HEADROOM", 1)  # so that rows outgrow the limit
        know_answers(self.patch, alone)
        self.runner = FakeRunner(max_context=120)
        self.scheduler = Scheduler(self.runner, EngineConfig(**limits))
        self.limits = limits

    @rule(
        shared=st.lists(st.integers(0, 2), max_size=20),
        repeats=st.integers(1, 5),
        ends=st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=6), min_size=1, max_size=3),
        max_tokens=st.integers(1, 8),
        key=st.sampled_from(["", "a", "b", None]),
        scale=st.sampled_from([0.5, 2.0, 5.65]),
    )
    def submit(self, shared, repeats, ends, max_tokens, key, scale):
        prompts = [shared * repeats + end for end in ends]
        realignment = RealignmentConfig(guidance_scale=scale)
        each = request(*prompts, max_tokens=max_tokens, keys=[key] * len(prompts), realignment=realignment)
        try:
            sequence = add(self.scheduler, each)
        except ContextLengthError:
            return
        self.sequences.append(sequence)
        close = sequence.channel.close

        def counted(error=None):
            self.ends[sequence.number] = self.ends.get(sequence.number, 0) + 1
            close(error)

        sequence.channel.close = counted

    @rule(num_steps=st.integers(1, 4))
    def step(self, num_steps):
        for _ in range(num_steps):
            try:
                self.scheduler.step()
            except RuntimeError as error:
                self.scheduler.recover(error)

    @precondition(lambda self: self.sequences)
    @rule(data=st.data())
    def cancel(self, data):
        data.draw(st.sampled_from(self.sequences)).finish("cancelled")

    @rule(error=st.sampled_from([torch.OutOfMemoryError, RuntimeError]), delay=st.integers(0, 3))
    def break_something(self, error, delay):
        self.runner.fail(error("injected"), delay)

    @invariant()
    def every_row_is_held_by_one_stream_and_holds_its_tokens(self):
        rows = self.scheduler._rows
        held = [(row.sequence.number, row.stream) for row in rows]
        active = [*self.scheduler._decoding, *self.scheduler._prefilling]
        assert len(set(held)) == len(held)
        assert sorted(held) == sorted((each.number, stream) for each in active for stream in range(each.num_streams))
        assert [list(row.read_ids) for row in rows] == self.runner.rows[: len(rows)]
        assert not any(self.runner.rows[len(rows) :])
        decoding = {row.sequence.number for row in rows[: self.scheduler._num_decode_rows]}
        assert decoding == {each.number for each in self.scheduler._decoding}

    @invariant()
    def limits_hold(self):
        scheduler = self.scheduler
        assert scheduler.num_rows <= self.limits["max_rows"]
        assert scheduler.reuse.num_kept <= self.limits["prefix_cache_bytes"]
        if scheduler.num_running > 1:
            longest = max(row.num_tokens for row in scheduler._rows)
            assert scheduler.num_rows * longest <= self.limits["cache_bytes"]

    @invariant()
    def nobody_ends_twice(self):
        assert all(self.ends.get(each.number, 0) == int(each.is_finished) for each in self.sequences)

    def teardown(self):
        self.patch.undo()
        drain(self.scheduler)
        assert self.scheduler.num_rows == self.scheduler.num_running == self.scheduler.num_waiting == 0
        for sequence in self.sequences:
            expected = alone(sequence.request)[: sequence.max_length - sequence._longest]
            assert sequence.token_ids == expected[: len(sequence.token_ids)]
            assert sequence.finish_reason in ("length", "cancelled", "error")
            assert sequence.finish_reason != "length" or sequence.token_ids == expected
            assert self.ends[sequence.number] == 1


TestScheduler = SchedulerMachine.TestCase
TestScheduler.settings = settings(
    deadline=None, stateful_step_count=30, phases=[Phase.explicit, Phase.reuse, Phase.generate]
)
