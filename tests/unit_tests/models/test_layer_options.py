"""`quantization` and `pack_weights` of `ChatAmulet`: what is loaded, and what is refused."""

import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from langchain_amulet import ChatAmulet
from langchain_amulet.chat.identity import identifying_params
from langchain_amulet.exceptions import InvalidParameterError, ModelLoadError
from langchain_amulet.models.linear_layers import options
from langchain_amulet.models.linear_layers.options import LayerOptions
from langchain_amulet.models.linear_layers.packed import PackedLinear
from langchain_amulet.models.linear_layers.quantized import Int8Linear
from langchain_amulet.models.registry import load
from tests.fakes.chat_templates import byte_tokenizer
from tests.fakes.models import tiny_model

CPU, CUDA, MPS = map(torch.device, ("cpu", "cuda", "mps"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "tiny-llama"
    tiny_model(dtype=torch.float32).save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    return folder


def kinds(loaded):
    return {type(module) for module in loaded.model.modules()}


@pytest.mark.default_dtype
def test_quantised_models_answer_and_are_loaded_beside_the_others(folder, capsys):
    plain, int8, int4 = (load(folder, quantization=kind) for kind in (None, "int8", "int4"))
    assert plain is load(folder) is not int8 is not int4
    assert Int8Linear in kinds(int8)
    assert Int8Linear not in kinds(plain)
    assert "0M parameters, int8 and" in capsys.readouterr().err
    llm = ChatAmulet(model=folder, quantization="int4", max_tokens=3, preference="Be brief.")
    assert llm.invoke("Hi").response_metadata["model_name"] == "tiny-llama"
    assert llm.load() is int4


@pytest.mark.default_dtype
def test_packed_engine_answers_as_the_unpacked_one(folder):
    llms = [ChatAmulet(model=folder, pack_weights=packs, max_tokens=8, temperature=0) for packs in (False, True)]
    assert PackedLinear not in kinds(llms[0].load())
    assert PackedLinear in kinds(llms[1].load())
    if llms[0].load().model.dtype == torch.float32:  # near ties in bfloat16 may fall either way
        assert llms[0].invoke("Hi").content == llms[1].invoke("Hi").content


def test_model_that_the_user_loaded_is_packed_only_if_asked():
    model, tokenizer = tiny_model(dtype=torch.float32), byte_tokenizer()
    assert PackedLinear not in kinds(load(model, tokenizer))
    assert PackedLinear in kinds(load(model, tokenizer, pack_weights=True))
    with pytest.raises(InvalidParameterError, match="no effect on a loaded model"):
        load(tiny_model(), tokenizer, quantization="int8")


def test_unknown_quantisation_is_refused_at_once():
    for make in (ChatAmulet, load):
        with pytest.raises(ValueError, match='must be "int8", "int4" or None, got \'int3\''):
            make(quantization="int3")


def test_quantisation_is_part_of_cache_keys_and_of_saved_copies():
    none, int8 = (ChatAmulet(quantization=kind) for kind in (None, "int8"))
    assert identifying_params(dict(int8)) == {**identifying_params(dict(none)), "quantization": "int8"}
    saved: Any = int8.to_json()
    assert int8.model_dump()["quantization"] == saved["kwargs"]["quantization"] == "int8"


def test_two_kinds_of_quantisation_are_refused():
    with pytest.raises(InvalidParameterError, match="only one of them"):
        LayerOptions("int8").settings({"quantization_config": object()}, CPU)


@pytest.mark.parametrize("device_map", [None, "cpu", "auto", {"": "cpu"}])
def test_cpu_quantises_after_loading(device_map):
    given = {"device_map": device_map} if device_map else {}
    assert LayerOptions("int4").settings(given, CPU) == given


def test_device_without_quantised_layers_is_refused():
    with pytest.raises(InvalidParameterError, match="not on mps.*on the CPU"):
        LayerOptions("int8").settings({}, MPS)
    assert LayerOptions().settings({}, MPS) == {}


def test_missing_torchao_names_the_remedy(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(ModelLoadError, match="pip install torchao"):
        LayerOptions("int8").settings({}, CUDA)


@pytest.mark.parametrize(("kind", "expected"), [("int8", {}), ("int4", {"group_size": 32})])
def test_gpu_gets_a_config_of_torchao(kind, expected, monkeypatch):
    fake: Any = ModuleType("torchao.quantization")
    fake.Int8WeightOnlyConfig = lambda **keywords: SimpleNamespace(kind="int8", **keywords)
    fake.Int4WeightOnlyConfig = lambda **keywords: SimpleNamespace(kind="int4", **keywords)
    monkeypatch.setitem(sys.modules, "torchao.quantization", fake)
    monkeypatch.setattr("importlib.util.find_spec", lambda _: object())
    monkeypatch.setattr(options, "TorchAoConfig", lambda quant_type: quant_type)
    settings = LayerOptions(kind).settings({"revision": "main"}, CUDA)
    assert (settings["revision"], settings["device_map"]) == ("main", {"": CUDA})
    assert vars(settings["quantization_config"]).items() >= {"kind": kind, **expected}.items()


def test_weights_of_a_quantised_model_keep_the_answers_of_the_model(folder):
    ids = torch.arange(3, 23).unsqueeze(0)
    with torch.inference_mode():
        expected = AutoModelForCausalLM.from_pretrained(folder)(ids).logits
        actual = load(folder, None, {"dtype": "float32"}, quantization="int8").model(ids).logits
    assert torch.cosine_similarity(actual, expected, dim=-1).min() > 0.99
