"""Default device and dtype of models, and the tokens that end an answer."""

import torch
from transformers import GenerationConfig


def default_device() -> torch.device:
    """Return the device for models loaded without `device_map`: CUDA or MPS if available, else the CPU."""
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def default_dtype(device: torch.device) -> torch.dtype:
    """Return the dtype for models loaded without `dtype`: bfloat16, but float32 on a CPU that has no bfloat16."""
    if device.type == "cpu" and not _cpu_computes_bfloat16():
        return torch.float32
    return torch.bfloat16


def _cpu_computes_bfloat16() -> bool:
    """Return whether the CPU has bfloat16 instructions; without them, bfloat16 is several times slower than float32."""
    # torch has no public function for this.
    names = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(getattr(torch.cpu, name, lambda: False)() for name in names)


def stop_token_ids(config: GenerationConfig | None) -> frozenset[int]:
    """Return the generation config's `eos_token_id` as a set: the ids of the tokens that end an answer."""
    eos = config.eos_token_id if config else None
    return frozenset([eos] if isinstance(eos, int) else eos or [])
