"""The interface between the scheduler and the code that executes the model."""

from collections.abc import Generator, Sequence
from typing import Protocol, TypeVar

import torch
from torch import Tensor

SavedRow = TypeVar("SavedRow")
"""What a runner's `save` returns. Others hold it and pass it to `load`, without looking inside."""


class Runner(Protocol[SavedRow]):
    """One model over numbered rows of keys and values; each row has its own length.

    The scheduler keeps the rows that decode together at the front, so `decode` always acts on rows 0 .. n - 1. An
    implementation may therefore hold static buffers, and compile or capture the decode step per bucket of rows and
    lengths. A method that raises leaves all lengths unchanged.
    """

    @property
    def device(self) -> torch.device:
        """The device of the logits."""
        ...

    @property
    def max_context(self) -> int:
        """The most tokens that the model accepts in one row."""
        ...

    @property
    def vocab_size(self) -> int:
        """V, the number of token ids."""
        ...

    @property
    def bytes_per_token(self) -> int:
        """Memory for the keys and values of one token of one row."""
        ...

    @property
    def is_incremental(self) -> bool:
        """Whether a row can be prefilled in chunks, and copied or saved up to any of its tokens."""
        ...

    @property
    def num_graphs(self) -> int:
        """Graphs that the decode step was compiled to; 0 if it is eager."""
        ...

    def free_bytes(self) -> int:
        """Return the free memory of the device."""
        ...

    def reserve(self, num_rows: int, num_tokens: int, max_bytes: int) -> None:
        """Allocate at least `num_rows` rows of `num_tokens` tokens, and more where that stays within `max_bytes`.

        Raises:
            torch.OutOfMemoryError: The device has too little free memory. Existing rows are unchanged.
        """
        ...

    def prefill(self, first_row: int, input_ids: Sequence[Sequence[int]]) -> Tensor:
        """Append tokens to consecutive rows: one list of token ids per row, which may be empty.

        Returns:
            Logits of the token after them, `(rows, V)`; undefined for a row without new tokens.
        """
        ...

    def decode(self, input_ids: Sequence[int]) -> Tensor:
        """Append one token to each of the rows from 0 on.

        Returns:
            Logits of the next token, `(rows, V)`.
        """
        ...

    def verify(self, input_ids: Sequence[Sequence[int]]) -> Tensor:
        """Append one or more tokens to each of the rows from 0 on. Only called if `is_incremental`.

        Returns:
            Logits after each of them, `(rows, S, V)`, where S is the most tokens of a row; undefined after the last
            token of a row that has fewer.
        """
        ...

    def score(
        self, pairs: Sequence[tuple[Sequence[int], Sequence[int]]], *, max_tokens: int
    ) -> Generator[None, None, list[Tensor]]:
        """Score texts after their prompts, without using the numbered rows, and yield after each forward.

        Args:
            pairs: Token ids of each prompt and of the text after it, at least one each.
            max_tokens: The most tokens of a forward, if the runner can read a text in parts.

        Returns:
            The log-probabilities of each text's tokens in nats, `(tokens,)`, float32 on the CPU.
        """
        ...

    def truncate(self, row: int, num_tokens: int, *, erase: bool = False) -> None:
        """Shorten a row to its first tokens; with `erase`, also overwrite the whole row with zeros."""
        ...

    def copy_prefix(self, source: int, target: int, num_tokens: int) -> None:
        """Replace the target row by the first tokens of the source row."""
        ...

    def save(self, row: int, num_tokens: int) -> SavedRow:
        """Return a copy of the first tokens of a row, outside the buffers."""
        ...

    def load(self, saved: SavedRow, row: int, num_tokens: int) -> None:
        """Replace a row by the first tokens of what `save` returned."""
        ...

    def release(self) -> None:
        """Free the buffers; all rows are empty afterwards."""
        ...
