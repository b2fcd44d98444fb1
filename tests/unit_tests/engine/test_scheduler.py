"""The scheduler on a fake runner: which requests hold rows, what is prefilled when, and what a failure ends."""

import pytest
import torch

from langchain_amulet.engine.params import Request, SamplingParams
from langchain_amulet.engine.sampling import sample
from langchain_amulet.engine.sequence import Sequence
from langchain_amulet.exceptions import ContextLengthError, EngineMemoryError, GenerationError, NumericalError
from tests.fakes.engines import FakeRunner, add, alone, drain, request, scheduler_of


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


def test_long_common_prefix_is_prefilled_once():
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
    with pytest.raises(ContextLengthError, match="30 tokens; .* 20, .*including the answer"):
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
    assert second.token_ids == []  # not tried again before a request has left
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


def test_out_of_memory_while_decoding_loses_no_token():
    runner = FakeRunner()
    scheduler = scheduler_of(runner)
    sequences = [add(scheduler, request([i, 1], [i, 2, 3], max_tokens=10)) for i in range(3)]
    scheduler.step()
    runner.fail(torch.OutOfMemoryError(), 1)
    scheduler.step()
    assert scheduler.num_preemptions == 1
    drain(scheduler)
    assert [each.token_ids for each in sequences] == [alone(each.request) for each in sequences]


def test_prompt_that_breaks_the_model_ends_only_its_request():
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
    for single in each:
        undisturbed.append(add(scheduler, single))
        drain(scheduler)
    assert [each.token_ids for each in sequences] == [each.token_ids for each in undisturbed]
    assert {each.finish_reason for each in sequences} == {"length"}


def test_chunk_that_does_not_fit_into_memory_is_divided():
    runner = FakeRunner(max_context=500)
    prefill = runner.prefill

    def limited(first_row, input_ids):
        if sum(map(len, input_ids)) > 50:
            msg = "DefaultCPUAllocator: can't allocate memory"  # CPUs do not raise OutOfMemoryError
            raise RuntimeError(msg)
        return prefill(first_row, input_ids)

    runner.prefill = limited
    scheduler = scheduler_of(runner)
    sequence = add(scheduler, request([1] * 200, [2] * 210))
    drain(scheduler)
    assert sequence.token_ids == alone(sequence.request)


def test_failure_in_the_first_draw_ends_only_its_request(monkeypatch):
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


def test_failure_of_one_admission_ends_only_its_request():
    runner = FakeRunner()
    scheduler = scheduler_of(runner)
    first = add(scheduler, request([1, 2]))
    scheduler.step()
    second, third = add(scheduler, request([3])), add(scheduler, request([4]))
    runner.fail(RuntimeError("unlucky"), 0)
    drain(scheduler)
    assert [each.finish_reason for each in (first, second, third)] == ["length", "error", "length"]


def test_nan_logits_end_one_request_only(monkeypatch):
    monkeypatch.setattr("tests.fakes.engines.NOT_A_NUMBER_AFTER", 13)
    runner = FakeRunner()
    scheduler = scheduler_of(runner)
    sequences = [add(scheduler, request([i], [i, 1])) for i in (5, 13, 6)]
    drain(scheduler)
    assert [each.finish_reason for each in sequences] == ["length", "error", "length"]
    with pytest.raises(NumericalError):
        sequences[1].channel.next().result()
    assert sequences[2].token_ids == alone(sequences[2].request)
