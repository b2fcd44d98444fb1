"""`PackedLinear`: a linear layer whose weight is stored as the CPU's matrix kernels read it fastest."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from langchain_amulet.exceptions import InvalidParameterError
from langchain_amulet.models.linear_layers import cpu_operations


class PackedLinear(nn.Module):
    """A linear layer on the CPU for inference: the same outputs as `nn.Linear` up to rounding.

    The weight is no parameter, so it cannot be trained; gradients of the inputs are right. State dicts and copies are
    those of an `nn.Linear`.

    Args:
        linear: The layer to copy, in float32 or bfloat16. It is not changed.
    """

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.bias = linear.bias
        self._packed = cpu_operations.pack(linear.weight.detach())

    @property
    def weight(self) -> Tensor:
        """A copy of the weight, `(out, in)`, in the usual layout."""
        return self._packed.to_dense()

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the outputs, `(..., out)`, for inputs of `(..., in)`."""
        if inputs.requires_grad and torch.is_grad_enabled():  # the packed operation has no derivative
            return nn.functional.linear(inputs, self.weight, self.bias)
        return cpu_operations.packed_linear(inputs, self._packed, self.bias)

    def extra_repr(self) -> str:
        """Return the sizes, as `nn.Linear` shows them."""
        return f"in_features={self.in_features}, out_features={self.out_features}, bias={self.bias is not None}"

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "PackedLinear":  # noqa: FBT001, FBT002
        moved = fn(torch.empty(0, dtype=self._packed.dtype))
        if moved.dtype != self._packed.dtype or moved.device.type != "cpu":
            msg = (
                f"Packed linear layers stay on the CPU in {self._packed.dtype}, and cannot become {moved.dtype} on "
                f"{moved.device}. Load the model with ChatAmulet(pack_weights=False) to move it."
            )
            raise InvalidParameterError(msg)
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        return self

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:  # noqa: FBT001
        destination[f"{prefix}weight"] = self.weight
        super()._save_to_state_dict(destination, prefix, keep_vars)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        weight = state_dict.pop(f"{prefix}weight", None)
        if weight is not None:
            self._packed = cpu_operations.pack(weight.to(self._packed.dtype))
        super()._load_from_state_dict(state_dict, prefix, *args)

    def __getstate__(self) -> dict[str, Any]:
        """Return the state with the usual weight, because packed ones can be neither copied nor pickled."""
        return {**self.__dict__, "_packed": self.weight}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Pack the weight again."""
        packed = cpu_operations.pack(state["_packed"])
        super().__setstate__({**state, "_packed": packed})  # type: ignore[no-untyped-call]
