"""`LayerOptions`: how linear layers are stored, which is up to our own layers on CPUs and to torchao on GPUs."""

import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, get_args

import torch
from transformers import PreTrainedModel, TorchAoConfig

from langchain_amulet.exceptions import InvalidParameterError, ModelLoadError
from langchain_amulet.models.linear_layers.preparation import Quantization, packed, quantized


def check_quantization(quantization: Any) -> Any:
    """Return the argument if it is a kind of quantisation or `None`.

    Raises:
        InvalidParameterError: It is not.
    """
    if quantization is not None and quantization not in get_args(Quantization):
        msg = (
            f'quantization must be "int8", "int4" or None, got {quantization!r}. For other kinds, pass '
            f'model_kwargs={{"quantization_config": ...}}, as in transformers.'
        )
        raise InvalidParameterError(msg)
    return quantization


@dataclass(frozen=True, slots=True)
class LayerOptions:
    """How the linear layers of a model are stored."""

    quantization: Quantization | None = None
    """The type of their weights; `None` is the dtype of the model."""
    pack_weights: bool | None = None
    """Whether they are packed on CPUs; `None`: where it is faster."""

    def settings(self, model_kwargs: Mapping[str, Any], device: torch.device) -> dict[str, Any]:
        """Return the arguments of `from_pretrained`, with a config for torchao if a GPU shall quantise the weights.

        Args:
            model_kwargs: The arguments of the user.
            device: The device of models without `device_map`.

        Raises:
            InvalidParameterError: There is a `quantization_config` too, or the device has no quantised layers.
            ModelLoadError: torchao is not installed.
        """
        settings = dict(model_kwargs)
        if self.quantization is None:
            return settings
        if settings.get("quantization_config") is not None:
            msg = (
                f"Got quantization={self.quantization!r} and a quantization_config in model_kwargs, but only one "
                f"of them is allowed. Leave one out."
            )
            raise InvalidParameterError(msg)
        device_map = settings.get("device_map")
        if _is_cpu(device_map, device):
            return settings
        if device_map is None and device.type != "cuda":
            msg = (
                f"quantization={self.quantization!r} works on CPUs and on CUDA devices, not on {device.type}. Load the "
                f'model without it, or on the CPU: model_kwargs={{"device_map": "cpu"}}.'
            )
            raise InvalidParameterError(msg)
        placed = {"device_map": device_map or {"": device}}
        return {**settings, **placed, "quantization_config": _torchao_config(self.quantization)}

    def applied(self, model: PreTrainedModel) -> PreTrainedModel:
        """Quantise or pack the layers of a model that was loaded with `settings`, in place.

        Raises:
            InvalidParameterError: Its weights cannot be quantised.
            ModelLoadError: The CPU has no kernel for such weights.
        """
        if model.device.type != "cpu":  # torchao has quantised it
            return model
        if self.quantization is None:
            return packed(model, pack_weights=self.pack_weights)
        return quantized(model, self.quantization)

    def applied_to_loaded(self, model: PreTrainedModel) -> PreTrainedModel:
        """Pack the layers of a model that the user has loaded, in place, if they ask for it.

        Raises:
            InvalidParameterError: It shall be quantised.
        """
        if self.quantization is not None:
            msg = (
                f"quantization={self.quantization!r} has no effect on a loaded model. Pass the name of the model "
                f"instead, or a quantization_config to its from_pretrained()."
            )
            raise InvalidParameterError(msg)
        return packed(model, pack_weights=True) if self.pack_weights and model.device.type == "cpu" else model


def _is_cpu(device_map: Any, device: torch.device) -> bool:
    """Return whether a model with this `device_map` is loaded to the CPU."""
    if device_map is None:
        return device.type == "cpu"
    devices = set(map(str, device_map.values())) if isinstance(device_map, Mapping) else {str(device_map)}
    return devices == {"cpu"} or (devices == {"auto"} and device.type == "cpu")


def _torchao_config(quantization: Quantization) -> TorchAoConfig:
    """Return the config with which transformers quantises a model by torchao.

    Raises:
        ModelLoadError: torchao is not installed.
    """
    if importlib.util.find_spec("torchao") is None:
        msg = f"quantization={quantization!r} on a GPU needs torchao: pip install torchao."
        raise ModelLoadError(msg)
    from torchao.quantization import Int4WeightOnlyConfig, Int8WeightOnlyConfig  # not always installed

    if quantization == "int8":
        return TorchAoConfig(Int8WeightOnlyConfig())
    # This format is read by a kernel of torch itself; others need more packages.
    return TorchAoConfig(Int4WeightOnlyConfig(group_size=32, int4_packing_format="tile_packed_to_4d"))
