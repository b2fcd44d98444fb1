"""On a CUDA device: the same tokens in float32, half precision, cancellation, memory. Run with `pytest -m gpu`."""

import gc
from typing import Any

import pytest
import torch

from langchain_amulet.engine.config import EngineConfig
from langchain_amulet.engine.engine import Engine
from langchain_amulet.engine.params import Request, SamplingParams
from langchain_amulet.engine.runners.batched import TransformersRunner
from langchain_amulet.realignment import RealignmentConfig
from tests.fakes.engines import wait_until
from tests.fakes.models import CONFIGS, VOCAB_SIZE, tiny_model

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]

PAPER = RealignmentConfig.paper()
COLD = EngineConfig(prefix_cache_bytes=0)


def requests(num_requests: int = 8, max_tokens: int = 24, temperature: float = 0.0) -> list[Request]:
    generator = torch.Generator().manual_seed(0)
    ids = [torch.randint(3, VOCAB_SIZE, (2, 5 + i), generator=generator).tolist() for i in range(num_requests)]
    sampling = [SamplingParams(temperature, max_tokens=max_tokens, seed=i) for i in range(num_requests)]
    return [Request(prompts, [1.0], PAPER, each) for prompts, each in zip(ids, sampling, strict=True)]


def engine_of(architecture: str = "llama", dtype: torch.dtype = torch.float32, config: EngineConfig = COLD) -> Engine:
    return Engine(TransformersRunner(tiny_model(architecture, dtype=dtype).to("cuda")), config)


@pytest.mark.parametrize("architecture", CONFIGS)
def test_float32_equals_transformers_cfg(architecture):
    model = tiny_model(architecture, dtype=torch.float32).to("cuda")
    [request] = requests(1)
    base, pref = (torch.tensor([prompt], device="cuda") for prompt in request.prompts)
    w = PAPER.guidance_scale
    limits = {"max_new_tokens": 24, "do_sample": False, "eos_token_id": None}
    expected = model.generate(pref, guidance_scale=w, negative_prompt_ids=base, **limits)[0, pref.shape[1] :].tolist()
    assert list(Engine(TransformersRunner(model)).submit(request)) == expected


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("architecture", CONFIGS)
def test_float32_batched_equals_one_by_one(architecture, temperature):
    each = requests(temperature=temperature)
    engine = engine_of(architecture)
    together = [list(generation) for generation in [engine.submit(request) for request in each]]
    assert together == [list(engine.submit(request)) for request in each]


def test_float32_on_the_gpu_equals_the_cpu():
    cpu = Engine(TransformersRunner(tiny_model(dtype=torch.float32)), COLD)
    gpu = engine_of()
    assert [list(gpu.submit(request)) for request in requests()] == [
        list(cpu.submit(request)) for request in requests()
    ]


@pytest.mark.parametrize("architecture", CONFIGS)
def test_bfloat16_answers(architecture):
    engine = engine_of(architecture, torch.bfloat16, EngineConfig())
    guarded = RealignmentConfig(guidance_scale=3.0, max_kl=0.5)
    sampling = SamplingParams(temperature=0.8, top_p=0.9, top_k=50, repetition_penalty=1.1, max_tokens=16)
    each = [Request(request.prompts, [1.0], guarded, sampling, logprobs=2) for request in requests()]
    for generation in [engine.submit(request) for request in each]:
        assert len(list(generation)) == 16
        assert all(entry.logprob <= 0 for entry in generation.logprobs)


def test_cancelled_requests_free_their_rows():
    engine = engine_of(dtype=torch.bfloat16)
    generations = [engine.submit(request) for request in requests(max_tokens=200)]
    for generation in generations:
        next(generation)
        generation.cancel()
    wait_until(lambda: engine.stats.num_rows == engine.stats.num_running == 0)


def test_memory_is_flat():
    engine = engine_of(dtype=torch.bfloat16, config=EngineConfig(prefix_cache_bytes=2**20))
    runner: Any = engine._scheduler._runner

    def allocated_after_use() -> int:
        for _ in range(10):
            for generation in [engine.submit(request) for request in requests()]:
                list(generation)
        wait_until(lambda: runner._cache.capacity == 0)
        gc.collect()
        return torch.cuda.memory_allocated()

    first = allocated_after_use()
    assert allocated_after_use() <= first + 2**20
