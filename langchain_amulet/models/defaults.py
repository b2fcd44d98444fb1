"""What is chosen where nobody says: device, dtype, and the tokens that end an answer."""

import torch
from transformers import GenerationConfig


def default_device() -> torch.device:
    """Where models go whose place nobody has named: CUDA or MPS if there is one, else the CPU."""
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def default_dtype(device: torch.device) -> torch.dtype:
    """The numbers that models compute with where nobody has named them: bfloat16 where the device does so itself."""
    if device.type == "cpu" and not _cpu_computes_bfloat16():
        return torch.float32
    return torch.bfloat16


def _cpu_computes_bfloat16() -> bool:
    """Elsewhere bfloat16 is emulated, several times slower than float32. torch has no public name for it."""
    names = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(getattr(torch.cpu, name, lambda: False)() for name in names)


def stop_token_ids(config: GenerationConfig | None) -> frozenset[int]:
    """Tokens that end an answer."""
    eos = config.eos_token_id if config else None
    return frozenset([eos] if isinstance(eos, int) else eos or [])
