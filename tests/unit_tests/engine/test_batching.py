"""A request gets the same tokens alone, in any batch, and for any way to prefill its prompt."""

import asyncio
import importlib
import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import (
    AutoModelForCausalLM,
    Lfm2Config,
    Mamba2Config,
    MambaConfig,
    PreTrainedModel,
    RecurrentGemmaConfig,
)

from langchain_amulet.engine.batch import Batch
from langchain_amulet.engine.config import EngineConfig
from langchain_amulet.engine.engine import Engine
from langchain_amulet.engine.generation import Generation
from langchain_amulet.engine.params import Request, SamplingParams
from langchain_amulet.engine.runners.batched import TransformersRunner
from langchain_amulet.engine.runners.sequential import SequentialRunner
from langchain_amulet.exceptions import GenerationError, UnsupportedModelError
from langchain_amulet.realignment import RealignmentConfig, realign
from tests.fakes.engines import FakeRunner, wait_until
from tests.fakes.models import CONFIGS, GROUPED, SIZES, VOCAB_SIZE, tiny_model

COLD = EngineConfig(prefix_cache_bytes=0)
WARM = EngineConfig(prefix_cache_bytes=10**9)
PAPER = RealignmentConfig.paper()
UNLUCKY = 2  # a token that no prompt here holds


def some_ids(number: int, seed: int) -> list[int]:
    return torch.randint(3, VOCAB_SIZE, (number,), generator=torch.Generator().manual_seed(seed)).tolist()


def requests() -> list[Request]:
    """All kinds: one to three streams, dislikes, guards, sampling, different lengths, beginnings in common."""
    a, b, c = some_ids(30, 1), some_ids(9, 2), some_ids(70, 3)
    sampled = SamplingParams(max_tokens=12, temperature=1.1, top_p=0.9, top_k=40, seed=4)
    penalised = SamplingParams(max_tokens=18, temperature=0.8, repetition_penalty=1.4, seed=5)
    guarded = RealignmentConfig(guidance_scale=4.0, plausibility=0.2, max_kl=0.3)
    in_nucleus = RealignmentConfig.linear_alignment(5.0, nucleus=0.8, nucleus_temperature=0.5)
    in_smaller_nucleus = RealignmentConfig.linear_alignment(3.0, nucleus=0.3)
    return [
        Request([a, a[:9] + b + a[9:]], [1.0], PAPER, SamplingParams(max_tokens=15)),
        Request([a, a[:9] + b + a[9:], a[:9] + a[12:]], [0.7, -0.4], guarded, sampled),
        Request([c], sampling=SamplingParams(max_tokens=9)),
        Request([c + b, c + a], [1.0], RealignmentConfig(), penalised),
        Request([b], sampling=SamplingParams(max_tokens=20, temperature=1.0, seed=6)),
        Request([a + c, b], [0.5], PAPER, SamplingParams(max_tokens=10)),
        Request([[*b, 5], [*b, 6]], [1.0], guarded, SamplingParams(max_tokens=14)),
        Request([b, b + a], [1.0], in_nucleus, SamplingParams(max_tokens=11)),
        Request([b + a, b], [1.0], in_smaller_nucleus, sampled),
    ]


def one_by_one(runner, each: list[Request]) -> list[list[int]]:
    engine = Engine(runner, COLD)
    return [list(engine.submit(request)) for request in each]


def together(engine: Engine, each: list[Request]) -> list[list[int]]:
    return [list(generation) for generation in [engine.submit(request) for request in each]]


@pytest.fixture
def sizes(monkeypatch) -> list[int]:
    """How many requests each draw is for."""
    sizes: list[int] = []
    original = Batch.draw

    def draw(batch, logits):
        sizes.append(len(batch.sequences))
        return original(batch, logits)

    monkeypatch.setattr(Batch, "draw", draw)
    return sizes


@pytest.fixture(scope="module", params=CONFIGS)
def model(request) -> PreTrainedModel:
    return tiny_model(request.param)


@pytest.fixture(scope="module")
def expected(model) -> list[list[int]]:
    tokens = one_by_one(TransformersRunner(model), requests())
    assert len(set(map(tuple, tokens))) == len(tokens), "answers must differ, or the tests below prove nothing"
    return tokens


def test_batched_equals_one_by_one(model, expected, sizes):
    assert together(Engine(TransformersRunner(model), COLD), requests()) == expected
    assert max(sizes) > 3


def test_joined_late_equals_alone(model, expected, sizes):
    engine = Engine(TransformersRunner(model), COLD)
    generations = []
    for request in requests():
        generations.append(engine.submit(request))
        next(generations[-1])
    assert [list(generation) for generation in generations] == [tokens[1:] for tokens in expected]
    assert max(sizes) > 1


@pytest.mark.parametrize("prefill_tokens", [1, 7, 64])
def test_chunked_prefill_equals_whole(model, expected, prefill_tokens, monkeypatch):
    monkeypatch.setattr("langchain_amulet.engine.scheduler._IDLE_FACTOR", 1)
    config = EngineConfig(prefix_cache_bytes=0, prefill_tokens=prefill_tokens)
    runner = TransformersRunner(model)
    prefill, widths = runner.prefill, []
    runner.prefill = lambda first_row, input_ids: (
        widths.append(sum(map(len, input_ids))) or prefill(first_row, input_ids)
    )
    assert together(Engine(runner, config), requests()) == expected
    assert max(widths) <= max(3, prefill_tokens)  # each row reads one token at least


def test_prefix_cached_equals_cold(model, expected):
    engine = Engine(TransformersRunner(model), WARM)
    each = [Request(r.prompts, r.weights, r.realignment, r.sampling, None, [""] * len(r.prompts)) for r in requests()]
    assert together(engine, each) == expected
    reused = engine.stats.num_reused_tokens
    assert together(engine, each) == expected
    assert engine.stats.num_reused_tokens - reused >= sum(len(prompt) - 1 for r in each for prompt in r.prompts)


def test_next_turns_equal_cold(model):
    engine, cold = Engine(TransformersRunner(model), WARM), Engine(TransformersRunner(model), COLD)
    base, pref = some_ids(20, 7), some_ids(25, 8)
    for turn in range(4):
        request = Request([base, pref], [1.0], PAPER, SamplingParams(max_tokens=10), prefix_keys=["profile", "profile"])
        answer = list(engine.submit(request))
        assert answer == list(cold.submit(request))
        base, pref = ([*ids, *answer, *some_ids(5, turn)] for ids in (base, pref))
    assert engine.stats.num_reused_tokens > 3 * (20 + 25)


def test_preempted_equals_never_preempted(model, expected):
    runner = TransformersRunner(model)
    config = EngineConfig(cache_bytes=6 * 150 * runner.bytes_per_token, prefix_cache_bytes=0)
    engine = Engine(runner, config)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("langchain_amulet.engine.admission._HEADROOM", 0)
        patch.setattr("langchain_amulet.engine.runners.batched._FIRST_CAPACITY", 4)
        assert together(engine, requests()) == expected
    assert engine.stats.num_preemptions


def test_spans_rounded_up_equal_exact_ones(model, expected, monkeypatch):
    runner = TransformersRunner(model)
    monkeypatch.setattr(runner, "_span_multiple", 64)
    assert together(Engine(runner, COLD), requests()) == expected


async def test_tasks_and_threads_share_the_batch(model, expected, sizes):
    engine = Engine(TransformersRunner(model), WARM)

    async def read(request: Request) -> list[int]:
        return [token async for token in await engine.asubmit(request)]

    tasks = asyncio.gather(*map(read, requests()))
    threads = asyncio.gather(*(asyncio.to_thread(lambda r: list(engine.submit(r)), r) for r in requests()))
    assert await tasks == await threads == expected
    assert max(sizes) > 3


@settings(max_examples=10, deadline=None)
@given(data=st.data())
def test_any_mixture_at_any_time_equals_one_by_one(data):
    model = tiny_model("gemma3")
    ids = st.lists(st.integers(3, 8), min_size=1, max_size=30)
    each = [
        Request(
            prompts := data.draw(st.lists(ids, min_size=1, max_size=3)),
            data.draw(st.lists(st.floats(-1, 1), min_size=len(prompts) - 1, max_size=len(prompts) - 1)),
            RealignmentConfig(data.draw(st.floats(0, 6)), data.draw(st.sampled_from([0.0, 0.1]))),
            SamplingParams(data.draw(st.sampled_from([0.0, 1.0])), seed=data.draw(st.integers(0, 9)), max_tokens=8),
        )
        for _ in range(data.draw(st.integers(2, 6)))
    ]
    tiny_chunks = EngineConfig(prefill_tokens=data.draw(st.integers(1, 40)), max_rows=data.draw(st.integers(3, 12)))
    engine = Engine(TransformersRunner(model), tiny_chunks)
    begun: list[tuple[list[int], Generation]] = []
    for request, waits in zip(each, itertools.cycle([True, False])):
        generation = engine.submit(request)
        begun.append(([next(generation)] if waits else [], generation))
    assert [first + list(rest) for first, rest in begun] == one_by_one(TransformersRunner(model), each)


# Recurrent and hybrid models


RECURRENT = {
    "mamba": lambda: MambaConfig(vocab_size=VOCAB_SIZE, hidden_size=32, num_hidden_layers=2),
    "mamba2": lambda: Mamba2Config(
        vocab_size=VOCAB_SIZE, hidden_size=32, num_hidden_layers=2, num_heads=8, head_dim=8, n_groups=2, state_size=16
    ),
    "lfm2": lambda: Lfm2Config(**{**GROUPED, "num_hidden_layers": 2}, layer_types=["conv", "full_attention"]),
    "recurrent_gemma": lambda: RecurrentGemmaConfig(
        **{**SIZES, "num_hidden_layers": 2}, lru_width=32, block_types=["recurrent", "attention"]
    ),
}


def recurrent_model(name: str) -> PreTrainedModel:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return AutoModelForCausalLM.from_config(RECURRENT[name]()).double().eval()


@torch.inference_mode()
def without_cache(model: PreTrainedModel, request: Request) -> list[int]:
    """The literal algorithm: every prompt read anew for every token."""
    tokens: list[int] = []
    for _ in range(request.sampling.max_tokens):
        base, *prefs = (
            model(torch.tensor([[*prompt, *tokens]]), use_cache=False).logits[0, -1] for prompt in request.prompts
        )
        scores = realign(base, prefs[0], request.realignment.guidance_scale) if prefs else base
        tokens.append(int(scores.argmax()))
    return tokens


@pytest.mark.parametrize("name", RECURRENT)
def test_recurrent_models_are_decoded_right(name):
    model = recurrent_model(name)
    with pytest.raises(UnsupportedModelError, match="do not cache one entry per token"):
        TransformersRunner(model)
    a, b = some_ids(12, 1), some_ids(7, 2)
    sampling = SamplingParams(max_tokens=8)
    short = SamplingParams(max_tokens=3)  # so that others move into its rows
    each = [
        Request([a + b, a], [1.0], PAPER, short),
        Request([a, b + a], [1.0], PAPER, sampling),
        Request([b], sampling=sampling),
    ]
    runner = SequentialRunner(model)
    assert runner.uses_cache == (name != "recurrent_gemma")
    assert together(Engine(runner), each) == [without_cache(model, request) for request in each]


def test_failure_in_one_row_leaves_the_others_as_they_were():
    model = recurrent_model("mamba")
    runner = SequentialRunner(model)
    runner.reserve(2, 0, 0)
    runner.prefill(0, [[5, 6, 7], [8, 9]])
    expected = runner.decode([3, 4])
    runner.truncate(0, 3)
    runner.truncate(1, 2)
    forward, calls = model.forward, iter([False, True, False, False])

    def failing(**keywords):
        if next(calls):
            raise torch.OutOfMemoryError
        return forward(**keywords)

    model.forward = failing
    with pytest.raises(torch.OutOfMemoryError):
        runner.decode([3, 4])
    assert torch.allclose(runner.decode([3, 4]), expected)


def test_model_with_a_wrong_cache_is_decoded_without_it():
    model = tiny_model()
    forward = model.forward

    def confused(input_ids=None, past_key_values=None, use_cache=None, **_keywords):
        output = forward(input_ids, past_key_values=past_key_values, use_cache=use_cache)
        if past_key_values is not None:
            output.logits *= torch.nan
        return output

    model.forward = confused
    assert not SequentialRunner(model).uses_cache


def test_model_without_logits_is_refused():
    model = tiny_model()
    model.forward = lambda: None
    with pytest.raises(UnsupportedModelError, match="llama does not return next-token logits for token ids"):
        SequentialRunner(model)


def test_memory_is_freed_when_idle(model):
    runner = TransformersRunner(model)
    engine = Engine(runner, COLD)
    together(engine, requests())
    wait_until(lambda: runner._cache.capacity == 0)
    assert runner._cache.num_bytes == 0


def test_failing_prompt_does_not_change_other_answers_of_a_real_model(model, expected):
    runner = TransformersRunner(model)
    prefill = runner.prefill

    def failing(first_row, input_ids):
        if any(UNLUCKY in ids for ids in input_ids):
            msg = "unlucky"
            raise RuntimeError(msg)
        return prefill(first_row, input_ids)

    runner.prefill = failing
    engine = Engine(runner, COLD)
    generations = [engine.submit(request) for request in requests()]
    with pytest.raises(GenerationError, match="unlucky"):
        list(engine.submit(Request([[UNLUCKY, 5]])))
    assert [list(generation) for generation in generations] == expected


def test_rows_of_a_forward_that_fails_after_the_model_can_be_read_again(monkeypatch):
    runner, prompts = TransformersRunner(tiny_model()), [[5, 6, 7], [8, 9]]
    runner.reserve(2, 3, 2**30)
    stack, results = torch.stack, iter([torch.OutOfMemoryError()])

    def failing(*arguments, **keywords):
        for error in results:
            raise error
        return stack(*arguments, **keywords)

    monkeypatch.setattr(torch, "stack", failing)
    with pytest.raises(torch.OutOfMemoryError):
        runner.prefill(0, prompts)
    again = runner.prefill(0, prompts)
    fresh = TransformersRunner(tiny_model())
    fresh.reserve(2, 3, 2**30)
    torch.testing.assert_close(again, fresh.prefill(0, prompts))


@pytest.mark.parametrize("where", ["torch.stack", "langchain_amulet.engine.runners.row_cache._resized"])
@pytest.mark.parametrize("delay", [0, 2, 3])
def test_out_of_memory_anywhere_in_a_step_changes_no_token(where, delay, monkeypatch):
    model = tiny_model()
    expected = one_by_one(TransformersRunner(model), requests())
    module, _, name = where.rpartition(".")
    original = getattr(importlib.import_module(module), name)
    calls = itertools.count()

    def failing(*arguments, **keywords):
        if next(calls) == delay:
            raise torch.OutOfMemoryError
        return original(*arguments, **keywords)

    engine = Engine(TransformersRunner(model), COLD)
    monkeypatch.setattr("langchain_amulet.engine.runners.batched._FIRST_CAPACITY", 4)
    monkeypatch.setattr(where, failing)
    assert together(engine, requests()) == expected
    assert next(calls) > delay


def test_probe_detects_an_ignored_cache_in_half_precision():
    model = tiny_model(dtype=torch.bfloat16)
    forward = model.forward
    model.forward = lambda input_ids=None, **keywords: forward(input_ids, use_cache=keywords.get("use_cache"))
    with pytest.raises(UnsupportedModelError, match="its logits differ"):
        TransformersRunner(model)


@pytest.mark.parametrize("architecture", CONFIGS)
def test_half_precision_is_served_in_rows(architecture):
    TransformersRunner(tiny_model(architecture, dtype=torch.bfloat16))


def test_nan_in_a_row_of_a_cancelled_request_does_not_reach_the_next_one():
    model = tiny_model()
    engine = Engine(TransformersRunner(model), EngineConfig(prefill_tokens=4, prefix_cache_bytes=10**9))
    sampling = SamplingParams(max_tokens=40)
    expected = list(engine.submit(Request([[5, 6]], sampling=sampling)))
    running = engine.submit(Request([[7, 8]], sampling=SamplingParams(max_tokens=200)))
    next(running)
    with torch.no_grad():
        original = model.model.embed_tokens.weight[9].clone()
        model.model.embed_tokens.weight[9] = torch.nan
    damaged = engine.submit(Request([[9] * 100], sampling=sampling))
    wait_until(lambda: engine.stats.num_rows == 2 or running.finish_reason is not None)
    damaged.cancel()
    wait_until(lambda: engine.stats.num_rows < 2)
    with torch.no_grad():
        model.model.embed_tokens.weight[9] = original
    assert list(engine.submit(Request([[5, 6]], sampling=sampling))) == expected
    assert running.finish_reason != "error"


def test_nan_in_a_row_does_not_reach_the_next_request():
    model = tiny_model()
    engine = Engine(TransformersRunner(model), COLD)
    sampling = SamplingParams(max_tokens=30)
    expected = list(engine.submit(Request([[5, 6]], sampling=sampling)))
    running = engine.submit(Request([[7, 8]], sampling=SamplingParams(max_tokens=200)))
    next(running)
    with torch.no_grad():
        original = model.model.embed_tokens.weight[9].clone()
        model.model.embed_tokens.weight[9] = torch.nan
    damaged = engine.submit(Request([[9] * 40], sampling=sampling))
    with pytest.raises(ArithmeticError):
        next(damaged)
    with torch.no_grad():
        model.model.embed_tokens.weight[9] = original
    assert list(engine.submit(Request([[5, 6]], sampling=sampling))) == expected
    assert running.finish_reason in (None, "length")


def test_runs_on_a_fake_model():
    assert len(list(Engine(FakeRunner()).submit(Request([[1, 2]], sampling=SamplingParams(max_tokens=3))))) == 3
