"""The seam between the scheduler and whatever executes the model."""

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor
from transformers import PreTrainedModel


class Runner(Protocol):
    """One model over numbered rows of keys and values, each row with a length of its own.

    The scheduler keeps the rows that decode together at the front, so that `decode` always acts on rows 0 .. n - 1 and
    an implementation may hold static buffers, and compile or capture the decode step per bucket of rows and lengths.
    A method that raises leaves all lengths as they were.
    """

    @property
    def model(self) -> PreTrainedModel:
        """The model itself, for forwards that use no rows."""
        ...

    @property
    def device(self) -> torch.device:
        """Where logits lie."""
        ...

    @property
    def max_context(self) -> int:
        """Tokens that the model takes in one row."""
        ...

    @property
    def vocab_size(self) -> int:
        """V; token ids are below it."""
        ...

    @property
    def bytes_per_token(self) -> int:
        """Memory for the keys and values of one token of one row."""
        ...

    @property
    def is_incremental(self) -> bool:
        """Whether a row can be read in chunks, and copied or kept up to any of its tokens."""
        ...

    def free_bytes(self) -> int:
        """Memory that the device has to spare."""
        ...

    def reserve(self, num_rows: int, num_tokens: int, max_bytes: int) -> None:
        """Make room for that many rows of that many tokens, and for more where that keeps to `max_bytes`.

        Raises:
            torch.OutOfMemoryError: The device has not as much; what is there stays.
        """
        ...

    def prefill(self, first_row: int, input_ids: Sequence[Sequence[int]]) -> Tensor:
        """Add tokens to consecutive rows, to each its own, possibly none.

        Returns:
            Logits of the token after them, `(rows, V)`; those of a row that was given none mean nothing.
        """
        ...

    def decode(self, input_ids: Sequence[int]) -> Tensor:
        """Add one token to each of the rows from 0 on.

        Returns:
            Logits of the token after it, `(rows, V)`.
        """
        ...

    def truncate(self, row: int, num_tokens: int, *, erase: bool = False) -> None:
        """Forget what a row holds beyond its first tokens; with `erase`, overwrite all of the row as well."""
        ...

    def copy_prefix(self, source: int, target: int, num_tokens: int) -> None:
        """Let the target row hold the first tokens of the source row, and nothing else."""
        ...

    def save(self, row: int, num_tokens: int) -> Any:
        """Copy the first tokens of a row out of the buffers."""
        ...

    def load(self, saved: Any, row: int, num_tokens: int) -> None:
        """Let a row hold the first tokens of what `save` returned, and nothing else."""
        ...

    def release(self) -> None:
        """Give the buffers back; all rows are empty."""
        ...
