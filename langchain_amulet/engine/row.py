"""A row of the runner: which stream it holds, and how many tokens it has read."""

from collections import abc
from dataclasses import dataclass

import numpy as np

from langchain_amulet.engine.sequence import Sequence
from langchain_amulet.engine.tokens import Tokens, common_prefix_length


@dataclass(slots=True, eq=False)
class Row:
    """One row: the stream of a sequence that it holds, and how many of its tokens the row has read."""

    sequence: Sequence
    stream: int
    num_tokens: int = 0
    """Tokens read so far."""

    @property
    def num_unread(self) -> int:
        """Tokens of prompt and answer that the row has not read yet."""
        return len(self.sequence.request.prompts[self.stream]) + len(self.sequence.token_ids) - self.num_tokens

    @property
    def key(self) -> str | None:
        """Which requests may reuse its keys and values; see `Request.prefix_keys`."""
        return self.sequence.request.prefix_key(self.stream)

    @property
    def read_ids(self) -> Tokens:
        """The tokens that the row has read."""
        return np.array(self.sequence.stream_ids(self.stream)[: self.num_tokens], dtype=np.int64)

    @property
    def reusable_ids(self) -> Tokens:
        """The tokens that can be copied from other rows: all but the last, whose forward gives the logits."""
        return np.array(self.sequence.stream_ids(self.stream)[:-1], dtype=np.int64)

    def common_length(self, tokens: Tokens) -> int:
        """Return the length of the common prefix of `tokens` and the tokens that the row has read."""
        prompt = self.sequence.prompts[self.stream][: self.num_tokens]
        length = common_prefix_length(prompt, tokens)
        if length < len(prompt) or length == self.num_tokens:
            return length
        answer = np.array(self.sequence.token_ids[: self.num_tokens - length], dtype=np.int64)
        return length + common_prefix_length(answer, tokens[length:])

    @property
    def next_id(self) -> int:
        """The next token to read. Called at every step, so it does not join prompt and answer."""
        prompt = self.sequence.request.prompts[self.stream]
        if self.num_tokens < len(prompt):
            return prompt[self.num_tokens]
        return self.sequence.token_ids[self.num_tokens - len(prompt)]

    def unread_ids(self, count: int) -> list[int]:
        """Return the next `count` tokens to read."""
        return self.sequence.stream_ids(self.stream)[self.num_tokens : self.num_tokens + count]


def rows_by_sequence(sequences: abc.Sequence[Sequence], rows: abc.Sequence[Row]) -> list[list[int]]:
    """Return, for each sequence, the indices of its rows in `rows`, in the order of its streams."""
    indices: dict[int, list[int]] = {sequence.number: [0] * sequence.num_streams for sequence in sequences}
    for index, row in enumerate(rows):
        indices[row.sequence.number][row.stream] = index
    return [indices[sequence.number] for sequence in sequences]
