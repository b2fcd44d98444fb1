"""Reuse of keys and values between requests, and who may reuse whose."""

import pytest
import torch

from langchain_amulet.engine.params import Request
from langchain_amulet.engine.scheduler import Scheduler
from tests.fakes.engines import FakeRunner, add, alone, drain, request, scheduler_of


def num_read(runner: FakeRunner) -> int:
    read = sum(tokens for kind, _, tokens in runner.sizes if kind == "prefill")
    runner.sizes.clear()
    return read


def ask(scheduler: Scheduler, runner: FakeRunner, each: Request) -> int:
    """Run one request to its end, and return the number of prompt tokens that were prefilled for it."""
    sequence = add(scheduler, each)
    drain(scheduler)
    assert sequence.token_ids == alone(each)
    return num_read(runner)


BASE, PREF = [1, 2, 3] * 10, [1, 2, 4] * 12


@pytest.fixture
def runner() -> FakeRunner:
    return FakeRunner()


@pytest.fixture
def saving(runner) -> Scheduler:
    return scheduler_of(runner, prefix_cache_bytes=10**6)


def test_second_turn_reads_only_what_is_new(runner, saving):
    first = request(BASE, PREF, keys=["", "alice"])
    assert ask(saving, runner, first) == len(BASE) + len(PREF)
    answer = alone(first)
    # The last token of the answer was drawn but not read.
    second = request(BASE + answer + [9, 9], PREF + answer + [9, 9], keys=["", "alice"])
    assert ask(saving, runner, second) == 2 * (1 + 2)


def test_rows_of_a_profile_serve_that_profile_alone(runner, saving):
    ask(saving, runner, request(BASE, PREF, keys=["", "alice"]))
    assert ask(saving, runner, request(BASE, PREF, keys=["", "bob"])) == 1 + len(PREF)
    assert ask(saving, runner, request(PREF, keys=[""])) == len(PREF)
    assert ask(saving, runner, request(BASE, PREF, keys=["", "bob"])) == 1 + 1
    assert ask(saving, runner, request(BASE, PREF)) == 1 + len(PREF)


def test_rows_of_running_requests_are_reused(runner, saving):
    first = add(saving, request(BASE, PREF, max_tokens=20, keys=["", "alice"]))
    saving.step()
    num_read(runner)
    second = add(saving, request([*BASE, 5, 6], PREF, keys=["", "bob"]))
    drain(saving)
    assert num_read(runner) == 2 + len(PREF)
    assert [each.token_ids for each in (first, second)] == [alone(each.request) for each in (first, second)]


def test_forgetting_drops_private_rows_only(runner, saving):
    ask(saving, runner, request(BASE, PREF, keys=["", "alice"]))
    assert saving.reuse.clear(private_only=True)
    assert ask(saving, runner, request(BASE, PREF, keys=["", "alice"])) == 1 + len(PREF)


def test_forgetting_covers_running_requests(runner, saving):
    add(saving, request(BASE, PREF, keys=["", "alice"]))
    saving.step()
    saving.forget_private()
    drain(saving)
    num_read(runner)
    assert ask(saving, runner, request(BASE, PREF, keys=["", "alice"])) == 1 + len(PREF)


def test_out_of_memory_in_save_drops_the_saved_rows(runner, saving):
    ask(saving, runner, request([7] * 20))

    def failing_save(_row, _num_tokens):
        raise torch.OutOfMemoryError

    runner.save = failing_save
    ask(saving, runner, request([8] * 20))
    assert saving.reuse.num_kept == 0


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


def test_longer_row_replaces_the_saved_row_that_is_its_prefix(runner, saving):
    ask(saving, runner, request(BASE))
    ask(saving, runner, request(BASE + alone(request(BASE)) + [7]))
    assert saving.reuse.num_kept == len(BASE) + 5 + 1 + 4
    ask(saving, runner, request(BASE))
    assert saving.reuse.num_kept == len(BASE) + 5 + 1 + 4
