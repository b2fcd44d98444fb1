"""Replaces the linear layers of a model by ones that suit the device, layer by layer, so that memory stays bounded."""

import logging
from collections import Counter
from collections.abc import Callable
from typing import Literal, TypeAlias, cast

import torch
from torch import nn
from transformers import PreTrainedModel

from langchain_amulet.exceptions import InvalidParameterError, ModelLoadError
from langchain_amulet.models.defaults import default_dtype
from langchain_amulet.models.linear_layers import cpu_operations
from langchain_amulet.models.linear_layers.packed import PackedLinear
from langchain_amulet.models.linear_layers.quantized import (
    Int4Linear,
    Int8Embedding,
    Int8Linear,
    QuantizedWeight,
    fits_int4,
)

logger = logging.getLogger(__name__)

Quantization: TypeAlias = Literal["int8", "int4"]
"""How linear layers store their weights."""

_DTYPES = (torch.float32, torch.bfloat16)
_MAX_TIED_SHARE = 0.28  # of all weights, so that a packed copy of the embeddings keeps memory within 1.3 times


def packed(model: PreTrainedModel, *, pack_weights: bool | None = None) -> PreTrainedModel:
    """Pack the weights of linear layers on the CPU for its matrix kernels; the model is changed in place.

    Layers that other code has changed, such as with adapters or quantisation, keep their weights. So does an output
    layer that shares its weight with the embeddings, if a packed copy would take more than 0.28 of the model's memory.

    Args:
        model: The model.
        pack_weights: Whether to. `None`: where it has been measured to be faster: in bfloat16 on x86 processors that
            compute in it, and in float32 on those of other makers than Intel.
    """
    wanted = is_faster_packed(model) if pack_weights is None else pack_weights
    if not wanted or getattr(model, "_hf_peft_config_loaded", False):
        return model
    if model.dtype not in _DTYPES or not cpu_operations.packs(model.dtype):
        logger.warning("The linear layers cannot be packed in %s here, and run as torch has them.", model.dtype)
        return model
    tied = _tied_weights(model)
    may_copy = sum(weight.nbytes for weight in tied.values()) <= _MAX_TIED_SHARE * model.get_memory_footprint()
    _replace(model, lambda linear: PackedLinear(linear) if may_copy or id(linear.weight) not in tied else None)
    return _finished(model)


def is_faster_packed(model: PreTrainedModel) -> bool:
    """Return whether packed layers have been measured to be faster for the model's dtype on this kind of CPU."""
    if model.device.type != "cpu" or not cpu_operations.is_x86():
        return False
    if model.dtype == torch.bfloat16:
        return default_dtype(model.device) == torch.bfloat16  # the CPU computes in it
    return model.dtype == torch.float32 and not cpu_operations.is_intel()


def quantized(model: PreTrainedModel, quantization: Quantization) -> PreTrainedModel:
    """Quantise the weights of linear layers on the CPU; the model is changed in place.

    In int4, the output layer is quantised to int8, and so are layers whose sizes the int4 kernel does not support. An
    embedding that shares its weight with the output layer shares the quantised one too; others stay as they are.

    Raises:
        InvalidParameterError: The model is not in float32 or bfloat16, or is quantised already.
        ModelLoadError: This CPU or this version of torch has no kernel for it.
    """
    _check_quantizable(model, quantization)
    _quantize_output(model)
    if not _replace(model, _int4_or_int8 if quantization == "int4" else _int8):
        msg = f"{type(model).__name__} has no linear layers that can be quantised. Load it without quantization."
        raise InvalidParameterError(msg)
    return _finished(model)


def _finished(model: PreTrainedModel) -> PreTrainedModel:
    """Freeze a model, and copy what it still has of its file, whose mapping to memory is then freed as a whole."""
    for parameter in model.parameters():
        parameter.data = parameter.data.clone()
    return model.requires_grad_(requires_grad=False)


def _check_quantizable(model: PreTrainedModel, quantization: Quantization) -> None:
    if getattr(model.config, "quantization_config", None) is not None or getattr(
        model, "_hf_peft_config_loaded", False
    ):
        msg = f"The weights of {model.config.name_or_path!r} are quantised already, or have adapters. Load it without "
        msg += "quantization."
        raise InvalidParameterError(msg)
    if model.device.type != "cpu" or model.dtype not in _DTYPES:
        msg = (
            f"quantization={quantization!r} needs a model in float32 or bfloat16, not in {model.dtype} on "
            f'{model.device}. Leave "dtype" out of model_kwargs.'
        )
        raise InvalidParameterError(msg)
    if not cpu_operations.multiplies_int8() or (quantization == "int4" and not cpu_operations.multiplies_int4()):
        msg = (
            f"torch {torch.__version__} has no {quantization} kernel for this CPU. Load the model without "
            f"quantization, or with a quantization_config of transformers."
        )
        raise ModelLoadError(msg)


def _quantize_output(model: PreTrainedModel) -> None:
    """Quantise the output layer to int8, with the embeddings if they have the same weight."""
    output, embedding = model.get_output_embeddings(), model.get_input_embeddings()
    if not _is_plain(output):
        return
    weight = QuantizedWeight(output.weight)
    if type(embedding) is nn.Embedding and embedding.weight is output.weight:
        model.set_input_embeddings(Int8Embedding(weight, output.weight.dtype))
    model.set_output_embeddings(Int8Linear(weight, output.bias))


def _int8(linear: nn.Linear) -> nn.Module:
    return Int8Linear(QuantizedWeight(linear.weight), linear.bias)


def _int4_or_int8(linear: nn.Linear) -> nn.Module:
    return Int4Linear(linear) if fits_int4(linear) else _int8(linear)


def _replace(model: nn.Module, make: Callable[[nn.Linear], nn.Module | None]) -> int:
    """Replace linear layers, unless `make` returns `None`, and return how many were. Each is freed before the next."""
    names = [name for name, module in model.named_modules() if _is_plain(module)]
    made = 0
    for name in names:
        if (replacement := make(cast("nn.Linear", model.get_submodule(name)))) is not None:
            model.set_submodule(name, replacement.eval())
            made += 1
    return made


def _is_plain(module: object) -> bool:
    """Return whether a module is a linear layer on the CPU as torch makes it, without hooks or adapters."""
    return (
        type(module) is nn.Linear
        and type(module.weight.data) is torch.Tensor
        and module.weight.device.type == "cpu"
        and module.weight.dtype in _DTYPES
        and not (module._forward_hooks or module._forward_pre_hooks)  # noqa: SLF001 - no public name
        and not hasattr(module, "_hf_hook")
    )


def _tied_weights(model: nn.Module) -> dict[int, nn.Parameter]:
    """Return the weights that several modules share, by their ids."""
    weights = [weight for _, weight in model.named_parameters(remove_duplicate=False)]
    counts = Counter(map(id, weights))
    return {id(weight): weight for weight in weights if counts[id(weight)] > 1}
