"""Everything that one request under way remembers."""

from functools import cached_property
from typing import Literal

import torch

from langchain_amulet.engine.params import MAX_SEED, Request
from langchain_amulet.exceptions import ContextLengthError

FinishReason = Literal["stop", "length", "cancelled", "error"]


class Sequence:
    """One answer in the making; its streams share every token of it.

    Args:
        request: What to generate.
        max_context: Tokens that fit into one row, prompt and answer together.

    Raises:
        ContextLengthError: A prompt leaves no room for an answer.
    """

    def __init__(self, request: Request, *, max_context: int) -> None:
        self.request = request
        self.token_ids: list[int] = []
        """The tokens drawn so far, the one that ended the answer included."""
        self.finish_reason: FinishReason | None = None
        self._max_tokens = min(request.sampling.max_tokens, max_context - self._longest_prompt)
        if self._max_tokens < 1:
            msg = (
                f"The prompt has {self._longest_prompt} tokens; the model's context holds {max_context}, "
                f"the answer included. Shorten the conversation."
            )
            raise ContextLengthError(msg)

    @property
    def max_length(self) -> int:
        """The most tokens that its longest row can come to hold."""
        return self._longest_prompt + self._max_tokens

    @property
    def is_finished(self) -> bool:
        """Whether no more tokens will be drawn."""
        return self.finish_reason is not None

    def next_uniform(self) -> float:
        """One uniform number in [0, 1) per token, from the request's own seed."""
        return torch.rand((), dtype=torch.float64, generator=self._random).item()

    @cached_property
    def _random(self) -> torch.Generator:
        seed = self.request.sampling.seed
        return torch.Generator().manual_seed(int(torch.randint(MAX_SEED, ()).item()) if seed is None else seed)

    def append(self, token_id: int) -> None:
        """Take the token that was drawn, and see whether it ends the answer."""
        self.token_ids.append(token_id)
        if token_id in self.request.sampling.stop_token_ids:
            self.finish("stop")
        elif len(self.token_ids) >= self._max_tokens:
            self.finish("length")

    def finish(self, reason: FinishReason) -> None:
        """End the answer; the first reason stands."""
        self.finish_reason = self.finish_reason or reason

    @property
    def _longest_prompt(self) -> int:
        return max(len(prompt) for prompt in self.request.prompts)
