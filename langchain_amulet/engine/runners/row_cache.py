"""A key-value cache in which each row has its own length.

Rows are never padded: a token is written at its position in its row, and an explicit mask says which positions of a
row are filled. To drop tokens from the end of a row, its length is lowered.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin

SavedRow: TypeAlias = dict[int, tuple[Tensor, Tensor]]
"""Keys and values of one row, `(H, tokens, D)`, by layer; layers that share those of another layer have no entry."""


@dataclass(slots=True)
class _Placement:
    """The positions that the current forward writes and reads."""

    rows: slice
    positions: Tensor  # (B, 1, S, 1), the position of each new token in its row
    flat_positions: Tensor  # (B S,)
    span: int  # positions 0 .. span - 1 are read


class _RowLayer(CacheLayerMixin):
    """Keys and values of one attention layer, `(rows, H, capacity, D)`."""

    is_sliding = False  # the mask applies the window; the cache keeps every position

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.num_rows = self.capacity = 0
        self.placement: _Placement | None = None

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        self.keys, self.values = (
            # Zeros, not uninitialised: a masked position still enters the products, where 0 * NaN would be NaN.
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
        """Write the new tokens, and return views of the positions that the rows of this forward may attend to."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        assert self.placement is not None, "call RowCache.place() before the forward"
        rows, span = self.placement.rows, self.placement.span
        positions = self.placement.positions.to(key_states.device)  # a layer may be on another device than the input
        keys, values = (states[rows] for states in self.states())
        keys.scatter_(2, positions.expand(key_states.shape), key_states)
        values.scatter_(2, positions.expand(value_states.shape), value_states)
        return keys[:, :, :span], values[:, :, :span]

    def resize(self, num_rows: int, capacity: int, num_tokens: int) -> None:
        """Change the number of rows and their capacity in tokens, and keep the first `num_tokens` tokens of each."""
        if self.is_initialized:
            self.keys, self.values = (_resized(states, num_rows, capacity, num_tokens) for states in self.states())
        self.num_rows, self.capacity = num_rows, capacity

    def release(self) -> None:
        self.keys = self.values = None
        self.is_initialized = False
        self.num_rows = self.capacity = 0

    def states(self) -> tuple[Tensor, Tensor]:
        assert self.keys is not None, "lazy_initialization() has run"
        assert self.values is not None, "lazy_initialization() has run"
        return self.keys, self.values

    def get_seq_length(self) -> int:
        return self.placement.span if self.placement else 0

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:  # noqa: ARG002 - transformers' signature
        return self.get_seq_length(), 0

    def get_max_length(self) -> int:
        return -1


def _resized(states: Tensor, num_rows: int, capacity: int, num_tokens: int) -> Tensor:
    resized = states.new_zeros(num_rows, states.shape[1], capacity, states.shape[3])
    kept = min(num_rows, states.shape[0])
    resized[:kept, :, :num_tokens] = states[:kept, :, :num_tokens]
    return resized


class RowCache(Cache):
    """Rows of keys and values, each with its own length, as a transformers `Cache`.

    Args:
        num_layers: L, the attention layers of the model.
    """

    def __init__(self, num_layers: int) -> None:
        self._row_layers = [_RowLayer() for _ in range(num_layers)]
        super().__init__(layers=[*self._row_layers])
        self.capacity = 0
        """The most tokens that a row can hold."""
        self.span = 0
        """The number of positions that the current forward reads."""
        self.lengths: list[int] = []
        """Tokens in each row. Lowering a length drops the tokens beyond it."""

    @property
    def num_bytes(self) -> int:
        """Memory of all rows."""
        return sum(states.nbytes for layer in self._filled_layers() for states in layer.states())

    def resize(self, num_rows: int, capacity: int) -> None:
        """Change the number of rows, by dropping the last or adding empty ones, and the capacity of each in tokens."""
        try:
            for layer in self._row_layers:
                layer.resize(num_rows, capacity, max(self.lengths, default=0))
        except BaseException:  # out of memory half-way: use the size that all layers have
            num_rows = min(layer.num_rows for layer in self._row_layers)
            self.lengths = [*self.lengths[:num_rows], *[0] * (num_rows - len(self.lengths))]
            self.capacity = min(layer.capacity for layer in self._row_layers)
            raise
        self.lengths = [*self.lengths[:num_rows], *[0] * (num_rows - len(self.lengths))]
        self.capacity = capacity

    def release(self) -> None:
        """Free the memory of all rows."""
        for layer in self._row_layers:
            layer.release()
        self.capacity, self.lengths = 0, []

    def place(self, rows: slice, num_tokens: int, device: torch.device, *, span_multiple: int = 1) -> Tensor:
        """Prepare a forward of `num_tokens` tokens in each of `rows`. It reads up to the end of the longest row.

        Returns:
            The positions of the new tokens, `(rows, num_tokens)`.
        """
        starts = torch.tensor(self.lengths[rows], device=device).unsqueeze(1)
        positions = starts + torch.arange(num_tokens, device=device)
        self.span = max(self.lengths[rows]) + num_tokens
        assert self.span <= self.capacity, "reserve rows of this length before the forward"
        self.span = min(self.capacity, -(-self.span // span_multiple) * span_multiple)
        placement = _Placement(rows, positions[:, None, :, None], positions.flatten(), self.span)
        for layer in self._row_layers:
            layer.placement = placement
        return positions

    def placed(self, layer: int) -> tuple[Tensor, Tensor, Tensor]:
        """Return views of the keys and values that the current forward reads, `(B, H, span, D)`, and its positions.

        The forward itself writes the new keys and values into the views, at the positions, `(B S,)`.
        """
        row_layer = self._row_layers[layer]
        assert row_layer.placement is not None, "call place() before the forward"
        rows, span = row_layer.placement.rows, row_layer.placement.span
        keys, values = row_layer.states()
        return keys[rows, :, :span], values[rows, :, :span], row_layer.placement.flat_positions

    def advance(self, rows: slice, num_tokens: Sequence[int]) -> None:
        """Add the tokens of the forward to the lengths. The next forward overwrites the entries of padding tokens."""
        self.lengths[rows] = [length + more for length, more in zip(self.lengths[rows], num_tokens, strict=True)]

    def copy_prefix(self, source: int, target: int, num_tokens: int) -> None:
        """Replace the target row by the first tokens of the source row."""
        for layer in self._filled_layers():
            for states in layer.states():
                states[target, :, :num_tokens] = states[source, :, :num_tokens]
        self.lengths[target] = num_tokens

    def erase(self, row: int) -> None:
        """Overwrite a row with zeros: the mask does not keep NaN or infinity from the next request in this row."""
        for layer in self._filled_layers():
            for states in layer.states():
                states[row] = 0
        self.lengths[row] = 0

    def save(self, row: int, num_tokens: int) -> SavedRow:
        """Return a copy of the first tokens of a row."""
        return {
            index: (layer.states()[0][row, :, :num_tokens].clone(), layer.states()[1][row, :, :num_tokens].clone())
            for index, layer in enumerate(self._row_layers)
            if layer.is_initialized
        }

    def load(self, saved: SavedRow, row: int, num_tokens: int) -> None:
        """Replace a row by the first tokens of a saved one."""
        for index, saved_layer in saved.items():
            layer = self._row_layers[index]
            if not layer.is_initialized:  # no forward since release()
                layer.lazy_initialization(saved_layer[0][None], saved_layer[1][None])
            for states, saved_states in zip(layer.states(), saved_layer, strict=True):
                states[row, :, :num_tokens] = saved_states[:, :num_tokens]
        self.lengths[row] = num_tokens

    def _filled_layers(self) -> list[_RowLayer]:
        return [layer for layer in self._row_layers if layer.is_initialized]
