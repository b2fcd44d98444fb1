"""A compiled decode step draws the tokens that the eager one draws."""

import pytest
import torch

from langchain_amulet.engine.config import EngineConfig
from langchain_amulet.engine.engine import Engine
from langchain_amulet.engine.params import Request, SamplingParams
from langchain_amulet.engine.runners.batched import TransformersRunner
from langchain_amulet.engine.runners.compiled_layers import CompiledLayers
from langchain_amulet.exceptions import InvalidParameterError
from langchain_amulet.realignment import RealignmentConfig
from tests.fakes.models import CONFIGS, VOCAB_SIZE, tiny_model

GUARDED = RealignmentConfig(guidance_scale=4.0, plausibility=0.2, max_kl=0.3)


def some_ids(number: int, seed: int) -> list[int]:
    return torch.randint(3, VOCAB_SIZE, (number,), generator=torch.Generator().manual_seed(seed)).tolist()


def requests() -> list[Request]:
    """One to three streams, greedy and sampled, longer than the first capacity of the cache."""
    a, b, c = some_ids(30, 1), some_ids(9, 2), some_ids(150, 3)
    sampled = SamplingParams(max_tokens=30, temperature=1.1, top_p=0.9, seed=4)
    return [
        Request([a, a + b], [1.0], GUARDED, SamplingParams(max_tokens=20)),
        Request([c], sampling=SamplingParams(max_tokens=60)),
        Request([a, a + b, b], [0.7, -0.4], GUARDED, sampled),
        Request([b], sampling=SamplingParams(max_tokens=9, temperature=1.0, seed=6)),
    ]


def answers(runner: TransformersRunner) -> list[list[int]]:
    """Together, then one by one."""
    engine = Engine(runner, EngineConfig(prefix_cache_bytes=0))
    together = [list(generation) for generation in [engine.submit(request) for request in requests()]]
    return together + [list(engine.submit(request)) for request in requests()]


@pytest.fixture
def traced(monkeypatch) -> list[object]:
    """The graphs, which run without a compiler."""
    graphs: list[object] = []
    monkeypatch.setattr(CompiledLayers, "_with_inductor", lambda _self, graph: graphs.append(graph) or graph)
    return graphs


@pytest.mark.parametrize("architecture", CONFIGS)
def test_traced_layers_draw_the_same_tokens(architecture, traced, caplog, is_campaign):
    if architecture not in ("llama", "gemma3") and not is_campaign:
        pytest.skip("runs in the campaign")
    model = tiny_model(architecture)
    expected = answers(TransformersRunner(model))
    caplog.clear()
    runner = TransformersRunner(model, "compiled")
    assert runner._compiled is not None, caplog.text
    assert answers(runner) == expected
    assert 1 <= len(traced) <= 2  # layers of one structure share a graph
    assert all("forward" not in vars(module) for module in model.modules())


def test_a_changed_layer_is_traced_anew(traced):
    model = tiny_model()
    model.model.layers[1].self_attn.scaling *= 2  # a number that only this layer has
    expected = answers(TransformersRunner(model))
    assert answers(TransformersRunner(model, "compiled")) == expected
    assert len(traced) == 2


@pytest.mark.usefixtures("traced")
def test_a_failing_graph_leaves_the_step_to_the_eager_layers(caplog):
    model = tiny_model()
    expected, runner = answers(TransformersRunner(model)), TransformersRunner(model, "compiled")
    for key in runner._compiled._graphs:
        runner._compiled._graphs[key] = lambda *_inputs: 1 / 0
    assert answers(runner) == expected
    assert caplog.text.count("Decoding is not compiled but eager: ZeroDivisionError") == 1


def test_a_graph_with_other_logits_is_not_used(monkeypatch, caplog):
    monkeypatch.setattr(
        CompiledLayers, "_with_inductor", lambda _self, graph: lambda *inputs: graph(*inputs).roll(1, -1)
    )
    assert TransformersRunner(tiny_model(), "compiled")._compiled is None
    assert "its logits differ" in caplog.text


@pytest.mark.usefixtures("traced")
def test_a_model_with_adapters_stays_eager(caplog):
    model = tiny_model()
    model._hf_peft_config_loaded = True
    assert TransformersRunner(model, "compiled")._compiled is None
    assert "adapters may be switched" in caplog.text


@pytest.mark.usefixtures("traced")
def test_the_model_answers_other_threads_meanwhile():
    model, ids = tiny_model(), torch.tensor([some_ids(9, 1)])
    compiled = TransformersRunner(model, "compiled")._compiled
    with torch.inference_mode():
        expected = model(ids).logits
        with compiled.replacing():
            torch.testing.assert_close(model(ids).logits, expected, rtol=0, atol=0)


def test_an_unknown_mode_is_refused():
    with pytest.raises(InvalidParameterError, match="mode must be"):
        EngineConfig(mode="fast")


def test_inductor_draws_the_same_tokens_with_few_graphs(is_campaign):
    if not is_campaign:
        pytest.skip("a compiler takes too long")
    model = tiny_model(dtype=torch.float64)
    expected, runner = answers(TransformersRunner(model)), TransformersRunner(model, "compiled")
    assert answers(runner) == expected
    assert 1 <= runner.num_graphs <= 4
