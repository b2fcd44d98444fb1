"""The scheduler on a fake model: who holds rows, what is read when, and that nobody gets another's tokens."""

import pytest
import torch
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from langchain_amulet.engine.config import EngineConfig
from langchain_amulet.engine.params import Request, SamplingParams
from langchain_amulet.engine.sampling import sample
from langchain_amulet.engine.scheduler import Scheduler
from langchain_amulet.engine.sequence import Sequence
from langchain_amulet.exceptions import ContextLengthError, EngineMemoryError, GenerationError, NumericalError
from langchain_amulet.realignment import RealignmentConfig
from tests.fakes.engines import FakeRunner, alone

LIMITS = {"cache_bytes": 10**6, "prefix_cache_bytes": 0, "prefill_tokens": 1000}


def request(*prompts: list[int], max_tokens: int = 5, keys=(), realignment=None) -> Request:
    realignment = realignment or RealignmentConfig.paper()
    weights = [1.0] * (len(prompts) - 1)
    return Request(prompts, weights, realignment, SamplingParams(max_tokens=max_tokens), prefix_keys=keys)


def scheduler_of(runner: FakeRunner, **limits) -> Scheduler:
    return Scheduler(runner, EngineConfig(**{**LIMITS, **limits}))


def add(scheduler: Scheduler, each: Request) -> Sequence:
    sequence = Sequence(each, max_length=scheduler.max_length(len(each.prompts)))
    scheduler.add(sequence)
    return sequence


def drain(scheduler: Scheduler) -> None:
    for _ in range(1000):
        if not scheduler.has_work:
            return
        try:
            scheduler.step()
        except Exception as error:  # noqa: BLE001 - as the engine does
            scheduler.recover(error)
    pytest.fail("requests are left over")


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
    )
    def build(self, **limits):
        self.headroom = pytest.MonkeyPatch()
        self.headroom.setattr("langchain_amulet.engine.admission._HEADROOM", 1)  # so that rows outgrow the limit
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
        self.headroom.undo()
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


def test_request_joins_and_leaves_while_others_decode():
    runner = FakeRunner()
    scheduler = scheduler_of(runner)
    first = add(scheduler, request([1, 2], [1, 2, 3], max_tokens=6))
    scheduler.step()
    second = add(scheduler, request([3, 4], max_tokens=2))
    scheduler.step()
    assert (len(first.token_ids), len(second.token_ids)) == (3, 2)
    assert second.finish_reason == "length"
    assert scheduler.num_rows == 2
    drain(scheduler)
    assert [first.token_ids, second.token_ids] == [alone(first.request), alone(second.request)]


def test_long_prompt_is_read_in_chunks_between_the_tokens_of_others():
    runner = FakeRunner()
    scheduler = scheduler_of(runner, prefill_tokens=10)
    short = add(scheduler, request([1, 2], [1, 2, 3], max_tokens=30))
    scheduler.step()
    long = add(scheduler, request([1] * 100, [2] * 100))
    before = len(short.token_ids)
    while not long.token_ids:
        scheduler.step()
    assert len(short.token_ids) - before == 200 / 10
    assert max(tokens for kind, _, tokens in runner.sizes[2:] if kind == "prefill") <= 10
    drain(scheduler)
    assert long.token_ids == alone(long.request)


def test_prompts_that_wait_together_are_read_together():
    runner = FakeRunner()
    scheduler = scheduler_of(runner)
    sequences = [add(scheduler, request([i] * 7, [i] * (8 + i))) for i in range(5)]
    scheduler.step()
    assert runner.sizes[0] == ("prefill", 10, sum(15 + i for i in range(5)))
    drain(scheduler)
    assert all(each.token_ids == alone(each.request) for each in sequences)


def test_rows_are_limited():
    scheduler = scheduler_of(FakeRunner(), max_rows=3)
    sequences = [add(scheduler, request([i], [i, 1])) for i in range(2)]
    scheduler.step()
    assert (scheduler.num_rows, scheduler.num_waiting) == (2, 1)
    drain(scheduler)
    assert all(each.token_ids == alone(each.request) for each in sequences)


def test_long_common_beginning_is_read_once():
    runner = FakeRunner(max_context=500)
    scheduler = scheduler_of(runner)
    sequence = add(scheduler, request([*range(40)] * 3 + [1], [*range(40)] * 3 + [2, 3]))
    drain(scheduler)
    assert sum(tokens for kind, _, tokens in runner.sizes if kind == "prefill") == 120 + 1 + 2
    assert sequence.token_ids == alone(sequence.request)


def test_preempted_request_goes_on_where_it_was():
    runner = FakeRunner()
    scheduler = scheduler_of(runner, cache_bytes=4 * 80)
    sequences = [add(scheduler, request([i] * 10, [i] * 12, max_tokens=100)) for i in range(2)]
    while scheduler.has_work and not scheduler.num_preemptions:
        scheduler.step()
    assert 0 < len(sequences[1].token_ids) < 100
    assert scheduler.num_rows == 2
    drain(scheduler)
    assert [each.token_ids for each in sequences] == [alone(each.request) for each in sequences]
    assert runner.most_bytes <= 4 * 80


def test_prompt_beyond_the_memory_limit_is_refused():
    scheduler = scheduler_of(FakeRunner(), cache_bytes=40)
    with pytest.raises(ContextLengthError, match="30 tokens; .* 20, .*answer included"):
        add(scheduler, request([1] * 30, [2] * 5))


def test_out_of_memory_on_admission_waits_while_others_go_on():
    runner = FakeRunner()
    scheduler = scheduler_of(runner)
    first = add(scheduler, request([1, 2], [1, 2, 3]))
    scheduler.step()
    second = add(scheduler, request([4, 5]))
    runner.fail(torch.OutOfMemoryError(), 0)
    scheduler.step()
    assert second.token_ids == []
    assert len(first.token_ids) == 3
    scheduler.step()
    assert second.token_ids == []  # not tried again before somebody has left
    drain(scheduler)
    assert [first.token_ids, second.token_ids] == [alone(first.request), alone(second.request)]


def test_out_of_memory_alone_refuses_the_request():
    runner = FakeRunner()
    scheduler = scheduler_of(runner)
    sequence = add(scheduler, request([1, 2], [1, 2, 3]))
    runner.fail(torch.OutOfMemoryError(), 0, times=2)
    scheduler.step()
    scheduler.step()
    with pytest.raises(EngineMemoryError, match="2 streams and 3 tokens.*Shorten"):
        sequence.channel.next().result()
    assert not scheduler.has_work


def test_out_of_memory_while_decoding_costs_nobody_a_token():
    runner = FakeRunner()
    scheduler = scheduler_of(runner)
    sequences = [add(scheduler, request([i, 1], [i, 2, 3], max_tokens=10)) for i in range(3)]
    scheduler.step()
    runner.fail(torch.OutOfMemoryError(), 1)
    scheduler.step()
    assert scheduler.num_preemptions == 1
    drain(scheduler)
    assert [each.token_ids for each in sequences] == [alone(each.request) for each in sequences]


def test_prompt_that_breaks_the_model_takes_no_other_down():
    runner = FakeRunner()
    prefill = runner.prefill

    def breaking(first_row, input_ids):
        if any(13 in ids for ids in input_ids):
            msg = "unlucky"
            raise RuntimeError(msg)
        return prefill(first_row, input_ids)

    runner.prefill = breaking
    scheduler = scheduler_of(runner)
    sequences = [add(scheduler, request([i], [i, 1])) for i in (5, 13, 6)]
    drain(scheduler)
    assert [each.finish_reason for each in sequences] == ["length", "error", "length"]
    with pytest.raises(GenerationError, match="unlucky") as caught:
        sequences[1].channel.next().result()
    assert isinstance(caught.value.__cause__, RuntimeError)
    assert all(each.token_ids == alone(each.request) for each in sequences if each.finish_reason == "length")


@pytest.mark.parametrize("delay", range(3))
@pytest.mark.parametrize("num_requests", [1, 3])
def test_out_of_memory_in_the_draw_changes_no_token(monkeypatch, delay, num_requests):
    calls = iter(range(100))

    def failing_sample(*arguments):
        if next(calls) == delay:
            raise torch.OutOfMemoryError
        return sample(*arguments)

    monkeypatch.setattr("langchain_amulet.engine.batch.sample", failing_sample)
    scheduler = scheduler_of(FakeRunner())
    sampling = SamplingParams(max_tokens=6, temperature=1.0, seed=3)
    each = [Request([[i], [i, 1]], [1.0], sampling=sampling) for i in range(num_requests)]
    sequences = [add(scheduler, request) for request in each]
    drain(scheduler)
    monkeypatch.undo()
    undisturbed = []
    for request in each:
        undisturbed.append(add(scheduler, request))
        drain(scheduler)
    assert [each.token_ids for each in sequences] == [each.token_ids for each in undisturbed]
    assert {each.finish_reason for each in sequences} == {"length"}


def test_chunk_for_which_there_is_no_memory_is_read_in_smaller_ones():
    runner = FakeRunner(max_context=500)
    prefill = runner.prefill

    def limited(first_row, input_ids):
        if sum(map(len, input_ids)) > 50:
            msg = "DefaultCPUAllocator: can't allocate memory"  # no OutOfMemoryError on CPUs
            raise RuntimeError(msg)
        return prefill(first_row, input_ids)

    runner.prefill = limited
    scheduler = scheduler_of(runner)
    sequence = add(scheduler, request([1] * 200, [2] * 210))
    drain(scheduler)
    assert sequence.token_ids == alone(sequence.request)


def test_failure_in_the_first_draw_takes_no_other_down(monkeypatch):
    original = Sequence.next_key

    def breaking(sequence):
        if sequence.request.prompts[0] == (13,):
            msg = "unlucky"
            raise RuntimeError(msg)
        return original(sequence)

    monkeypatch.setattr(Sequence, "next_key", breaking)
    scheduler = scheduler_of(FakeRunner())
    sequences = [add(scheduler, request([i], [i, 1])) for i in (5, 13, 6)]
    drain(scheduler)
    assert [each.finish_reason for each in sequences] == ["length", "error", "length"]


def test_failure_of_one_admission_takes_no_other_down():
    runner = FakeRunner()
    scheduler = scheduler_of(runner)
    first = add(scheduler, request([1, 2]))
    scheduler.step()
    second, third = add(scheduler, request([3])), add(scheduler, request([4]))
    runner.fail(RuntimeError("unlucky"), 0)
    drain(scheduler)
    assert [each.finish_reason for each in (first, second, third)] == ["length", "error", "length"]


def test_numbers_that_are_none_end_one_request_only(monkeypatch):
    monkeypatch.setattr("tests.fakes.engines.NOT_A_NUMBER_AFTER", 13)
    runner = FakeRunner()
    scheduler = scheduler_of(runner)
    sequences = [add(scheduler, request([i], [i, 1])) for i in (5, 13, 6)]
    drain(scheduler)
    assert [each.finish_reason for each in sequences] == ["length", "error", "length"]
    with pytest.raises(NumericalError):
        sequences[1].channel.next().result()
    assert sequences[2].token_ids == alone(sequences[2].request)


# Reuse


def num_read(runner: FakeRunner) -> int:
    read = sum(tokens for kind, _, tokens in runner.sizes if kind == "prefill")
    runner.sizes.clear()
    return read


def ask(scheduler: Scheduler, runner: FakeRunner, each: Request) -> int:
    """Tokens that had to be read for it."""
    sequence = add(scheduler, each)
    drain(scheduler)
    assert sequence.token_ids == alone(each)
    return num_read(runner)


BASE, PREF = [1, 2, 3] * 10, [1, 2, 4] * 12


@pytest.fixture
def runner() -> FakeRunner:
    return FakeRunner()


@pytest.fixture
def keeping(runner) -> Scheduler:
    return scheduler_of(runner, prefix_cache_bytes=10**6)


def test_second_turn_reads_only_what_is_new(runner, keeping):
    first = request(BASE, PREF, keys=["", "alice"])
    assert ask(keeping, runner, first) == len(BASE) + len(PREF)
    answer = alone(first)
    # Of the answer, the last token was drawn but never read.
    second = request(BASE + answer + [9, 9], PREF + answer + [9, 9], keys=["", "alice"])
    assert ask(keeping, runner, second) == 2 * (1 + 2)


def test_rows_of_a_profile_serve_that_profile_alone(runner, keeping):
    ask(keeping, runner, request(BASE, PREF, keys=["", "alice"]))
    assert ask(keeping, runner, request(BASE, PREF, keys=["", "bob"])) == 1 + len(PREF)
    assert ask(keeping, runner, request(PREF, keys=[""])) == len(PREF)
    assert ask(keeping, runner, request(BASE, PREF, keys=["", "bob"])) == 1 + 1
    assert ask(keeping, runner, request(BASE, PREF)) == 1 + len(PREF)


def test_rows_under_way_serve_others_too(runner, keeping):
    first = add(keeping, request(BASE, PREF, max_tokens=20, keys=["", "alice"]))
    keeping.step()
    num_read(runner)
    second = add(keeping, request([*BASE, 5, 6], PREF, keys=["", "bob"]))
    drain(keeping)
    assert num_read(runner) == 2 + len(PREF)
    assert [each.token_ids for each in (first, second)] == [alone(each.request) for each in (first, second)]


def test_forgetting_drops_private_rows_only(runner, keeping):
    ask(keeping, runner, request(BASE, PREF, keys=["", "alice"]))
    assert keeping.reuse.clear(private_only=True)
    assert ask(keeping, runner, request(BASE, PREF, keys=["", "alice"])) == 1 + len(PREF)


def test_forgetting_reaches_rows_under_way(runner, keeping):
    add(keeping, request(BASE, PREF, keys=["", "alice"]))
    keeping.step()
    keeping.forget_private()
    drain(keeping)
    num_read(runner)
    assert ask(keeping, runner, request(BASE, PREF, keys=["", "alice"])) == 1 + len(PREF)


def test_no_memory_to_keep_a_row_drops_those_kept(runner, keeping):
    ask(keeping, runner, request([7] * 20))

    def failing_save(_row, _num_tokens):
        raise torch.OutOfMemoryError

    runner.save = failing_save
    ask(keeping, runner, request([8] * 20))
    assert keeping.reuse.num_kept == 0


def test_nothing_is_reused_without_a_budget(runner):
    scheduler = scheduler_of(runner, prefix_cache_bytes=0)
    for _ in range(2):
        assert ask(scheduler, runner, request(BASE, keys=[""])) == len(BASE)


def test_least_recently_used_row_goes_first(runner):
    scheduler = scheduler_of(runner, prefix_cache_bytes=2 * 40)
    a, b, c = ([i] * 30 for i in (1, 2, 3))
    for prompt in (a, b):
        ask(scheduler, runner, request(prompt))
    assert ask(scheduler, runner, request(a)) == 1
    ask(scheduler, runner, request(c))
    assert ask(scheduler, runner, request(a)) == 1
    assert ask(scheduler, runner, request(b)) == 30


def test_row_that_a_longer_one_begins_with_is_replaced(runner, keeping):
    ask(keeping, runner, request(BASE))
    ask(keeping, runner, request(BASE + alone(request(BASE)) + [7]))
    assert keeping.reuse.num_kept == len(BASE) + 5 + 1 + 4
    ask(keeping, runner, request(BASE))
    assert keeping.reuse.num_kept == len(BASE) + 5 + 1 + 4
