"""Speculation: several tokens per step, and the same answers as one token per step."""

from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from langchain_amulet.engine.config import EngineConfig
from langchain_amulet.engine.engine import Engine
from langchain_amulet.engine.params import Request, SamplingParams
from langchain_amulet.engine.runners.batched import TransformersRunner
from langchain_amulet.engine.runners.sequential import SequentialRunner
from langchain_amulet.engine.speculation.drafter import Drafter
from langchain_amulet.engine.speculation.prompt_lookup import MAX_MATCH, MIN_MATCH, PromptLookup
from langchain_amulet.engine.speculation.step_costs import StepCosts, choose_num_drafted
from langchain_amulet.exceptions import InvalidParameterError
from langchain_amulet.realignment import RealignmentConfig, StreamCoefficients
from langchain_amulet.realignment.comparison import ComparedPolicies
from langchain_amulet.structured.grammar import GrammarCompiler
from tests.fakes.chat_templates import byte_tokenizer
from tests.fakes.drafters import know_answers, measure_no_times
from tests.fakes.engines import VOCAB_SIZE as ENGINE_VOCAB
from tests.fakes.engines import FakeRunner, add, alone, drain, request, scheduler_of
from tests.fakes.models import CONFIGS, VOCAB_SIZE, tiny_model

EOS = 2
TOKENIZER = byte_tokenizer()
COMPILER = GrammarCompiler(TOKENIZER, VOCAB_SIZE, [EOS])
OBJECT = COMPILER.compile('start: "{\\"name\\": \\"" /[a-c]{1,4}/ "\\", \\"is_member\\": " ("true" | "false") "}"')
RUNNER = TransformersRunner(tiny_model())
POLICIES = ComparedPolicies((0.0, 1.0), (1.0, 0.0), (0.0, 1.0), (1.0, 0.0))


@pytest.fixture(scope="module")
def plain() -> Engine:
    return Engine(RUNNER, EngineConfig(num_draft_tokens=0, prefix_cache_bytes=0))


@pytest.fixture(scope="module")
def drafting() -> Engine:
    return Engine(TransformersRunner(tiny_model()), EngineConfig(num_draft_tokens=6, prefix_cache_bytes=0))


def outcome(engine: Engine, requests: list[Request]) -> list[tuple]:
    generations = [engine.submit(each) for each in requests]
    for generation in generations:
        list(generation)
    return [(each.token_ids, each.finish_reason, each.logprobs, each.traces) for each in generations]


def assert_same(outcomes: list[tuple], expected: list[tuple]) -> None:
    for (tokens, reason, logprobs, traces), (tokens_2, reason_2, logprobs_2, traces_2) in zip(
        outcomes, expected, strict=True
    ):
        assert (tokens, reason) == (tokens_2, reason_2)
        assert [each.logprob for each in logprobs] == pytest.approx([each.logprob for each in logprobs_2])
        assert [[id_ for id_, _ in each.top] for each in logprobs] == [[id_ for id_, _ in e.top] for e in logprobs_2]
        assert [each.kl for each in traces] == pytest.approx([each.kl for each in traces_2])
        assert [each.base_choice for each in traces] == [each.base_choice for each in traces_2]


def samplings() -> st.SearchStrategy[SamplingParams]:
    return st.builds(
        SamplingParams,
        temperature=st.sampled_from([0.0, 0.7, 1.5]),
        top_p=st.sampled_from([1.0, 0.8]),
        top_k=st.sampled_from([0, 5]),
        repetition_penalty=st.sampled_from([1.0, 1.3]),
        max_tokens=st.integers(1, 14),
        seed=st.integers(0, 2**40),
        stop_token_ids=st.sampled_from([frozenset(), frozenset(range(0, VOCAB_SIZE, 9))]),
    )


@st.composite
def requests(draw) -> Request:
    prompt = draw(st.lists(st.integers(3, VOCAB_SIZE - 1), min_size=1, max_size=12))
    is_steered = draw(st.booleans())
    return Request(
        [prompt, [5, 6, *prompt]] if is_steered else [prompt],
        coefficients=StreamCoefficients((-1.0, 2.0), (0.0, 1.0), (0.0, 1.0)) if is_steered else None,
        realignment=draw(st.sampled_from([RealignmentConfig(), RealignmentConfig.paper()])),
        sampling=draw(samplings()),
        logprobs=draw(st.sampled_from([None, 0, 3])),
        guide=draw(st.sampled_from([None, lambda number: OBJECT.start(max(number, 40))])),
        trace=POLICIES if is_steered and draw(st.booleans()) else None,
    )


# The same answers


@settings(max_examples=settings().max_examples // 2)
@given(
    each=st.lists(requests(), min_size=1, max_size=3), seed=st.integers(0, 100), share_wrong=st.sampled_from([0, 0.3])
)
def test_speculation_changes_no_answer(plain, drafting, each, seed, share_wrong):
    expected = outcome(plain, each)
    answers = {id(one): tokens for one, (tokens, *_) in zip(each, expected, strict=True)}
    with pytest.MonkeyPatch.context() as patch:
        know_answers(patch, lambda one: answers[id(one)], share_wrong=share_wrong, seed=seed)
        assert_same(outcome(drafting, each), expected)


@pytest.mark.parametrize("architecture", CONFIGS)
def test_verified_logits_are_those_after_whole_texts(architecture):
    runner = TransformersRunner(tiny_model(architecture))
    runner.reserve(3, 64, 2**40)
    rows, drafts = [[*range(20, 31)], [*range(40, 47)]], [[50, 51, 52, 53], [60]]

    def whole(*parts: list[int]) -> torch.Tensor:
        runner.truncate(2, 0)
        return runner.prefill(2, [[token_id for part in parts for token_id in part]])[0]

    runner.prefill(0, rows)
    verified = runner.verify(drafts)
    for row, number in ((0, 1), (0, 3), (0, 4), (1, 1)):
        torch.testing.assert_close(verified[row, number - 1], whole(rows[row], drafts[row][:number]))
    runner.truncate(0, len(rows[0]) + 2)
    after = runner.decode([54, 61])
    torch.testing.assert_close(after[0], whole(rows[0], [50, 51, 54]))
    torch.testing.assert_close(after[1], whole(rows[1], [60, 61]))


def test_a_request_that_is_cancelled_within_a_step_gets_no_further_token(monkeypatch):
    know_answers(monkeypatch, alone, share_wrong=0)
    scheduler = scheduler_of(FakeRunner())
    sequence = add(scheduler, request([1, 2], [1, 2, 3], max_tokens=50))
    other = add(scheduler, request([4], max_tokens=50))
    put = sequence.channel.put

    def put_and_cancel(token_id: int) -> None:
        put(token_id)
        if len(sequence.token_ids) == 7:
            sequence.finish("cancelled")

    monkeypatch.setattr(sequence.channel, "put", put_and_cancel)
    drain(scheduler)
    assert sequence.token_ids == alone(sequence.request)[:7]
    assert other.token_ids == alone(other.request)


def test_the_tokens_of_one_step_arrive_one_by_one_in_order(monkeypatch):
    know_answers(monkeypatch, alone, share_wrong=0)
    scheduler = scheduler_of(FakeRunner())
    arrived: list[int] = []
    sequence = add(scheduler, request([1, 2], [1, 2, 3], max_tokens=50))
    monkeypatch.setattr(sequence.channel, "put", arrived.append)
    drain(scheduler)
    assert arrived == sequence.token_ids == alone(sequence.request)
    assert scheduler.speculator.num_accepted > 25


def test_no_draft_is_kept_for_later_requests(monkeypatch):
    know_answers(monkeypatch, alone, share_wrong=0.5)
    scheduler = scheduler_of(FakeRunner(), prefix_cache_bytes=10**4)
    first = add(scheduler, request([*range(9)], max_tokens=20))
    drain(scheduler)
    second = add(scheduler, request([*range(9), *first.token_ids, 3], max_tokens=20))
    drain(scheduler)
    assert scheduler.reuse.num_reused >= 9 + 19
    assert second.token_ids == alone(second.request)


def test_drafts_stay_within_the_memory_limit(monkeypatch):
    know_answers(monkeypatch, alone, share_wrong=0)
    runner = FakeRunner()
    scheduler = scheduler_of(runner, cache_bytes=4 * 80)
    sequences = [add(scheduler, request([i] * 10, [i] * 12, max_tokens=100)) for i in range(2)]
    drain(scheduler)
    assert [each.token_ids for each in sequences] == [alone(each.request) for each in sequences]
    assert runner.most_bytes <= 4 * 80
    assert scheduler.num_preemptions


def test_too_little_memory_for_drafts_ends_drafting_and_no_request(monkeypatch):
    know_answers(monkeypatch, alone)
    runner = FakeRunner()
    scheduler = scheduler_of(runner)
    sequence = add(scheduler, request([1, 2], [1, 2, 3], max_tokens=30))
    while not scheduler.speculator.num_drafted:
        scheduler.step()
    runner.fail(torch.OutOfMemoryError(), 0)
    drain(scheduler)
    assert sequence.token_ids == alone(sequence.request)
    assert scheduler.num_preemptions == 0
    assert [kind for kind, _, _ in runner.sizes[-10:]] == ["decode"] * 10


# Where it pays


def cycle_on(input_ids: list[int]) -> torch.Tensor:
    """Logits `(V,)` that are highest for the number after the last one."""
    return torch.nn.functional.one_hot(torch.tensor((input_ids[-1] + 1) % ENGINE_VOCAB), ENGINE_VOCAB).double()


def test_copied_text_takes_few_steps(monkeypatch):
    monkeypatch.setattr("tests.fakes.engines.fake_logits", cycle_on)
    measure_no_times(monkeypatch)
    runner = FakeRunner()
    scheduler = scheduler_of(runner)
    sequence = add(scheduler, request([*range(40), 0, 1], max_tokens=100))
    drain(scheduler)
    assert sequence.token_ids == [number % 40 for number in range(2, 102)]
    assert len(runner.sizes) < 25
    assert scheduler.speculator.num_accepted > 75


def test_other_text_is_hardly_drafted():
    runner = FakeRunner(max_context=600)
    scheduler = scheduler_of(runner)
    sequences = [add(scheduler, request([*range(40)], [seed, *range(40)], max_tokens=200)) for seed in range(3)]
    drain(scheduler)
    assert scheduler.speculator.num_drafted < 0.02 * sum(len(each.token_ids) for each in sequences)


@pytest.mark.parametrize("runner_type", [TransformersRunner, SequentialRunner])
def test_nothing_is_drafted_where_it_is_off(monkeypatch, runner_type):
    know_answers(monkeypatch, lambda _: pytest.fail("drafted"))
    is_incremental = runner_type.is_incremental
    engine = Engine(runner_type(tiny_model()), EngineConfig(num_draft_tokens=0 if is_incremental else 4))
    assert len(list(engine.submit(Request([[1, 2, 3] * 5], sampling=SamplingParams(max_tokens=30))))) == 30
    assert (engine.stats.num_drafted_tokens, engine.stats.num_accepted_tokens) == (0, 0)


def test_a_negative_number_of_drafted_tokens_is_refused():
    with pytest.raises(InvalidParameterError, match="num_draft_tokens must be a whole number, at least 0"):
        EngineConfig(num_draft_tokens=-1)


@given(prompt=st.lists(st.integers(0, 3), max_size=40), answer=st.lists(st.integers(0, 3), min_size=1, max_size=40))
def test_the_longest_most_recent_match_predicts(prompt, answer):
    lookup = PromptLookup(prompt)
    for token_id in answer:
        lookup.append(token_id)
    fresh = PromptLookup([*prompt, *answer])
    assert (fresh.next_id, fresh.num_matched) == longest_match([*prompt, *answer])
    ahead = PromptLookup(prompt)
    before = ahead.next_id, ahead.num_matched
    assert ahead.predict_after(answer, 5) == (lookup.predict(5), lookup.num_matched)
    assert (ahead.next_id, ahead.num_matched) == before
    assert ahead.predict_after(answer[:1], 5) == PromptLookup(prompt).predict_after(answer[:1], 5)
    assert lookup.num_matched <= fresh.num_matched


def longest_match(ids: list[int]) -> tuple[int | None, int]:
    """Return the token after the most recent of the longest earlier matches, and the length of the match."""
    for length in range(min(len(ids) - 1, MAX_MATCH), MIN_MATCH - 1, -1):
        for end in range(len(ids) - 1, length - 1, -1):
            if ids[end - length : end] == ids[-length:]:
                return ids[end], length
    return None, 0


def test_a_prediction_repeats_a_match_that_overlaps_the_end():
    assert PromptLookup([7, 1, 2, 3, 1, 2, 3, 1, 2]).predict(7) == [3, 1, 2, 3, 1, 2, 3]


def test_an_answer_that_copies_is_noticed_without_drafts():
    prompt = [*range(20)]
    before = Drafter(prompt).draft([13, 14], None, 1).chances
    copied = Drafter(prompt).draft([1, 2, 3, 50, 5, 6, 7, 51, 9, 10, 11, 52, 13, 14], None, 1).chances
    others = Drafter(prompt).draft([1, 2, 50, 5, 6, 51, 9, 10, 52, 13, 14], None, 1).chances
    assert others < before < copied


def test_preferences_are_never_searched(monkeypatch):
    searched = []
    monkeypatch.setattr(
        "langchain_amulet.engine.speculation.speculator.Drafter",
        lambda prompt: searched.append([*prompt]) or Drafter(prompt),
    )
    scheduler = scheduler_of(FakeRunner())
    add(scheduler, Request([[9, 9, 1], [8, 8, 1]], [1.0], sampling=SamplingParams(max_tokens=3), penalised_ids=[1]))
    drain(scheduler)
    assert searched == [[1]]


def num_drafted(*chances: list[float], num_rows: int, costs: StepCosts | None = None) -> int:
    return choose_num_drafted(chances, partial((costs or StepCosts("cpu")).ratio, num_rows))


def falling(chance: float) -> list[float]:
    return [chance**number for number in range(1, 9)]


def test_wider_steps_need_better_chances_the_more_rows_there_are():
    assert num_drafted(falling(1.0), num_rows=2) == 8
    assert num_drafted(falling(0.1), num_rows=2) == 0
    assert num_drafted(num_rows=2) == 0
    widths = [num_drafted(falling(0.6), num_rows=num_rows) for num_rows in (1, 2, 4, 8, 16, 32)]
    assert widths == sorted(widths, reverse=True)
    assert widths[0] > widths[-1]


def test_one_request_that_copies_does_not_widen_the_steps_of_many_that_do_not():
    assert num_drafted(falling(0.95), num_rows=2) > 4
    assert num_drafted(falling(0.95), *[[]] * 15, num_rows=32) == 0


def test_steps_that_take_longer_than_assumed_are_narrower():
    costs = StepCosts("cpu")
    before = num_drafted(falling(0.6), num_rows=2, costs=costs)
    for _ in range(20):
        costs.observe(2, 1, 1.0)
        for width in (2, 4, 8):
            costs.observe(2, width, 3.0)
    assert costs.ratio(2, 2) > 2.5
    assert num_drafted(falling(0.6), num_rows=2, costs=costs) < before


def test_one_slow_step_is_soon_forgotten():
    costs = StepCosts("cpu")
    assumed = costs.ratio(2, 4)
    costs.observe(2, 1, 1.0)
    costs.observe(2, 4, 1000.0)
    assert assumed < costs.ratio(2, 4) < 1.5 * assumed
    for _ in range(300):
        costs.observe(2, 1, 1.0)
    assert costs.ratio(2, 4) == pytest.approx(assumed, rel=0.05)


# Grammars


def test_text_that_a_grammar_forces_takes_no_steps_of_its_own(plain, monkeypatch):
    measure_no_times(monkeypatch)
    each = Request([[1, 17, 33]], sampling=SamplingParams(max_tokens=60), guide=OBJECT.start)
    engine = Engine(TransformersRunner(tiny_model()))
    (tokens, *_), (expected, *_) = (outcome(which, [each])[0] for which in (engine, plain))
    assert tokens == expected
    forced = len(TOKENIZER.encode('{"name": "')) - 1 + len(TOKENIZER.encode('"is_member": ')) + 2
    assert engine.stats.num_accepted_tokens >= forced
