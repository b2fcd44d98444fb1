"""The private operations of torch for linear layers on CPUs, each probed on a small matrix before it is used.

torch has no public interface to them: `torch.compile` uses the packed ones, and torchao the quantised ones. torchao
itself is of no use here, since its layers dequantise their weights in each forward unless the model is compiled.
"""

import functools
import platform
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

GROUP_SIZE = 32
"""How many consecutive weights of a row share a scale and a zero point in int4."""

_ERRORS = (AttributeError, NotImplementedError, RuntimeError, TypeError)  # of operations that are missing or changed
_ROWS, _OUT, _IN = 3, 128, 64  # of the probes
_TOLERANCE = 0.02  # of the largest value; bfloat16 rounds to 0.004


def pack(weight: Tensor) -> Tensor:
    """Return a copy of a weight, `(out, in)`, in the layout that oneDNN reads fastest; `to_dense()` reverses it."""
    packed: Tensor = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous())
    return packed


def packed_linear(inputs: Tensor, packed: Tensor, bias: Tensor | None) -> Tensor:
    """Apply a linear layer with a packed weight to `(..., in)`. It has no derivative."""
    outputs: Tensor = torch.ops.mkldnn._linear_pointwise(inputs, packed, bias, "none", [], "")
    return outputs


def int8_linear(inputs: Tensor, weight: Tensor, scales: Tensor) -> Tensor:
    """Multiply `(rows, in)` by the int8 weight `(out, in)` and by the scale of each output, all in bfloat16."""
    outputs: Tensor = torch.ops.aten._weight_int8pack_mm(inputs, weight, scales)
    return outputs


def pack_int4(codes: Tensor) -> Tensor:
    """Return the codes from 0 to 15, `(out, in)`, two in a byte, in the order that the CPU's kernel reads them."""
    packed: Tensor = torch.ops.aten._convert_weight_to_int4pack_for_cpu(codes.to(torch.int32), 1)
    return packed


def int4_linear(inputs: Tensor, packed: Tensor, scales_and_zeros: Tensor) -> Tensor:
    """Multiply `(rows, in)` by an int4 weight, all in bfloat16.

    Args:
        inputs: `(rows, in)`.
        packed: What `pack_int4` returns.
        scales_and_zeros: `(in / GROUP_SIZE, out, 2)`: a code `q` stands for `(q - 8) * scale + zero`.
    """
    outputs: Tensor = torch.ops.aten._weight_int4pack_mm_for_cpu(inputs, packed, GROUP_SIZE, scales_and_zeros)
    return outputs


def unpack_int4(packed: Tensor, in_features: int, block: int) -> Tensor:
    """Return the codes of `pack_int4` in blocks of outputs, `(out / block, in, block)`.

    A byte holds the codes of two outputs of a block: of one in its first half, and of one in its second half.
    """
    blocks = packed.view(-1, in_features, block // 2)
    return torch.cat([blocks & 15, blocks >> 4], dim=-1)


@functools.cache
def int4_block() -> int | None:
    """Return how many outputs the CPU's int4 kernel reads at once, or `None` if its layout is unknown."""
    codes = (torch.arange(_OUT * _IN).view(_OUT, _IN) * 7 // 3) % 16
    try:
        packed = pack_int4(codes)
    except _ERRORS:
        return None
    for block in (64, 32, 16):
        unpacked = unpack_int4(packed, _IN, block).transpose(1, 2).reshape(_OUT, _IN)
        if torch.equal(unpacked.long(), codes):
            return block
    return None


@functools.cache
def packs(dtype: torch.dtype) -> bool:
    """Return whether packed weights of a dtype give what torch's own linear layer gives."""
    weight, inputs = _probe_weight().to(dtype), _probe_inputs().to(dtype)
    return _agrees(lambda: packed_linear(inputs, pack(weight), None), inputs @ weight.T)


@functools.cache
def multiplies_int8() -> bool:
    """Return whether int8 weights can be multiplied with bfloat16."""
    weight, inputs = (_probe_weight() * 100).round().to(torch.int8), _probe_inputs().bfloat16()
    scales = torch.full((_OUT,), 0.01, dtype=torch.bfloat16)
    return _agrees(lambda: int8_linear(inputs, weight, scales), inputs.float() @ weight.T.float() * 0.01)


@functools.cache
def multiplies_int4() -> bool:
    """Return whether int4 weights can be multiplied with bfloat16, and the order of their codes is known."""
    codes, inputs = ((_probe_weight() + 1) * 7).round().int(), _probe_inputs().bfloat16()
    scales_and_zeros = torch.tensor([0.125, 0.0625]).expand(_IN // GROUP_SIZE, _OUT, 2).contiguous().bfloat16()
    expected = inputs.float() @ ((codes - 8) * 0.125 + 0.0625).T
    agrees = _agrees(lambda: int4_linear(inputs, pack_int4(codes), scales_and_zeros), expected)
    return agrees and int4_block() is not None


def _agrees(compute: Callable[[], Tensor], expected: Tensor) -> bool:
    try:
        actual = compute().float()
    except _ERRORS:
        return False
    return bool((actual - expected.float()).abs().max() <= _TOLERANCE * expected.abs().max())  # false for NaN


def _probe_weight() -> Tensor:
    return torch.sin(torch.arange(_OUT * _IN, dtype=torch.float32)).view(_OUT, _IN)


def _probe_inputs() -> Tensor:
    return torch.cos(torch.arange(_ROWS * _IN, dtype=torch.float32)).view(_ROWS, _IN)


@functools.cache
def is_x86() -> bool:
    """Return whether the processor is of the x86 family, where the packed layers have been measured."""
    return platform.machine().lower() in ("x86_64", "amd64")


@functools.cache
def is_intel() -> bool:
    """Return whether the processor is made by Intel, where torch's own float32 layers are as fast as packed ones."""
    try:
        return "GenuineIntel" in Path("/proc/cpuinfo").read_text()
    except OSError:  # not Linux
        return "GenuineIntel" in platform.processor()
