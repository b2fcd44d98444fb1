"""`Sequence`: the state of one request."""

import itertools
import threading
import time
from collections import abc
from functools import cached_property
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from langchain_amulet.engine.channel import Channel
from langchain_amulet.engine.guide import Guide
from langchain_amulet.engine.labels import LabelledStream
from langchain_amulet.engine.params import MAX_SEED, Request
from langchain_amulet.engine.tokens import Tokens, common_prefix_length
from langchain_amulet.engine.tracing import TracedToken
from langchain_amulet.exceptions import ContextLengthError, GenerationTimeoutError

FinishReason = Literal["stop", "length", "cancelled", "error"]

_numbers = itertools.count()


class TokenLogprobs(NamedTuple):
    """Log-probabilities, in nats, of one drawn token and of the most likely tokens at its position."""

    token_id: int
    logprob: float
    top: list[tuple[int, float]]
    """Pairs of token id and log-probability, the most likely first."""


class Sequence:
    """One answer while it is generated. Its streams share every token of the answer.

    Args:
        request: What to generate.
        max_length: The most tokens in each of its rows, prompt and answer together.

    Raises:
        ContextLengthError: A prompt leaves no room for an answer.
        MaxTokensError: The structure that the guide requires does not fit into `max_tokens`.
    """

    is_suspect = False
    """Whether a prefill together with other requests has failed, so that this request is prefilled alone."""
    is_last_try = False
    """Whether the device ran out of memory while this was the only running request."""
    is_sound = True
    """Whether no logits of this request were NaN so far, and each drawn token had a finite logit."""
    labelled: abc.Sequence[LabelledStream] = ()
    """Its streams with their labels, from its admission on, if rows are reused between requests."""

    def __init__(self, request: Request, *, max_length: int) -> None:
        self.request = request
        self.number = next(_numbers)
        """Larger for later requests."""
        self.token_ids: list[int] = []
        """The tokens drawn so far, including the stop token."""
        self.logprobs: list[TokenLogprobs] = []
        """One entry per token, if the request asks for them."""
        self.traces: list[TracedToken] = []
        """One entry per token, if the request asks for a trace."""
        self.finish_reason: FinishReason | None = None
        self.channel = Channel()
        """Passes the tokens to the reader."""
        self._lock = threading.RLock()  # a finalizer may run on the same thread while the lock is held
        self._is_forgotten = False
        self._key: int | None = None
        self._seen, self._num_seen = torch.empty(0, dtype=torch.long), 0
        self._longest = longest = max(len(prompt) for prompt in request.prompts)
        self._max_tokens = min(request.sampling.max_tokens, max_length - longest)
        self.max_length = longest + self._max_tokens
        """The most tokens that its longest row can reach."""
        self.guide: Guide | None = None
        """Constrains the answer, for example to a grammar."""
        self.deadline = None if request.timeout_s is None else time.monotonic() + request.timeout_s
        """When the request times out, on the monotonic clock."""
        if self._max_tokens < 1:
            raise _no_room(longest, max_length)
        if request.guide is not None:
            self.guide = request.guide(self._max_tokens)

    @property
    def is_finished(self) -> bool:
        """Whether no more tokens will be drawn."""
        return self.finish_reason is not None

    @property
    def is_forgotten(self) -> bool:
        """Whether its private rows must not be kept, nor reused by other requests."""
        is_forgotten = self.request.is_forgotten
        return self._is_forgotten or (is_forgotten is not None and is_forgotten())

    def forget(self) -> None:
        """From now on, its private rows must not be kept."""
        self._is_forgotten = True

    @property
    def num_tokens(self) -> int:
        """Tokens of its longest stream: prompt and answer so far."""
        return self._longest + len(self.token_ids)

    @property
    def num_streams(self) -> int:
        """The number of rows that it needs."""
        return len(self.request.prompts)

    @cached_property
    def num_shared(self) -> int:
        """The length of the common prefix of all prompts without their last tokens; 0 for one stream."""
        first, *others = (prompt[:-1] for prompt in self.prompts)
        return min((common_prefix_length(first, other) for other in others), default=0)

    @cached_property
    def prompts(self) -> list[Tokens]:
        """The prompt of each stream, as arrays for comparisons."""
        return [np.array(prompt, dtype=np.int64) for prompt in self.request.prompts]

    def stream_ids(self, stream: int) -> list[int]:
        """Return the prompt of a stream and the answer so far."""
        return [*self.request.prompts[stream], *self.token_ids]

    def next_key(self) -> int:
        """Return a random number for the next token, from the request's own seed; 0 for greedy requests.

        It stays the same until a token is appended, so that a draw can be repeated.
        """
        if self.request.sampling.temperature == 0:
            return 0
        if self._key is None:
            self._key = int(torch.randint(MAX_SEED, (), generator=self._random).item())
        return self._key

    @cached_property
    def _random(self) -> torch.Generator:
        seed = self.request.sampling.seed
        return torch.Generator().manual_seed(int(torch.randint(MAX_SEED, ()).item()) if seed is None else seed)

    @property
    def caller_ids(self) -> abc.Sequence[int]:
        """The caller's prompt, without preferences."""
        return self.request.prompts[0] if self.request.penalised_ids is None else self.request.penalised_ids

    def seen_ids(self, device: torch.device) -> Tensor:
        """Return the tokens for the repetition penalty, `(S,)`: the caller's prompt (no preferences) and the answer."""
        prompt = self.caller_ids
        number = len(prompt) + len(self.token_ids)
        if number > len(self._seen):  # twice as long as needed, so that most tokens are written into it alone
            unused = [0] * number
            self._seen = torch.tensor([*prompt, *self.token_ids, *unused], dtype=torch.long, device=device)
        elif number > self._num_seen:
            newest = torch.tensor(self.token_ids[self._num_seen - len(prompt) :], dtype=torch.long, device=device)
            self._seen[self._num_seen : number] = newest
        self._num_seen = number
        return self._seen[:number]

    @property
    def num_left(self) -> int:
        """The most tokens that can still be drawn."""
        return self._max_tokens - len(self.token_ids)

    def append(self, token_id: int, logprobs: TokenLogprobs | None, trace: TracedToken | None = None) -> None:
        """Append the next token, and finish if it ends the answer."""
        if self.is_finished:  # another thread has cancelled it
            return
        self._key = None
        self.token_ids.append(token_id)
        if logprobs is not None:
            self.logprobs.append(logprobs)
        if trace is not None:
            self.traces.append(trace)
        if token_id in self.request.sampling.stop_token_ids:
            self.finish("stop")
            return
        self.channel.put(token_id)
        if self.guide is not None and self.guide.is_complete:
            self.finish("stop")
        elif self.num_left <= 0:
            self.finish("length")

    def expire(self) -> None:
        """Finish with an error if the deadline has passed."""
        if self.deadline is not None and time.monotonic() > self.deadline:
            msg = (
                f"The answer was not complete after {self.request.timeout_s} s, with {len(self.token_ids)} tokens "
                f"drawn. Raise the timeout, or lower max_tokens."
            )
            self.finish("error", GenerationTimeoutError(msg))

    def finish(self, reason: FinishReason, error: BaseException | None = None) -> None:
        """Finish the answer. Only the first call has an effect. A waiting reader gets the end, or the error."""
        with self._lock:
            if self.is_finished:
                return
            self.finish_reason = reason
        self.channel.close(error)

    def end_after_fork(self, error: BaseException) -> None:
        """End the answer in a forked process, where a thread of the parent process may still hold its locks."""
        self._lock = threading.RLock()
        self.channel.end_after_fork(error)
        if not self.is_finished:
            self.finish_reason = "error"


def _no_room(num_tokens: int, max_length: int) -> ContextLengthError:
    return ContextLengthError(
        f"The prompt has {num_tokens} tokens; the model's context holds {max_length}, "
        f"including the answer. Shorten the conversation."
    )
