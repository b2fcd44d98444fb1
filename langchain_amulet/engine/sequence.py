"""Everything that one request under way remembers."""

import itertools
import threading
import time
from functools import cached_property
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from langchain_amulet.engine.channel import Channel
from langchain_amulet.engine.guide import Guide
from langchain_amulet.engine.params import MAX_SEED, Request
from langchain_amulet.engine.tokens import Tokens, common_prefix_length
from langchain_amulet.exceptions import ContextLengthError, GenerationTimeoutError

FinishReason = Literal["stop", "length", "cancelled", "error"]

_numbers = itertools.count()


class TokenLogprobs(NamedTuple):
    """Log-probabilities, in nats, of one drawn token and of the likeliest ones at its place."""

    token_id: int
    logprob: float
    top: list[tuple[int, float]]
    """Pairs of token id and log-probability, the likeliest first."""


class Sequence:
    """One answer in the making; its streams share every token of it.

    Args:
        request: What to generate.
        max_length: Tokens that fit into one of its rows, prompt and answer together.

    Raises:
        ContextLengthError: A prompt leaves no room for an answer.
        MaxTokensError: What the guide asks for does not fit into the answer.
    """

    is_suspect = False
    """Whether reading it together with others has failed, so that it is read alone."""
    is_last_try = False
    """Whether it has had too little memory already with the engine to itself."""
    is_sound = True
    """Whether all its logits so far were numbers."""
    is_forgotten = False
    """Whether what its private streams have read must not outlive it."""

    def __init__(self, request: Request, *, max_length: int) -> None:
        self.request = request
        self.number = next(_numbers)
        """Grows from request to request."""
        self.token_ids: list[int] = []
        """The tokens drawn so far, the one that ended the answer included."""
        self.logprobs: list[TokenLogprobs] = []
        """One per token, if the request asks for them."""
        self.finish_reason: FinishReason | None = None
        self.channel = Channel()
        """Where the tokens go."""
        self._lock = threading.RLock()  # a finalizer on the same thread may come in between
        self._key: int | None = None
        self._seen = torch.empty(0, dtype=torch.long)
        self._longest = longest = max(len(prompt) for prompt in request.prompts)
        self._max_tokens = min(request.sampling.max_tokens, max_length - longest)
        self.max_length = longest + self._max_tokens
        """The most tokens that its longest row can come to hold."""
        self.guide: Guide | None = None
        """What leads the answer."""
        self.deadline = None if request.timeout_s is None else time.monotonic() + request.timeout_s
        """When the answer has taken too long."""
        if self._max_tokens < 1:
            raise _no_room(longest, max_length)
        if request.guide is not None:
            self.guide = request.guide(self._max_tokens)

    @property
    def is_finished(self) -> bool:
        """Whether no more tokens will be drawn."""
        return self.finish_reason is not None

    @property
    def num_tokens(self) -> int:
        """Tokens of its longest stream, prompt and answer so far."""
        return self._longest + len(self.token_ids)

    @property
    def num_streams(self) -> int:
        """Rows that it takes."""
        return len(self.request.prompts)

    @cached_property
    def num_shared(self) -> int:
        """Tokens that the prompts of all streams begin with; 0 for one stream. The last of a prompt never counts."""
        first, *others = (prompt[:-1] for prompt in self.prompts)
        return min((common_prefix_length(first, other) for other in others), default=0)

    @cached_property
    def prompts(self) -> list[Tokens]:
        """The prompt of each stream, for comparisons."""
        return [np.array(prompt, dtype=np.int64) for prompt in self.request.prompts]

    def stream_ids(self, stream: int) -> list[int]:
        """Prompt and answer so far, as one stream reads them."""
        return [*self.request.prompts[stream], *self.token_ids]

    def next_key(self) -> int:
        """One random number per token, from the request's own seed; greedy requests use none."""
        if self.request.sampling.temperature == 0:
            return 0
        if self._key is None:  # else no token was appended: the draw is being tried again
            self._key = int(torch.randint(MAX_SEED, (), generator=self._random).item())
        return self._key

    @cached_property
    def _random(self) -> torch.Generator:
        seed = self.request.sampling.seed
        return torch.Generator().manual_seed(int(torch.randint(MAX_SEED, ()).item()) if seed is None else seed)

    def seen_ids(self, device: torch.device) -> Tensor:
        """What the repetition penalty acts on: the base prompt, not the preference, and the answer so far, `(S,)`."""
        first = len(self.request.prompts[0])
        if not len(self._seen):
            self._seen = torch.tensor(self.request.prompts[0], device=device)
        newest = self.token_ids[len(self._seen) - first :]
        self._seen = torch.cat([self._seen, torch.tensor(newest, dtype=torch.long, device=device)])
        return self._seen

    @property
    def num_left(self) -> int:
        """Tokens that the answer may still take."""
        return self._max_tokens - len(self.token_ids)

    def append(self, token_id: int, logprobs: TokenLogprobs | None) -> None:
        """Take the next token, and see whether it ends the answer."""
        if self.is_finished:  # cancelled meanwhile
            return
        self._key = None
        self.token_ids.append(token_id)
        if logprobs is not None:
            self.logprobs.append(logprobs)
        if token_id in self.request.sampling.stop_token_ids:
            self.finish("stop")
            return
        self.channel.put(token_id)
        if self.guide is not None and self.guide.is_complete:
            self.finish("stop")
        elif self.num_left <= 0:
            self.finish("length")

    def expire(self) -> None:
        """End the answer with an error if it has taken too long."""
        if self.deadline is not None and time.monotonic() > self.deadline:
            msg = (
                f"The answer was not complete after {self.request.timeout_s} s, with {len(self.token_ids)} tokens "
                f"drawn. Raise the timeout, or lower max_tokens."
            )
            self.finish("error", GenerationTimeoutError(msg))

    def finish(self, reason: FinishReason, error: BaseException | None = None) -> None:
        """End the answer; the first reason stands. Whoever waits for a token gets the end, or the error."""
        with self._lock:
            if self.is_finished:
                return
            self.finish_reason = reason
        self.channel.close(error)


def _no_room(num_tokens: int, max_length: int) -> ContextLengthError:
    return ContextLengthError(
        f"The prompt has {num_tokens} tokens; the model's context holds {max_length}, "
        f"the answer included. Shorten the conversation."
    )
