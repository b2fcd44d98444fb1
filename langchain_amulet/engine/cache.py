"""A key-value cache whose rows have lengths of their own.

Rows are never padded: a token is written at its own position in its row, and an explicit mask tells attention which
positions a row has reached. Forgetting tokens is lowering a length.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin

_FIRST_CAPACITY = 512


@dataclass(slots=True)
class _Placement:
    """Where the forward that is under way writes, and how far it reads."""

    rows: slice
    positions: Tensor  # (B, 1, S, 1), the position of each new token in its row
    span: int  # positions 0 .. span - 1 are read


class _RowLayer(CacheLayerMixin):
    """Keys and values of one attention layer, `(rows, H, capacity, D)`."""

    is_sliding = False  # windows are the mask's business; here every position is kept

    def __init__(self, num_rows: int, capacity: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.num_rows = num_rows
        self.capacity = capacity
        self.placement: _Placement | None = None

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        self.keys, self.values = (
            # Zeros, not garbage: a masked position still enters the arithmetic, where 0 * NaN would be NaN.
            states.new_zeros(self.num_rows, states.shape[1], self.capacity, states.shape[3])
            for states in (key_states, value_states)
        )
        self.is_initialized = True

    def update(
        self,
        key_states: Tensor,  # (B, H, S, D)
        value_states: Tensor,  # (B, H, S, D)
        *_args: Any,
        **_kwargs: Any,
    ) -> tuple[Tensor, Tensor]:
        """Write the new tokens, and return views of all that the rows under way may attend to."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        assert self.placement is not None, "RowCache.place() comes before the forward"
        rows, span = self.placement.rows, self.placement.span
        positions = self.placement.positions.to(key_states.device)  # a layer may lie on another device than the input
        keys, values = (states[rows] for states in self._states())
        keys.scatter_(2, positions.expand(key_states.shape), key_states)
        values.scatter_(2, positions.expand(value_states.shape), value_states)
        return keys[:, :, :span], values[:, :, :span]

    def copy_prefix(self, num_tokens: int) -> None:
        for states in self._states():
            states[1:, :, :num_tokens] = states[:1, :, :num_tokens]

    def grow(self, capacity: int) -> None:
        """Make room for `capacity` tokens per row, keeping what is there."""
        if self.is_initialized:
            more = capacity - self.capacity
            self.keys, self.values = (torch.nn.functional.pad(states, (0, 0, 0, more)) for states in self._states())
        self.capacity = capacity

    def _states(self) -> tuple[Tensor, Tensor]:
        assert self.keys is not None, "lazy_initialization() has run"
        assert self.values is not None, "lazy_initialization() has run"
        return self.keys, self.values

    def get_seq_length(self) -> int:
        return self.placement.span if self.placement else 0

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:  # noqa: ARG002 - transformers' signature
        return self.get_seq_length(), 0

    def get_max_length(self) -> int:
        return -1


class RowCache(Cache):
    """Rows of keys and values, each with its own length; transformers' models write into it.

    Args:
        num_layers: L, the attention layers of the model.
        num_rows: Rows to hold.
        max_length: The most tokens that a row will come to hold. Room for them is made by doubling.
    """

    def __init__(self, num_layers: int, num_rows: int, max_length: int) -> None:
        self.max_length = max_length
        self.capacity = min(_FIRST_CAPACITY, max_length)
        self._row_layers = [_RowLayer(num_rows, self.capacity) for _ in range(num_layers)]
        super().__init__(layers=[*self._row_layers])
        self.span = 0
        """Positions that the forward under way reads."""
        self.lengths = [0] * num_rows
        """Tokens in each row. Lowering a length forgets the tokens beyond it."""

    def place(self, rows: slice, num_tokens: Sequence[int], device: torch.device) -> Tensor:
        """Announce the next forward, and how many tokens it adds to each of `rows`.

        What a forward computes beyond a row's own tokens, up to the longest row's, lands beyond the row's length: never
        attended to, and overwritten by what comes next.

        Returns:
            The positions of the new tokens, `(rows, max(num_tokens))`.
        """
        starts = torch.tensor(self.lengths[rows], device=device).unsqueeze(1)
        positions = starts + torch.arange(max(num_tokens), device=device)
        self.span = max(self.lengths[rows]) + max(num_tokens)
        self._reserve()
        placement = _Placement(rows, positions[:, None, :, None], self.span)
        for layer in self._row_layers:
            layer.placement = placement
        self.lengths[rows] = [length + more for length, more in zip(self.lengths[rows], num_tokens, strict=True)]
        return positions

    def copy_prefix(self, num_tokens: int) -> None:
        """Let all rows begin with the first `num_tokens` tokens of the first."""
        for layer in self._row_layers:
            layer.copy_prefix(num_tokens)
        self.lengths = [num_tokens] * len(self.lengths)

    def _reserve(self) -> None:
        if self.span > self.capacity:
            self.capacity = max(self.span, min(2 * self.capacity, self.max_length))
            for layer in self._row_layers:
                layer.grow(self.capacity)
