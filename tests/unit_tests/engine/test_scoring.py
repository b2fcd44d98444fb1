"""Log-probabilities of a text after several prompts: the engine's, and the chat model's methods on top of them."""

import pytest
import torch

from langchain_amulet import ChatAmulet, Engine, RealignmentConfig
from langchain_amulet.engine.params import Request, SamplingParams
from langchain_amulet.engine.runners.batched import TransformersRunner
from langchain_amulet.engine.runners.plain_forward import token_log_probs
from langchain_amulet.engine.runners.sequential import SequentialRunner
from langchain_amulet.engine.scoring import BatchScorer, Scoring
from langchain_amulet.exceptions import (
    ContextLengthError,
    EngineMemoryError,
    GenerationError,
    InvalidParameterError,
    ModelClosedError,
    NumericalError,
)
from tests.fakes.chat_templates import byte_tokenizer
from tests.fakes.engines import FakeRunner
from tests.fakes.models import tiny_model

PROMPTS = [[5, 6, 7], [5, 6, 7, 8, 9], [11]]
TEXT = [12, 13, 14, 3]
MODEL = tiny_model("qwen2", seed=5)


@pytest.fixture(params=[TransformersRunner, SequentialRunner])
def engine(request) -> Engine:
    return Engine(request.param(MODEL))


def expected(prompt: list[int], text: list[int]) -> list[float]:
    """Token by token, each from a forward of its own."""
    log_probs = []
    for i, token_id in enumerate(text):
        logits = MODEL(torch.tensor([[*prompt, *text[:i]]])).logits[0, -1]
        log_probs.append(logits.log_softmax(-1)[token_id].item())
    return log_probs


def test_log_probs_equal_those_of_one_forward_per_token(engine):
    scored = engine.score(PROMPTS, TEXT).result()
    torch.testing.assert_close(scored, torch.tensor([expected(prompt, TEXT) for prompt in PROMPTS]))


PAIRS = [
    ([5, 6, 7], [12, 13, 14, 3]),
    ([5, 6, 7], [9]),
    ([11], [3, 4]),
    ([5, 6, 7], [40 + i for i in range(17)]),
    ([8] * 20, [12, 13, 14, 3]),
    ([11], [3, 4]),
]


def results(forwards):
    """Run a generator to its end. Return how often it yielded, and its result."""
    returned = []

    def run():
        returned.append((yield from forwards))

    return len([*run()]), returned[0]


@pytest.mark.parametrize("max_tokens", [1, 7, 32, 1000])
@pytest.mark.parametrize("pairs", [PAIRS, PAIRS[2:5], PAIRS[:1]])
@pytest.mark.parametrize("architecture", ["qwen2", "mistral", "gemma3", "gpt_neox"])
def test_texts_in_a_batch_get_the_log_probs_of_plain_forwards(architecture, pairs, max_tokens):
    model = tiny_model(architecture, seed=5, dtype=torch.float32)
    _, batched = results(TransformersRunner(model).score(pairs, max_tokens=max_tokens))
    for log_probs, (prompt, text) in zip(batched, pairs, strict=True):
        assert log_probs.dtype == torch.float32
        torch.testing.assert_close(log_probs, token_log_probs(model, prompt, text), atol=2e-5, rtol=1e-5)


def test_log_probs_of_plain_forwards_equal_those_of_one_forward_per_token():
    for prompt, text in PAIRS:
        torch.testing.assert_close(token_log_probs(MODEL, prompt, text), torch.tensor(expected(prompt, text)))


def test_a_model_that_scores_in_sequence_gives_the_same_log_probs():
    num_forwards, one_by_one = results(SequentialRunner(MODEL).score(PAIRS, max_tokens=7))
    assert num_forwards == len(PAIRS)
    torch.testing.assert_close(one_by_one, results(TransformersRunner(MODEL).score(PAIRS, max_tokens=7))[1])


@pytest.fixture
def sizes(monkeypatch) -> list[tuple[int, int, int]]:
    """Rows, tokens and logits of each forward of a batch."""
    append, seen = TransformersRunner._append, []

    def spy(self, cache, rows, input_ids, num_tokens, kept):
        seen.append((*input_ids.shape, len(input_ids) * len(kept)))
        return append(self, cache, rows, input_ids, num_tokens, kept)

    monkeypatch.setattr(TransformersRunner, "_append", spy)
    return seen


def test_no_forward_has_more_tokens_or_logits_than_allowed(sizes):
    runner = TransformersRunner(MODEL)
    sizes.clear()
    results(runner.score(PAIRS * 2, max_tokens=16))
    assert all(rows * width <= 16 and num_logits <= 16 for rows, width, num_logits in sizes)


def test_a_prompt_is_read_once_for_all_texts_after_it(sizes):
    runner = TransformersRunner(MODEL)
    sizes.clear()
    results(runner.score([([7] * 50, [1, 2, 3, index]) for index in range(8)], max_tokens=1000))
    assert [(rows, width) for rows, width, _ in sizes] == [(1, 49), (8, 4)]


def run(scorer, scorings, *, is_busy=False):
    while not all(scoring.is_finished for scoring in scorings):
        scorer.step(scorings, is_busy=is_busy)


def test_texts_that_wait_are_scored_together():
    runner = FakeRunner()
    scorings = [Scoring([[5, 6], [7]], [8, 9 + index]) for index in range(10)]
    run(BatchScorer(runner, 20), scorings)
    assert runner.sizes == [("score", 20, 256)]
    for index, scoring in enumerate(scorings):
        apart = results(runner.score([([5, 6], [8, 9 + index]), ([7], [8, 9 + index])], max_tokens=1))[1]
        torch.testing.assert_close(scoring.future.result(), torch.stack(apart))


def test_forwards_are_shorter_while_requests_run():
    runner = FakeRunner()
    run(BatchScorer(runner, 20), [Scoring([[5, 6], [7]], [8, 9]) for _ in range(40)], is_busy=True)
    assert runner.sizes == [("score", 40, 20), ("score", 40, 20)]  # of 4 tokens each, where 8 * 20 have room


def test_a_batch_has_at_most_so_many_tokens(sizes):
    prompts = [[token] * 10 for token in range(1, 41)]
    scorer, scoring = BatchScorer(TransformersRunner(MODEL), 16), Scoring(prompts, [1] * 6)
    sizes.clear()
    while not scoring.is_finished:
        scorer.step([scoring], is_busy=True)
    assert max(rows for rows, *_ in sizes) == 8 * 16 // 16


def test_a_text_that_fails_does_not_fail_the_others_of_its_batch(monkeypatch):
    runner, score = TransformersRunner(MODEL), TransformersRunner.score

    def failing(self, pairs, *, max_tokens):
        if any(text == [13] for _, text in pairs):
            raise torch.OutOfMemoryError
        return score(self, pairs, max_tokens=max_tokens)

    monkeypatch.setattr(TransformersRunner, "score", failing)
    scorings = [Scoring(PROMPTS, [token]) for token in (12, 13, 14)]
    run(BatchScorer(runner, 16), scorings)
    assert [type(scoring.future.exception()) for scoring in scorings] == [type(None), EngineMemoryError, type(None)]
    torch.testing.assert_close(scorings[2].future.result()[0], torch.tensor(expected(PROMPTS[0], [14])))


def test_a_batch_whose_texts_are_all_cancelled_is_dropped():
    scorer, scoring = BatchScorer(TransformersRunner(MODEL), 1), Scoring(PROMPTS, TEXT)
    scorer.step([scoring], is_busy=True)
    scoring.future.cancel()
    scorer.step([scoring], is_busy=True)
    assert scorer._batch is None


def test_scoring_a_long_text_in_chunks_changes_nothing(engine):
    text = [(7 * i) % 30 + 1 for i in range(70)]
    scored = engine.score([[5]], text).result()
    torch.testing.assert_close(scored, torch.tensor([expected([5], text)]))


def test_scoring_does_not_change_the_tokens_of_running_requests():
    engine = Engine(TransformersRunner(MODEL))
    request = Request([[5, 6, 7]], [], RealignmentConfig(), SamplingParams(temperature=0, max_tokens=30), None, [""])
    alone = list(engine.submit(request))
    under_way = engine.submit(request)
    scorings = [engine.score(PROMPTS, TEXT) for _ in range(5)]
    assert list(under_way) == alone
    for scoring in scorings:
        torch.testing.assert_close(scoring.result()[0], torch.tensor(expected(PROMPTS[0], TEXT)))


@pytest.mark.parametrize(
    ("prompts", "text"), [([[5]], []), ([], [5]), ([[5], []], [5]), ([[10**6]], [5]), ([[5]], [-1])]
)
def test_empty_or_unknown_tokens_are_refused(engine, prompts, text):
    with pytest.raises(InvalidParameterError):
        engine.score(prompts, text)


def test_text_beyond_the_context_is_refused(engine):
    with pytest.raises(ContextLengthError, match="the model accepts"):
        engine.score([[5] * 10_000], TEXT)


def test_error_of_the_model_reaches_the_future_and_the_engine_goes_on(engine, monkeypatch):
    with monkeypatch.context() as broken:
        broken.setattr(engine._runner, "_model", None)
        with pytest.raises(GenerationError, match="AttributeError"):
            engine.score(PROMPTS, TEXT).result()
    assert engine.score(PROMPTS, TEXT).result().shape == (3, 4)


def test_out_of_memory_in_scoring_has_an_error_of_its_own(engine, monkeypatch):
    def too_large(*_, **__):
        raise torch.OutOfMemoryError

    with monkeypatch.context() as small:
        small.setattr(engine._runner, "score", too_large)
        with pytest.raises(EngineMemoryError, match="9 tokens.*Score a shorter text"):
            engine.score(PROMPTS, TEXT).result()
    assert engine.score(PROMPTS, TEXT).result().shape == (3, 4)


def test_cancelled_scoring_stops(engine):
    future = engine.score(PROMPTS * 1000, TEXT)
    scoring = engine._scorings[0]
    assert future.cancel()
    engine.score(PROMPTS, TEXT).result()
    assert len(scoring.log_probs) < 3000


def test_a_closed_engine_scores_no_more(engine):
    engine.close()
    with pytest.raises(ModelClosedError):
        engine.score(PROMPTS, TEXT)


def test_closing_at_once_fails_the_scorings_in_the_queue(engine):
    waiting = [engine.score(PROMPTS * 50, TEXT) for _ in range(4)]
    engine.close(cancel=True)
    with pytest.raises(ModelClosedError):
        waiting[-1].result(timeout=20)


# The methods of the chat model

PREFERENCE = "Be brief."
PROMPTED = RealignmentConfig(guidance_scale=1.0, plausibility=0.0)


@pytest.fixture
def llm() -> ChatAmulet:
    return ChatAmulet(model=MODEL, tokenizer=byte_tokenizer(), max_tokens=12, temperature=0)


def test_evidence_is_the_mean_difference_of_two_prompts(llm):
    token_ids = byte_tokenizer().encode("Because.", add_special_tokens=False)
    base, preferred = llm.prompt_streams("Why?", PREFERENCE)
    gains = [p - b for p, b in zip(expected(preferred, token_ids), expected(base, token_ids), strict=True)]
    assert llm.evidence("Why?", "Because.", [PREFERENCE]) == [pytest.approx(sum(gains) / len(gains), abs=1e-5)]


def test_token_logprobs_are_those_of_the_plain_prompt(llm):
    token_ids = byte_tokenizer().encode("Because.", add_special_tokens=False)
    [base] = llm.prompt_streams("Why?", [])
    assert llm.token_logprobs("Why?", "Because.") == pytest.approx(expected(base, token_ids), abs=1e-5)
    with pytest.raises(InvalidParameterError, match="no tokens"):
        llm.token_logprobs("Why?", "")


def test_token_logprobs_follow_the_preferences_in_one_prompt(llm):
    token_ids = byte_tokenizer().encode("Because.", add_special_tokens=False)
    [prompt] = llm.model_copy(update={"realignment": PROMPTED}).prompt_streams("Why?", [PREFERENCE, "Be cheerful!"])
    scored = llm.token_logprobs("Why?", "Because.", [PREFERENCE, "Be cheerful!"])
    assert scored == pytest.approx(expected(prompt, token_ids), abs=1e-5)


def test_evidence_counts_the_models_own_tokens(llm):
    counting = ChatAmulet(model=MODEL, tokenizer=byte_tokenizer(), custom_get_token_ids=lambda text: [5] * len(text))
    assert counting.evidence("Why?", "Because.", [PREFERENCE]) == llm.evidence("Why?", "Because.", [PREFERENCE])


def test_evidence_that_is_not_finite_is_an_error(llm, monkeypatch):
    def score(pairs, **_):
        yield
        return [torch.full((len(text),), -torch.inf) for _, text in pairs]

    monkeypatch.setattr(llm.engine._runner, "score", score)
    with pytest.raises(NumericalError, match="no finite log-probability"):
        llm.evidence("Why?", "Because.", [PREFERENCE])


def test_each_preference_is_scored_by_itself(llm):
    both = llm.evidence("Why?", "Because.", [PREFERENCE, "Be cheerful!"])
    assert both == [llm.evidence("Why?", "Because.", [each])[0] for each in (PREFERENCE, "Be cheerful!")]
    assert both[0] != both[1]


def test_an_empty_preference_changes_nothing(llm):
    assert llm.evidence("Why?", "Because.", [""]) == [0.0]


async def test_async_evidence_equals_sync(llm):
    assert await llm.aevidence("Why?", "Because.", [PREFERENCE]) == llm.evidence("Why?", "Because.", [PREFERENCE])


def test_an_empty_response_is_refused(llm):
    with pytest.raises(InvalidParameterError, match="no tokens"):
        llm.evidence("Why?", "", [PREFERENCE])
