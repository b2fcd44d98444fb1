"""Packed and quantised linear layers, against those of torch."""

import copy
import pickle
import weakref

import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM, LlamaConfig

from langchain_amulet.exceptions import InvalidParameterError, ModelLoadError
from langchain_amulet.models.linear_layers import cpu_operations, preparation
from langchain_amulet.models.linear_layers.packed import PackedLinear
from langchain_amulet.models.linear_layers.preparation import packed, quantized
from langchain_amulet.models.linear_layers.quantized import (
    Int4Linear,
    Int8Embedding,
    Int8Linear,
    QuantizedWeight,
    to_int4,
)

DTYPES = [torch.float32, torch.bfloat16]
EXPECTED = pytest.mark.skipif(not cpu_operations.is_x86(), reason="the operations are expected on x86 processors")
IDS = torch.arange(40).view(2, 20)

pytestmark = EXPECTED


def small_model(dtype=torch.float32, *, tied=False, vocab_size=320):
    sizes = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = LlamaConfig(vocab_size=vocab_size, initializer_range=0.1, tie_word_embeddings=tied, **sizes)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return AutoModelForCausalLM.from_config(config).to(dtype).eval()


def linear(dtype=torch.float32, *, bias=True):
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return nn.Linear(64, 128, bias=bias).to(dtype)


def similarity(first, second):
    return torch.cosine_similarity(first.double(), second.double(), dim=-1).min().item()


@torch.inference_mode()
def logits(model, ids=IDS):
    return model(ids).logits


# The private operations of torch


@pytest.mark.parametrize("dtype", DTYPES)
def test_torch_has_the_operations_for_packed_weights(dtype):
    assert cpu_operations.packs(dtype)


def test_torch_has_the_operations_for_quantised_weights():
    assert cpu_operations.multiplies_int8()
    assert cpu_operations.multiplies_int4()


def test_missing_operation_or_wrong_result_counts_as_none(monkeypatch):
    for broken in (lambda weight: weight.no_such_name, lambda weight: weight[:, 1:], lambda weight: weight + 1):
        monkeypatch.setattr(cpu_operations, "pack", broken)
        assert not cpu_operations.packs.__wrapped__(torch.float32)


def test_codes_of_int4_come_back_from_their_packed_form():
    block = cpu_operations.int4_block()
    codes = torch.arange(128 * 64).view(128, 64).remainder(13)
    unpacked = cpu_operations.unpack_int4(cpu_operations.pack_int4(codes), 64, block)
    assert torch.equal(unpacked.transpose(1, 2).reshape(128, 64).long(), codes)


# Packed layers


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rows", [0, 1, 2, 8, 33])
@pytest.mark.parametrize("bias", [False, True])
def test_packed_layer_gives_what_the_layer_gives(dtype, rows, bias):
    layer, inputs = linear(dtype, bias=bias), torch.randn(rows, 64).to(dtype)
    with torch.inference_mode():
        expected, actual = layer(inputs), PackedLinear(layer)(inputs.unsqueeze(0))[0]
    torch.testing.assert_close(actual, expected, atol=1e-2 if dtype == torch.bfloat16 else 1e-5, rtol=1e-2)


def test_weights_copies_and_state_dicts_of_packed_layers_are_those_of_the_layer():
    layer = linear()
    packed_layer = PackedLinear(layer)
    for each in (packed_layer, copy.deepcopy(packed_layer), pickle.loads(pickle.dumps(packed_layer))):  # noqa: S301
        assert torch.equal(each.weight, layer.weight)
        assert str(each).removeprefix("Packed") == str(layer)
        assert each.state_dict().keys() == layer.state_dict().keys()
    layer.weight.data.mul_(2)
    packed_layer.load_state_dict(layer.state_dict())
    assert torch.equal(packed_layer.weight, layer.weight)


def test_gradients_pass_through_packed_and_quantised_layers():
    layer, inputs = linear(), torch.randn(2, 64, requires_grad=True)
    expected = torch.autograd.grad(layer(inputs).sum(), inputs)[0]
    for each in (PackedLinear(layer), Int8Linear(QuantizedWeight(layer.weight), layer.bias), Int4Linear(layer)):
        gradient = torch.autograd.grad(each(inputs).sum(), inputs)[0]
        assert similarity(gradient, expected) > 0.98


@pytest.mark.parametrize("moved", [{"dtype": torch.float64}, {"device": "meta"}])
def test_packed_layer_cannot_leave_the_cpu_or_its_dtype(moved):
    with pytest.raises(InvalidParameterError, match="pack_weights=False"):
        PackedLinear(linear()).to(**moved)


def test_packed_layer_may_stay_where_it_is():
    assert PackedLinear(linear()).to("cpu", torch.float32).weight.dtype == torch.float32


# Packed models


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("tied", [False, True])
def test_packed_model_gives_what_the_model_gives(dtype, tied):
    expected = logits(small_model(dtype, tied=tied))
    model = packed(small_model(dtype, tied=tied), pack_weights=True)
    assert similarity(logits(model), expected) > (0.9999 if dtype == torch.bfloat16 else 0.999999)
    assert type(model.lm_head) is PackedLinear
    assert (model.dtype, model.device.type) == (dtype, "cpu")


def test_output_layer_that_shares_a_large_embedding_is_not_copied():
    model = packed(small_model(tied=True, vocab_size=3000), pack_weights=True)
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert type(model.model.layers[0].mlp.up_proj) is PackedLinear


def test_layers_with_hooks_or_of_another_kind_are_left_alone():
    model = small_model()
    attention = model.model.layers[0].self_attn
    attention.q_proj.register_forward_hook(lambda *_: None)
    attention.k_proj = type("Adapted", (nn.Linear,), {})(64, 64)
    packed(model, pack_weights=True)
    assert type(attention.q_proj) is nn.Linear
    assert type(attention.k_proj).__name__ == "Adapted"
    assert type(attention.v_proj) is PackedLinear


def test_model_with_adapters_is_left_alone():
    model = small_model()
    model._hf_peft_config_loaded = True
    assert not any(isinstance(module, PackedLinear) for module in packed(model, pack_weights=True).modules())


def test_each_original_weight_is_freed_before_the_next_is_packed(monkeypatch):
    model, alive = small_model(), []
    originals = [weakref.ref(module.weight) for module in model.modules() if type(module) is nn.Linear]

    def counting(layer):
        alive.append(sum(weight() is not None for weight in originals))
        return PackedLinear(layer)

    monkeypatch.setattr(preparation, "PackedLinear", counting)
    packed(model, pack_weights=True)
    assert alive == list(range(len(originals), 0, -1))


@pytest.mark.parametrize(("intel", "dtype", "expected"), [(True, torch.float32, False), (False, torch.float32, True)])
def test_float32_is_packed_where_torch_is_slow(intel, dtype, expected, monkeypatch):
    monkeypatch.setattr(cpu_operations, "is_intel", lambda: intel)
    assert preparation.is_faster_packed(small_model(dtype)) is expected


@pytest.mark.parametrize("computes", [False, True])
def test_bfloat16_is_packed_where_the_cpu_computes_in_it(computes, monkeypatch):
    monkeypatch.setattr(preparation, "default_dtype", lambda _: torch.bfloat16 if computes else torch.float32)
    assert preparation.is_faster_packed(small_model(torch.bfloat16)) is computes


def test_missing_operations_leave_the_model_as_it_is_with_one_line(monkeypatch, caplog):
    monkeypatch.setattr(cpu_operations, "packs", lambda _: False)
    assert type(packed(small_model(), pack_weights=True).lm_head) is nn.Linear
    assert [record.message for record in caplog.records] == [
        "The linear layers cannot be packed in torch.float32 here, and run as torch has them."
    ]


# Quantised layers and models


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("make", [lambda layer: Int8Linear(QuantizedWeight(layer.weight), layer.bias), Int4Linear])
def test_few_and_many_rows_of_quantised_layers_agree_with_the_quantised_weight(make, dtype):
    layer, inputs = linear(dtype), torch.randn(2, 50, 64).to(dtype)
    with torch.inference_mode():
        quantised, expected = make(layer), layer(inputs)
        many, few = quantised(inputs), torch.cat([quantised(inputs[:, i : i + 5]) for i in range(0, 50, 5)], dim=1)
    assert similarity(many, few) > 0.9999
    assert similarity(many, expected) > (0.999 if type(quantised) is Int8Linear else 0.98)
    assert many.dtype == dtype


def test_quantisation_is_exact_for_weights_that_have_its_levels():
    layer = linear(bias=False)
    layer.weight.data = torch.randint(0, 16, (128, 64)) * 0.125 - 1
    layer.weight.data[:, ::32], layer.weight.data[:, 1::32] = -1, 0.875  # the ends of each group
    codes, scales_and_zeros = to_int4(layer.weight)
    scales, zeros = scales_and_zeros.float().repeat_interleave(32, dim=0).transpose(0, 1).unbind(-1)
    assert torch.equal((codes - 8.0) * scales + zeros, layer.weight)
    assert torch.allclose(Int4Linear(layer)._dequantised(torch.float32).transpose(1, 2).reshape(128, 64), layer.weight)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("kind", "least"), [("int8", 0.998), ("int4", 0.9)])
@pytest.mark.parametrize("tied", [False, True])
def test_quantised_model_is_close_to_the_model(dtype, kind, least, tied):
    expected = logits(small_model(dtype, tied=tied))
    model = quantized(small_model(dtype, tied=tied), kind)
    assert similarity(logits(model), expected) > least
    assert not any(type(module) is nn.Linear for module in model.modules())
    assert (model.dtype, model.device.type) == (dtype, "cpu")


def test_tied_embedding_and_output_layer_share_one_quantised_matrix():
    model = quantized(small_model(tied=True), "int4")
    assert type(model.lm_head) is Int8Linear
    assert type(model.model.embed_tokens) is Int8Embedding
    assert model.lm_head.quantized is model.model.embed_tokens.quantized


def test_layers_that_the_int4_kernel_cannot_read_become_int8():
    model = small_model()
    attention = model.model.layers[0].self_attn
    attention.q_proj, attention.v_proj = nn.Linear(64, 72), nn.Linear(40, 64)
    quantized(model, "int4")
    kinds = [type(layer) for layer in (attention.q_proj, attention.k_proj, attention.v_proj)]
    assert kinds == [Int8Linear, Int4Linear, Int8Linear]


@pytest.mark.parametrize(("dtype", "setting"), [(torch.float64, None), (torch.float32, {"quant_method": "gptq"})])
def test_models_that_cannot_be_quantised_are_refused(dtype, setting):
    model = small_model(dtype)
    if setting:
        model.config.quantization_config = setting
    with pytest.raises(InvalidParameterError, match="float32 or bfloat16|quantised already"):
        quantized(model, "int8")


def test_missing_kernel_of_quantised_weights_is_a_load_error(monkeypatch):
    monkeypatch.setattr(cpu_operations, "multiplies_int4", lambda: False)
    with pytest.raises(ModelLoadError, match="no int4 kernel for this CPU"):
        quantized(small_model(), "int4")
