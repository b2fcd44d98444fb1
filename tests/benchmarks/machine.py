"""The machine that a benchmark runs on: kind of CPU, threads, and how fast it reads memory."""

import os
import platform
from dataclasses import dataclass
from pathlib import Path

import torch
import transformers
from torch import nn
from transformers import PreTrainedModel

from langchain_amulet.models.defaults import default_device, default_dtype
from tests.benchmarks.timing import milliseconds

FLAGS = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "avx512_fp16", "amx_bf16", "amx_int8")
ARM_FLAGS = ("asimd", "asimddp", "i8mm", "bf16", "sve", "sve2")
MAX_BUFFER_BYTES = 2**30
"""The longest buffer that is read: longer than what the caches of most CPUs hold."""
_CPUINFO = Path("/proc/cpuinfo")
_WIDTH = 1024
_NUM_READS = 3


@dataclass(frozen=True, slots=True)
class Machine:
    """What the figures of a run depend on."""

    processor: str
    flags: list[str]
    """Those instructions for inference that the CPU has, as Linux names them."""
    num_cores: int
    threads: int
    device: str
    """Where models are loaded: the CPU, or the name of a GPU."""
    default_dtype: str
    """In which `ChatAmulet` loads models here. On a CPU, bfloat16 if the CPU computes in it."""
    read_gb_per_s: float
    """How fast the device reads a long buffer, in 10⁹ bytes per second; the best of several readings."""
    load: float | None
    """Processes that ran or waited at the start of the run. Above 0.5, others share the CPU."""
    python: str
    torch: str
    transformers: str

    def describe(self) -> str:
        """Return a line that belongs above every table of the run."""
        flags = ", ".join(self.flags) or "none of the instructions that matter here"
        busy = "" if self.load is None else f"; load {self.load:.1f} before the run"
        return (
            f"{self.processor} ({flags}), {self.num_cores} cores, {self.threads} threads{busy}. Device: {self.device}, "
            f"which reads {self.read_gb_per_s:.1f} GB/s; default dtype: {self.default_dtype}. "
            f"Python {self.python}, torch {self.torch}, transformers {self.transformers}."
        )


class Buffer:
    """Memory that is read from end to end, as a decode step reads weights.

    Args:
        num_bytes: How much is read. Above `MAX_BUFFER_BYTES`, the time of a buffer of that length is scaled.
        device: Where it is.
    """

    def __init__(self, num_bytes: int, device: torch.device) -> None:
        row_bytes = 4 * _WIDTH
        num_rows = max(1, min(num_bytes, MAX_BUFFER_BYTES) // row_bytes)
        self._matrix = torch.ones(num_rows, _WIDTH, device=device)
        self._vector = torch.ones(_WIDTH, device=device)
        self._scale = num_bytes / (num_rows * row_bytes)
        self.num_bytes = num_bytes

    def read_ms(self) -> float:
        """Return the milliseconds of one reading: the best of three matrix-vector products and three sums."""
        ways = (lambda: self._matrix.mv(self._vector), self._matrix.sum)
        return self._scale * min(milliseconds(way) for _ in range(_NUM_READS) for way in ways)


def read_gb_per_s(device: torch.device) -> float:
    """Measure how fast a device reads a long buffer, in 10⁹ bytes per second."""
    buffer = Buffer(MAX_BUFFER_BYTES, device)
    return buffer.num_bytes / min(buffer.read_ms(), buffer.read_ms()) / 1e6


def this_machine() -> Machine:
    """Describe this machine; measures its bandwidth, which takes a second or two."""
    device = default_device()
    processor, flags = processor_of(_CPUINFO.read_text(encoding="utf-8") if _CPUINFO.exists() else "")
    return Machine(
        processor=processor,
        flags=flags,
        num_cores=os.cpu_count() or 1,
        threads=torch.get_num_threads(),
        device=torch.cuda.get_device_name() if device.type == "cuda" else device.type,
        default_dtype=str(default_dtype(device)).removeprefix("torch."),
        load=os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        read_gb_per_s=read_gb_per_s(device),
        python=platform.python_version(),
        torch=torch.__version__,
        transformers=transformers.__version__,
    )


def processor_of(cpuinfo: str) -> tuple[str, list[str]]:
    """Return the name of the CPU and its instructions for inference, from the text of Linux's `/proc/cpuinfo`."""
    pairs = (line.partition(":") for line in cpuinfo.splitlines())
    fields = {name.strip().lower(): value.strip() for name, _, value in pairs if value.strip()}
    present = f"{fields.get('flags', '')} {fields.get('features', '')}".split()
    family = {name: fields[name] for name in ("cpu family", "model", "stepping") if name in fields}
    details = " ".join(f"{name.removeprefix('cpu ')} {value}" for name, value in family.items())
    name = fields.get("model name") or platform.processor() or platform.machine()
    capability = torch.backends.cpu.get_cpu_capability()
    known = [flag for flag in (*FLAGS, *ARM_FLAGS) if flag in present]
    return (f"{name}, {details}" if details else name), known or ([] if present else [capability])


def weight_bytes(model: PreTrainedModel) -> int:
    """Return the bytes of weights that the model reads for a token.

    Counts all parameters, buffers and packed weights once. An embedding counts only if it is also the matrix of the
    output, since a token reads one row of it otherwise.
    """
    table = getattr(model.get_input_embeddings(), "weight", None)
    is_tied = getattr(model.get_output_embeddings(), "weight", None) is table
    tensors = {id(tensor): tensor for module in model.modules() for tensor in _tensors_of(module)}
    if table is not None and not is_tied:
        tensors.pop(id(table), None)
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())


def _tensors_of(module: nn.Module) -> list[torch.Tensor]:
    """Return the tensors of a module itself: registered ones, and packed weights in plain attributes."""
    held = [*module._parameters.values(), *module._buffers.values(), *vars(module).values()]
    return [value for value in held if isinstance(value, torch.Tensor)]
