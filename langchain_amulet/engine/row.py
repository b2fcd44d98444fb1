"""What one row of the runner is used for."""

from dataclasses import dataclass

import numpy as np

from langchain_amulet.engine.sequence import Sequence
from langchain_amulet.engine.tokens import Tokens, common_prefix_length


@dataclass(slots=True, eq=False)
class Row:
    """One stream of a sequence, of which the row has read some tokens."""

    sequence: Sequence
    stream: int
    num_tokens: int = 0
    """Tokens read so far."""

    @property
    def num_unread(self) -> int:
        """Tokens of prompt and answer that are still to be read."""
        return len(self.sequence.request.prompts[self.stream]) + len(self.sequence.token_ids) - self.num_tokens

    @property
    def key(self) -> str | None:
        """Whose later requests may reuse what it has read."""
        return self.sequence.request.prefix_key(self.stream)

    @property
    def read_ids(self) -> Tokens:
        """What it has read."""
        return np.array(self.sequence.stream_ids(self.stream)[: self.num_tokens], dtype=np.int64)

    @property
    def reusable_ids(self) -> Tokens:
        """What it can take over from others: all that it has to read but the last token, which gives the logits."""
        return np.array(self.sequence.stream_ids(self.stream)[:-1], dtype=np.int64)

    def common_length(self, tokens: Tokens) -> int:
        """How much of what it has read others begin with too; found without putting prompt and answer together."""
        prompt = self.sequence.prompts[self.stream][: self.num_tokens]
        length = common_prefix_length(prompt, tokens)
        if length < len(prompt) or length == self.num_tokens:
            return length
        answer = np.array(self.sequence.token_ids[: self.num_tokens - length], dtype=np.int64)
        return length + common_prefix_length(answer, tokens[length:])

    @property
    def next_id(self) -> int:
        """The next token to read; found without putting the whole stream together, as this is asked at every step."""
        prompt = self.sequence.request.prompts[self.stream]
        if self.num_tokens < len(prompt):
            return prompt[self.num_tokens]
        return self.sequence.token_ids[self.num_tokens - len(prompt)]

    def unread_ids(self, count: int) -> list[int]:
        """The next tokens to read."""
        return self.sequence.stream_ids(self.stream)[self.num_tokens : self.num_tokens + count]
