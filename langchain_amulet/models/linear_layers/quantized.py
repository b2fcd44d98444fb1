"""Linear layers and embeddings with int8 or int4 weights on the CPU."""

import torch
from torch import Tensor, nn

from langchain_amulet.models.linear_layers import cpu_operations
from langchain_amulet.models.linear_layers.cpu_operations import GROUP_SIZE

# With more rows than this, it takes less time to convert the weight and multiply as usual.
_INT8_KERNEL_ROWS = 12
_INT4_KERNEL_ROWS = 48

_SLICE_ROWS = 4096  # of a weight that is quantised at once, so that little memory is needed


class QuantizedWeight(nn.Module):
    """An int8 matrix, `(out, in)`, with a bfloat16 scale for each row. A linear layer and an embedding may share it.

    Args:
        weight: The matrix to quantise, symmetrically and to the nearest, in any floating dtype.
    """

    codes: Tensor
    scales: Tensor

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        slices = torch.split(weight.detach(), _SLICE_ROWS)
        codes, scales = zip(*map(_to_int8, slices), strict=True)
        self.register_buffer("codes", torch.cat(codes))
        self.register_buffer("scales", torch.cat(scales))


class Int8Linear(nn.Module):
    """A linear layer with int8 weights. Few rows are multiplied in bfloat16, more in the dtype of the inputs.

    Args:
        weight: The quantised weight.
        bias: The bias of the layer.
    """

    def __init__(self, weight: QuantizedWeight, bias: Tensor | None) -> None:
        super().__init__()
        self.quantized, self.bias = weight, bias
        self.out_features, self.in_features = weight.codes.shape

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the outputs, `(..., out)`, for inputs of `(..., in)`."""
        codes, scales = self.quantized.codes, self.quantized.scales
        rows = inputs.reshape(-1, self.in_features)
        if len(rows) <= _INT8_KERNEL_ROWS and not _needs_grad(rows):
            outputs = cpu_operations.int8_linear(rows.bfloat16(), codes, scales.bfloat16()).to(inputs.dtype)
        else:
            outputs = nn.functional.linear(rows, codes.to(inputs.dtype)) * scales.to(inputs.dtype)
        return _shaped(outputs, inputs, self.bias)

    def extra_repr(self) -> str:
        """Return the sizes, as `nn.Linear` shows them."""
        return f"in_features={self.in_features}, out_features={self.out_features}, bias={self.bias is not None}"


class Int8Embedding(nn.Module):
    """An embedding with an int8 matrix, which may be that of the output layer.

    Args:
        weight: The quantised matrix, one row per token.
        dtype: The dtype of the embeddings.
    """

    def __init__(self, weight: QuantizedWeight, dtype: torch.dtype) -> None:
        super().__init__()
        self.quantized, self._dtype = weight, dtype
        self.num_embeddings, self.embedding_dim = weight.codes.shape

    def forward(self, input_ids: Tensor) -> Tensor:
        """Return the embeddings of token ids."""
        scales = self.quantized.scales[input_ids].unsqueeze(-1)
        return self.quantized.codes[input_ids].to(self._dtype) * scales.to(self._dtype)


class Int4Linear(nn.Module):
    """A linear layer with int4 weights in groups of 32. Few rows are multiplied in bfloat16, more in the inputs' dtype.

    Args:
        linear: The layer to quantise; `fits_int4` says which ones can be.
    """

    packed: Tensor
    scales_and_zeros: Tensor

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.in_features, self.out_features, self.bias = linear.in_features, linear.out_features, linear.bias
        codes, scales_and_zeros = to_int4(linear.weight.detach())
        self.register_buffer("packed", cpu_operations.pack_int4(codes))
        self.register_buffer("scales_and_zeros", scales_and_zeros)

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the outputs, `(..., out)`, for inputs of `(..., in)`."""
        rows = inputs.reshape(-1, self.in_features)
        if len(rows) <= _INT4_KERNEL_ROWS and not _needs_grad(rows):
            outputs = cpu_operations.int4_linear(rows.bfloat16(), self.packed, self.scales_and_zeros.bfloat16())
            outputs = outputs.to(inputs.dtype)
        else:
            outputs = (
                torch.matmul(rows, self._dequantised(inputs.dtype))
                .transpose(0, 1)
                .reshape(len(rows), self.out_features)
            )
        return _shaped(outputs, inputs, self.bias)

    def extra_repr(self) -> str:
        """Return the sizes, as `nn.Linear` shows them."""
        return f"in_features={self.in_features}, out_features={self.out_features}, bias={self.bias is not None}"

    def _dequantised(self, dtype: torch.dtype) -> Tensor:
        """Return the weight in blocks of outputs, `(out / block, in, block)`, the order in which it is stored."""
        block = cpu_operations.int4_block() or self.out_features
        codes = cpu_operations.unpack_int4(self.packed, self.in_features, block).to(dtype)
        groups = self.in_features // GROUP_SIZE
        scales, zeros = self.scales_and_zeros.to(dtype).view(groups, -1, block, 2).permute(3, 1, 0, 2).contiguous()
        codes = codes.view(-1, groups, GROUP_SIZE, block)
        weight = torch.addcmul((zeros - 8 * scales).unsqueeze(2), codes, scales.unsqueeze(2))
        return weight.view(-1, self.in_features, block)


def fits_int4(linear: nn.Linear) -> bool:
    """Return whether the sizes of a layer are multiples of what the int4 kernel reads at once."""
    block = cpu_operations.int4_block()
    return block is not None and linear.in_features % GROUP_SIZE == 0 and linear.out_features % block == 0


def to_int4(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Quantise a weight, `(out, in)`, to the nearest of 16 levels between the least and the greatest of each group.

    Returns:
        The codes from 0 to 15, `(out, in)` in uint8; and scales and zeros in bfloat16, `(in / GROUP_SIZE, out, 2)`: a
        code `q` stands for `(q - 8) * scale + zero`.
    """
    groups = weight.float().view(len(weight), -1, GROUP_SIZE)  # (out, groups, GROUP_SIZE)
    least, greatest = groups.aminmax(dim=-1, keepdim=True)
    scales = ((greatest - least) / 15).clamp_min(1e-8).bfloat16().float()
    zeros = (least + 8 * scales).bfloat16().float()  # rounded first, so that the codes make up for it
    codes = ((groups - zeros) / scales + 8).round_().clamp_(0, 15).to(torch.uint8)
    scales_and_zeros = torch.cat([scales, zeros], dim=-1).transpose(0, 1).contiguous().bfloat16()
    return codes.flatten(1), scales_and_zeros


def _to_int8(weight: Tensor) -> tuple[Tensor, Tensor]:
    weight = weight.float()
    scales = (weight.abs().amax(dim=1) / 127).clamp_min(1e-8).bfloat16()
    codes = (weight / scales.float().unsqueeze(1)).round_().clamp_(-127, 127).to(torch.int8)
    return codes, scales


def _needs_grad(inputs: Tensor) -> bool:
    return inputs.requires_grad and torch.is_grad_enabled()  # the kernels have no derivative


def _shaped(outputs: Tensor, inputs: Tensor, bias: Tensor | None) -> Tensor:
    outputs = outputs if bias is None else outputs + bias
    return outputs.view(*inputs.shape[:-1], outputs.shape[-1])
