"""How likely a text is under several prompts: the engine's scores, and what a chat model makes of them."""

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
    scores = []
    for i, token_id in enumerate(text):
        logits = MODEL(torch.tensor([[*prompt, *text[:i]]])).logits[0, -1]
        scores.append(logits.log_softmax(-1)[token_id].item())
    return scores


def test_scores_equal_those_of_one_forward_per_token(engine):
    scored = engine.score(PROMPTS, TEXT).result()
    torch.testing.assert_close(scored, torch.tensor([expected(prompt, TEXT) for prompt in PROMPTS]))


def test_a_long_text_is_scored_in_chunks_to_the_same_numbers(engine):
    text = [(7 * i) % 30 + 1 for i in range(70)]
    scored = engine.score([[5]], text).result()
    torch.testing.assert_close(scored, torch.tensor([expected([5], text)]))


def test_those_who_are_answered_meanwhile_get_the_same_tokens():
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
def test_what_is_no_text_is_refused(engine, prompts, text):
    with pytest.raises(InvalidParameterError):
        engine.score(prompts, text)


def test_what_is_longer_than_the_context_is_refused(engine):
    with pytest.raises(ContextLengthError, match="the model takes"):
        engine.score([[5] * 10_000], TEXT)


def test_an_error_of_the_model_is_told_and_the_engine_goes_on(engine, monkeypatch):
    with monkeypatch.context() as broken:
        broken.setattr(engine._runner, "_model", None)
        with pytest.raises(GenerationError, match="AttributeError"):
            engine.score(PROMPTS, TEXT).result()
    assert engine.score(PROMPTS, TEXT).result().shape == (3, 4)


def test_what_takes_more_memory_than_there_is_is_told_as_such(engine, monkeypatch):
    def too_large(*_, **__):
        raise torch.OutOfMemoryError

    with monkeypatch.context() as small:
        small.setattr("langchain_amulet.engine.scoring.token_logprobs", too_large)
        with pytest.raises(EngineMemoryError, match="9 tokens.*Score a shorter text"):
            engine.score(PROMPTS, TEXT).result()
    assert engine.score(PROMPTS, TEXT).result().shape == (3, 4)


def test_a_scoring_that_nobody_waits_for_ends(engine):
    future = engine.score(PROMPTS * 1000, TEXT)
    scoring = engine._scorings[0]
    assert future.cancel()
    engine.score(PROMPTS, TEXT).result()
    assert len(scoring._scored) < 3000


def test_a_closed_engine_scores_no_more(engine):
    engine.close()
    with pytest.raises(ModelClosedError):
        engine.score(PROMPTS, TEXT)


def test_who_waits_for_an_engine_that_is_closed_at_once_is_told(engine):
    waiting = [engine.score(PROMPTS * 50, TEXT) for _ in range(4)]
    engine.close(cancel=True)
    with pytest.raises(ModelClosedError):
        waiting[-1].result(timeout=20)


# What a chat model makes of it

PREFERENCE = "Be brief."


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


def test_evidence_counts_the_models_own_tokens(llm):
    counting = ChatAmulet(model=MODEL, tokenizer=byte_tokenizer(), custom_get_token_ids=lambda text: [5] * len(text))
    assert counting.evidence("Why?", "Because.", [PREFERENCE]) == llm.evidence("Why?", "Because.", [PREFERENCE])


def test_evidence_that_is_no_number_is_an_error(llm, monkeypatch):
    monkeypatch.setattr(
        "langchain_amulet.engine.scoring.token_logprobs",
        lambda _model, _prompt, ids: torch.full((len(ids),), -torch.inf),
    )
    with pytest.raises(NumericalError, match="no finite probability"):
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
