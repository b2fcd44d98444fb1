"""Log-probabilities of a text after several prompts: the engine's, and the chat model's methods on top of them."""

import pytest
import torch

from langchain_amulet import ChatAmulet, Engine, RealignmentConfig
from langchain_amulet.engine.params import Request, SamplingParams
from langchain_amulet.engine.runners.batched import TransformersRunner
from langchain_amulet.engine.runners.sequential import SequentialRunner
from langchain_amulet.exceptions import (
    ContextLengthError,
    EngineMemoryError,
    GenerationError,
    InvalidParameterError,
    ModelClosedError,
    NumericalError,
)
from tests.fakes.chat_templates import byte_tokenizer
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


@pytest.mark.parametrize("runner_class", [TransformersRunner, SequentialRunner])
def test_runner_scores_a_text_after_one_prompt(runner_class):
    log_probs = runner_class(MODEL).score(PROMPTS[0], TEXT)
    assert log_probs.dtype == torch.float32
    torch.testing.assert_close(log_probs, torch.tensor(expected(PROMPTS[0], TEXT)))


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
    assert len(scoring._log_probs) < 3000


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
    monkeypatch.setattr(
        llm.engine._runner, "score", lambda _prompt, token_ids: torch.full((len(token_ids),), -torch.inf)
    )
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
