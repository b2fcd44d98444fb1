"""Reuse of keys and values between requests, and who may reuse whose."""

import pytest
import torch

from langchain_amulet.engine.params import PrefixKeys, Request
from langchain_amulet.engine.scheduler import Scheduler
from langchain_amulet.exceptions import InvalidParameterError
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


def keys_of(user: str) -> list[PrefixKeys]:
    """All requests may reuse the base prompt; only the user may reuse the rest, and what depends on preferences."""
    return [PrefixKeys(((len(BASE), ""),), user, is_private=True), PrefixKeys((), user, is_private=True)]


@pytest.fixture
def runner() -> FakeRunner:
    return FakeRunner()


@pytest.fixture
def saving(runner) -> Scheduler:
    return scheduler_of(runner, prefix_cache_bytes=10**6)


def test_second_turn_reads_only_what_is_new(runner, saving):
    first = request(BASE, PREF, keys=keys_of("alice"))
    assert ask(saving, runner, first) == len(BASE) + len(PREF)
    answer = alone(first)
    # The last token of the answer was drawn but not read.
    second = request(BASE + answer + [9, 9], PREF + answer + [9, 9], keys=keys_of("alice"))
    assert ask(saving, runner, second) == 2 * (1 + 2)


def test_rows_of_a_profile_serve_that_profile_alone(runner, saving):
    ask(saving, runner, request(BASE, PREF, keys=keys_of("alice")))
    assert ask(saving, runner, request(BASE, PREF, keys=keys_of("bob"))) == 1 + len(PREF)
    assert ask(saving, runner, request(PREF, keys=[""])) == len(PREF)
    assert ask(saving, runner, request(BASE, PREF, keys=keys_of("bob"))) == 1 + 1
    assert ask(saving, runner, request(BASE, PREF)) == 1 + len(PREF)


def test_rows_of_running_requests_are_reused(runner, saving):
    first = add(saving, request(BASE, PREF, max_tokens=20, keys=keys_of("alice")))
    saving.step()
    num_read(runner)
    second = add(saving, request([*BASE, 5, 6], PREF, keys=keys_of("bob")))
    drain(saving)
    assert num_read(runner) == 2 + len(PREF)
    assert [each.token_ids for each in (first, second)] == [alone(each.request) for each in (first, second)]


def test_forgetting_drops_private_rows_only(runner, saving):
    ask(saving, runner, request([7] * 30))
    ask(saving, runner, request(BASE, PREF, keys=keys_of("alice")))
    assert saving.reuse.clear(private_only=True)
    assert ask(saving, runner, request(BASE, PREF, keys=keys_of("alice"))) == len(BASE) + len(PREF)
    assert ask(saving, runner, request([7] * 30)) == 1


def test_forgetting_covers_running_requests(runner, saving):
    add(saving, request(BASE, PREF, keys=keys_of("alice")))
    saving.step()
    saving.forget_private()
    drain(saving)
    num_read(runner)
    assert ask(saving, runner, request(BASE, PREF, keys=keys_of("alice"))) == 1 + len(PREF)


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


def test_nobody_else_reuses_an_answer_that_a_private_stream_had_a_part_in(runner, saving):
    """Who guesses a preference, and sends the question with the answer that follows it, reuses the question only."""
    answered = request(BASE, PREF, max_tokens=20, keys=keys_of("alice"))
    ask(saving, runner, answered)
    guess = [*BASE, *alone(answered), 9]
    assert ask(saving, runner, request(guess, keys=[PrefixKeys(((len(BASE), ""),), "bob")])) == len(guess) - len(BASE)
    assert ask(saving, runner, request(guess, keys=[""])) == len(guess) - len(BASE)
    saving.forget_private()
    assert ask(saving, runner, request(guess, keys=[PrefixKeys((), "carol")])) == len(guess)


def test_answer_is_not_kept_if_its_streams_have_different_keys(runner, saving):
    ask(saving, runner, request(BASE, PREF, keys=["", "alice"]))
    assert saving.reuse.num_kept == len(BASE) + len(PREF)
    ask(saving, runner, request([7] * 20, [8] * 20))  # without keys, the other stream is not reused either
    assert saving.reuse.num_kept == len(BASE) + len(PREF) + 20


def test_running_rows_are_reused_under_their_keys_only(runner, saving):
    add(saving, request([7] * 30, max_tokens=20, keys=["alice"]))
    saving.step()
    num_read(runner)
    for key, read in [("bob", 30), ("", 30), ("alice", 1), (None, 30)]:
        add(saving, request([7] * 30, max_tokens=1, keys=[key]))
        saving.step()
        assert num_read(runner) == read


def test_forgotten_request_is_reused_up_to_what_is_not_private(runner, saving):
    """A preference may be forgotten between its look-up and the submission of the call that follows it."""
    forgotten = request(BASE, PREF, max_tokens=20, keys=keys_of("alice"), is_forgotten=lambda: True)
    sequence = add(saving, forgotten)
    saving.step()
    num_read(runner)
    assert ask(saving, runner, request(BASE, PREF, max_tokens=1, keys=keys_of("alice"))) == 1 + len(PREF)
    sequence.finish("cancelled")
    drain(saving)
    assert saving.reuse.num_kept == len(BASE) + len(PREF)


def test_parts_of_keys_must_be_in_order():
    with pytest.raises(InvalidParameterError, match=r"order of their ends; got the ends \[3, 2\]"):
        request(BASE, keys=[PrefixKeys(((3, "a"), (2, "b")), "c")])


def test_keys_and_tokens_are_not_in_the_repr():
    shown = repr(request([31, 32], keys=["alice"]))
    assert "alice" not in shown
    assert "31" not in shown
