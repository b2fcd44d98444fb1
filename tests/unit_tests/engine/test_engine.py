"""The engine compared with transformers' `generate`; sampling, stopping, log-probabilities and refusals."""

import asyncio
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import PreTrainedModel

from langchain_amulet.engine.engine import Engine
from langchain_amulet.engine.params import Request, SamplingParams
from langchain_amulet.engine.runners.batched import TransformersRunner
from langchain_amulet.engine.sequence import Sequence
from langchain_amulet.exceptions import (
    ContextLengthError,
    InvalidParameterError,
    NumericalError,
    UnsupportedModelError,
)
from langchain_amulet.realignment import RealignmentConfig, realign
from tests.fakes.engines import wait_until
from tests.fakes.models import CONFIGS, VOCAB_SIZE, tiny_model

BASE = [1, 17, 33, 58, 90, 101, 7, 12]
PREF = [1, 17, 33, 44, 45, 46, 201, 58, 90, 101, 7, 12]
PAPER = RealignmentConfig.paper()


@pytest.fixture(scope="module")
def model() -> PreTrainedModel:
    return tiny_model()


@pytest.fixture(scope="module")
def engine(model) -> Engine:
    return Engine(TransformersRunner(model))


def request(*prompts: list[int], weights=None, realignment=PAPER, **sampling) -> Request:
    weights = [1.0] * (len(prompts) - 1) if weights is None else weights
    return Request(prompts, weights, realignment, SamplingParams(**{"max_tokens": 24, **sampling}))


def transformers_greedy(model: Any, prompt: list[int], max_tokens: int = 24, **keywords) -> list[int]:
    ids = torch.tensor([prompt])
    output = model.generate(ids, max_new_tokens=max_tokens, do_sample=False, eos_token_id=None, **keywords)
    return output[0, len(prompt) :].tolist()


def transformers_cfg(model: PreTrainedModel, base: list[int], pref: list[int], w: float) -> list[int]:
    return transformers_greedy(model, pref, guidance_scale=w, negative_prompt_ids=torch.tensor([base]))


@pytest.mark.parametrize("architecture", CONFIGS)
def test_equals_transformers_cfg_token_for_token(architecture):
    model = tiny_model(architecture)
    ours = list(Engine(TransformersRunner(model)).submit(request(BASE, PREF)))
    assert ours == transformers_cfg(model, BASE, PREF, PAPER.guidance_scale)
    assert ours != transformers_greedy(model, PREF)  # else the comparison would prove nothing


@pytest.mark.parametrize("architecture", CONFIGS)
@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
def test_one_stream_equals_plain_generation(architecture, implementation):
    model = tiny_model(architecture)
    model.set_attn_implementation(implementation)
    assert list(Engine(TransformersRunner(model)).submit(request(PREF))) == transformers_greedy(model, PREF)


def test_nucleus_in_the_engine_is_that_of_realign(model, engine):
    config = RealignmentConfig.linear_alignment(5.0, nucleus=0.3, nucleus_temperature=2.0)
    tokens, unguarded = (
        list(engine.submit(request(BASE, PREF, realignment=each)))
        for each in (config, RealignmentConfig.linear_alignment(5.0))
    )
    assert tokens != unguarded
    for i, token in enumerate(tokens):
        base, pref = (model(torch.tensor([prompt + tokens[:i]])).logits[0, -1] for prompt in (BASE, PREF))
        assert token == realign(base, pref, 6.0, nucleus=0.3, nucleus_temperature=2.0).argmax()


@settings(max_examples=15, deadline=None)
@given(
    base=st.lists(st.integers(3, VOCAB_SIZE - 1), min_size=1, max_size=20),
    insertion=st.lists(st.integers(3, VOCAB_SIZE - 1), max_size=10),
    where=st.integers(0, 20),
    w=st.floats(0, 6),
)
def test_equals_transformers_cfg_for_any_prompts(model, engine, base, insertion, where, w):
    pref = base[:where] + insertion + base[where:]
    realignment = RealignmentConfig.classifier_free_guidance(w)
    assert list(engine.submit(request(base, pref, realignment=realignment))) == transformers_cfg(model, base, pref, w)


def test_scale_zero_and_one_equal_plain_generation(model, engine):
    zero = RealignmentConfig.classifier_free_guidance(0.0)
    no_iterations = RealignmentConfig.amulet(num_iterations=0, plausibility=0.0)
    assert list(engine.submit(request(BASE, PREF, realignment=zero))) == transformers_greedy(model, BASE)
    assert list(engine.submit(request(BASE, PREF, realignment=no_iterations))) == transformers_greedy(model, PREF)


def test_two_equal_streams_of_half_weight_equal_one(engine):
    halves = list(engine.submit(request(BASE, PREF, PREF, weights=[0.5, 0.5])))
    assert halves == list(engine.submit(request(BASE, PREF)))


def test_identical_streams_equal_plain_generation(model, engine):
    assert list(engine.submit(request(BASE, BASE))) == transformers_greedy(model, BASE)


def test_long_shared_prefix_equals_transformers_cfg(model, engine):
    beginning = torch.randint(3, VOCAB_SIZE, (80,), generator=torch.Generator().manual_seed(0)).tolist()
    base, pref = beginning + BASE, beginning + PREF
    assert list(engine.submit(request(base, pref))) == transformers_cfg(model, base, pref, PAPER.guidance_scale)


def test_answers_beyond_the_first_capacity_of_the_cache(monkeypatch, model):
    monkeypatch.setattr("langchain_amulet.engine.runners.batched._FIRST_CAPACITY", 4)
    ours = list(Engine(TransformersRunner(model)).submit(request(BASE, PREF, max_tokens=60)))
    w = PAPER.guidance_scale
    assert ours == transformers_greedy(model, PREF, 60, guidance_scale=w, negative_prompt_ids=torch.tensor([BASE]))


def test_interleaved_requests_equal_one_by_one(engine):
    requests = [request(BASE, PREF), request(PREF, BASE), request(PREF, temperature=1.0, seed=3)]
    alone = [list(engine.submit(r)) for r in requests]
    assert [list(tokens) for tokens in zip(*(engine.submit(r) for r in requests), strict=True)] == [
        list(tokens) for tokens in zip(*alone, strict=True)
    ]


async def test_async_iteration_equals_sync(engine):
    async def collect(r: Request) -> list[int]:
        return [token async for token in engine.submit(r)]

    requests = [request(BASE, PREF), request(PREF, BASE)]
    assert await asyncio.gather(*map(collect, requests)) == [list(engine.submit(r)) for r in requests]


def test_seed_reproduces_and_differs(engine):
    def draw(seed: int | None) -> list[int]:
        return list(engine.submit(request(BASE, PREF, temperature=1.0, seed=seed, realignment=RealignmentConfig())))

    assert draw(5) == draw(5) != draw(6)
    assert draw(None) != draw(None)
    torch.manual_seed(0)
    first = draw(None)
    torch.manual_seed(0)
    assert first == draw(None)


def test_stops_at_any_stop_token_and_leaves_it_out(engine):
    tokens = list(engine.submit(request(BASE, PREF)))
    stop = tokens[9]
    generation = engine.submit(request(BASE, PREF, stop_token_ids=frozenset({stop, 299})))
    assert list(generation) == tokens[: tokens.index(stop)]
    assert generation.finish_reason == "stop"
    assert generation.token_ids == tokens[: tokens.index(stop) + 1]


def test_max_tokens_is_respected(engine):
    generation = engine.submit(request(BASE, PREF, max_tokens=3))
    assert len(list(generation)) == 3
    assert generation.finish_reason == "length"


def test_answer_ends_at_the_end_of_the_context(engine):
    prompt = [5] * 250
    generation = engine.submit(request(prompt, max_tokens=100))
    assert len(list(generation)) == 6
    assert generation.finish_reason == "length"


def test_prompt_that_fills_the_context_is_refused(engine):
    with pytest.raises(ContextLengthError, match="256 tokens; the model's context holds 256.*Shorten"):
        engine.submit(request([5], [5] * 256))


def test_finished_generation_frees_its_rows(engine):
    generation = engine.submit(request(BASE, max_tokens=2))
    assert len(list(generation)) == 2
    wait_until(lambda: engine.stats.num_rows == 0)


def test_logprobs_are_those_of_the_realigned_policy(model, engine):
    realignment = RealignmentConfig.classifier_free_guidance(2.5)
    prompts = {"prompts": [BASE, PREF], "weights": [1.0], "realignment": realignment}
    sampling = SamplingParams(max_tokens=4, temperature=0.7, repetition_penalty=1.3, seed=1)
    generation = engine.submit(Request(**prompts, sampling=sampling, logprobs=3))
    tokens = list(generation)
    assert [entry.token_id for entry in generation.logprobs] == tokens
    for index, entry in enumerate(generation.logprobs):
        base, pref = (model(torch.tensor([ids + tokens[:index]])).logits[0, -1] for ids in (BASE, PREF))
        expected = realign(base, pref, 2.5)
        assert entry.logprob == pytest.approx(expected[entry.token_id].item())
        assert [token for token, _ in entry.top] == expected.topk(3).indices.tolist()
        assert [logprob for _, logprob in entry.top] == pytest.approx(expected.topk(3).values.tolist())


def test_logprobs_of_requests_together_equal_those_alone(engine):
    each = [
        Request([BASE], sampling=SamplingParams(max_tokens=n, temperature=t, seed=n), logprobs=number)
        for n, t, number in ((4, 0.0, 3), (6, 1.0, None), (5, 1.0, 3), (3, 0.0, 0))
    ]

    def logprobs(generation):
        list(generation)
        return torch.tensor([pair for entry in generation.logprobs for pair in (entry[:2], *entry.top)])

    together = [engine.submit(request) for request in each]
    for generation, request in zip(together, each, strict=True):
        torch.testing.assert_close(logprobs(generation), logprobs(engine.submit(request)))


def test_logprobs_of_one_stream_are_the_models_own(model, engine):
    generation = engine.submit(Request([BASE], sampling=SamplingParams(max_tokens=2), logprobs=0))
    first, _ = list(generation)
    expected = model(torch.tensor([BASE])).logits[0, -1].log_softmax(-1)[first].item()
    assert generation.logprobs[0].logprob == pytest.approx(expected)
    assert generation.logprobs[0].top == []


def test_nan_logits_are_an_error_and_not_a_token():
    model = tiny_model()
    engine = Engine(TransformersRunner(model))
    with torch.no_grad():
        model.lm_head.weight.fill_(torch.nan)
    for prompts in ([BASE], [BASE, PREF]):
        generation = engine.submit(request(*prompts))
        with pytest.raises(NumericalError, match="float32"):
            next(generation)
        assert list(generation) == []
        assert generation.finish_reason == "error"
        wait_until(lambda: engine.stats.num_rows == 0)


@pytest.mark.parametrize("damage", [torch.nan, torch.inf])
def test_one_damaged_logit_is_an_error_when_sampling_too(damage):
    model = tiny_model()
    engine = Engine(TransformersRunner(model))
    model.lm_head.register_forward_hook(lambda *hook: hook[2].index_fill(-1, torch.tensor(7), damage))
    with pytest.raises(NumericalError, match="float32"):
        next(engine.submit(request(BASE, temperature=1.0)))


def test_greedy_request_leaves_torchs_generator_alone(engine):
    state = torch.get_rng_state()
    list(engine.submit(request(BASE, PREF)))
    assert torch.equal(torch.get_rng_state(), state)


def test_repetition_penalty_equals_transformers(model, engine):
    ours = list(engine.submit(request(PREF, repetition_penalty=1.3)))
    assert ours == transformers_greedy(model, PREF, repetition_penalty=1.3) != transformers_greedy(model, PREF)


def test_repetition_penalty_counts_the_base_prompt_and_no_preferences():
    sequence = Sequence(Request([[5, 6], [7, 8, 9], [10]], [1.0, -0.5]), max_length=100)
    sequence.token_ids.append(11)
    assert sequence.seen_ids(torch.device("cpu")).tolist() == [5, 6, 11]


def test_repetition_penalty_counts_the_tokens_that_it_is_given(engine):
    """A single stream whose prompt has preferences is penalised for the tokens of the prompt without them."""
    sampling = SamplingParams(max_tokens=20, repetition_penalty=1.3)
    penalised = list(engine.submit(Request([PREF], sampling=sampling)))
    given = Request([PREF], sampling=sampling, penalised_ids=penalised)
    assert list(engine.submit(given)) != penalised
    sequence = Sequence(given, max_length=100)
    for token_id in (5, 6):
        sequence.append(token_id, None)
        assert sequence.seen_ids(torch.device("cpu")).tolist() == [*penalised, *sequence.token_ids]


def test_model_that_ignores_positions_is_refused():
    model = tiny_model()
    forward = model.forward

    def without_positions(input_ids, position_ids=None, **keywords):
        return forward(input_ids, position_ids=None if position_ids is None else 0 * position_ids, **keywords)

    model.forward = without_positions
    with pytest.raises(UnsupportedModelError, match="cache of rows: its logits differ"):
        TransformersRunner(model)


def test_model_that_does_not_accept_the_cache_is_refused():
    model = tiny_model()
    model.forward = lambda: None
    with pytest.raises(UnsupportedModelError, match="llama cannot be decoded with a cache of rows"):
        TransformersRunner(model)


def test_windows_of_several_sizes_are_refused(monkeypatch):
    windows = (["sliding_attention"] * 2, [{"sliding_window": 4}, {"sliding_window": 8}])
    monkeypatch.setattr("langchain_amulet.engine.runners.batched.get_layer_types_and_kwargs", lambda _: windows)
    with pytest.raises(UnsupportedModelError, match="sliding windows of several sizes"):
        TransformersRunner(tiny_model())


def test_other_attention_implementation_is_refused():
    model = tiny_model()
    model.config._attn_implementation = "flash_attention_2"
    with pytest.raises(UnsupportedModelError, match='"attn_implementation": "sdpa"'):
        TransformersRunner(model)


@pytest.mark.parametrize(("prompts", "weights"), [([], []), ([[]], []), ([BASE, []], [1.0]), ([BASE, PREF], [])])
def test_streams_that_do_not_fit_together_are_refused(prompts, weights):
    with pytest.raises(InvalidParameterError, match="stream"):
        Request(prompts, weights)


@pytest.mark.parametrize(
    ("values", "remedy"),
    [
        ({"weights": ["x"]}, "weight must be a finite number"),
        ({"weights": [float("nan")]}, "weight must be a finite number"),
        ({"weights": [1.0], "prefix_keys": [""]}, "as many prefix_keys, or none; got 1"),
        ({"weights": [1.0], "logprobs": -1}, "logprobs must be"),
    ],
)
def test_request_refuses_values_out_of_range(values, remedy):
    with pytest.raises(InvalidParameterError, match=remedy):
        Request([BASE, PREF], **values)


@pytest.mark.parametrize(
    ("values", "remedy"),
    [
        ({"temperature": -0.1}, "temperature must be at least 0"),
        ({"temperature": float("nan")}, "temperature must be at least 0"),
        ({"top_p": 0.0}, "where 1 turns it off"),
        ({"top_p": 1.1}, "where 1 turns it off"),
        ({"top_k": -1}, "where 0 turns it off"),
        ({"repetition_penalty": 0.0}, "above 0"),
        ({"max_tokens": 0}, "at least 1"),
        ({"seed": -1}, "None or from 0"),
        ({"temperature": "1"}, "temperature must be at least 0"),
        ({"top_k": 2.5}, "a whole number"),
        ({"max_tokens": True}, "a whole number"),
    ],
)
def test_sampling_params_refuse_values_out_of_range(values, remedy):
    with pytest.raises(InvalidParameterError, match=remedy):
        SamplingParams(**values)
