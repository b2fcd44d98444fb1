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
    def read_ids(self) -> Tokens:
        """The tokens that the row has read, without labels."""
        return np.array(self.sequence.stream_ids(self.stream)[: self.num_tokens], dtype=np.int64)

    @property
    def kept_ids(self) -> Tokens:
        """The labelled tokens that other requests may reuse, of those that the row has read."""
        labelled = self.sequence.labelled[self.stream]
        num_answer = max(0, self.num_tokens - len(self.sequence.prompts[self.stream]))
        tokens = np.concatenate([labelled.prompt, labelled.answer(self.sequence.token_ids[:num_answer])])
        return tokens[: min(self.num_tokens, self._most_kept)]

    @property
    def wanted_ids(self) -> Tokens:
        """The labelled tokens that can be copied from other requests: all but the last, whose forward gives logits."""
        labelled = self.sequence.labelled[self.stream]
        tokens = np.concatenate([labelled.prompt, labelled.answer(self.sequence.token_ids)])
        return tokens[: len(self.sequence.prompts[self.stream]) + len(self.sequence.token_ids) - 1]

    @property
    def _most_kept(self) -> int:
        """The most tokens of the row that other requests may reuse."""
        labelled = self.sequence.labelled[self.stream]
        if labelled.is_private and self.sequence.is_forgotten:
            return labelled.public_length
        return self.num_tokens

    @property
    def reusable_ids(self) -> Tokens:
        """The tokens that can be copied from the request's other rows: all but the last, whose forward gives logits."""
        return np.array(self.sequence.stream_ids(self.stream)[:-1], dtype=np.int64)

    def common_length(self, tokens: Tokens) -> int:
        """Return the length of the common prefix of `tokens` and the tokens that the row has read."""
        return common_prefix_length(self.read_ids, tokens)

    def labelled_common_length(self, tokens: Tokens) -> int:
        """Return the length of the common prefix of labelled tokens and those of this row that may be reused."""
        labelled, most = self.sequence.labelled[self.stream], self._most_kept
        prompt = labelled.prompt[: min(self.num_tokens, most)]
        length = common_prefix_length(prompt, tokens)
        if length < len(self.sequence.prompts[self.stream]) or length >= min(self.num_tokens, most):
            return length
        answer = labelled.answer(self.sequence.token_ids[: self.num_tokens - length])
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
