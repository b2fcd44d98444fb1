"""The token loop: all streams of a request as rows of one forward per token, one token drawn for all.

The engine knows token ids only: no text, no messages, no users.
"""

import asyncio
from collections.abc import AsyncIterator, Iterator
from collections.abc import Sequence as IdSequence
from concurrent.futures import ThreadPoolExecutor
from itertools import takewhile

import torch
from torch import Tensor

from langchain_amulet.engine.cache import RowCache
from langchain_amulet.engine.params import Request
from langchain_amulet.engine.runner import Runner
from langchain_amulet.engine.sampling import sample
from langchain_amulet.engine.sequence import FinishReason, Sequence
from langchain_amulet.exceptions import ModelClosedError, NumericalError
from langchain_amulet.realignment import RealignmentConfig, realign

_MIN_SHARED_PREFIX = 64  # tokens; reading fewer twice costs less than a forward of their own


class Engine:
    """Generates answers from one model; all forwards run on one thread of its own, first come, first served per token.

    Args:
        runner: Executes the model.
    """

    def __init__(self, runner: Runner) -> None:
        self._runner: Runner | None = runner
        self._worker = ThreadPoolExecutor(max_workers=1, thread_name_prefix="amulet-engine")

    def submit(self, request: Request) -> "Generation":
        """Take a request; iterating over what comes back, in a thread or in a task, generates its tokens.

        Raises:
            ContextLengthError: A prompt leaves no room for an answer.
            ModelClosedError: The engine was closed.
        """
        runner = self._open_runner()
        return Generation(Sequence(request, max_context=runner.max_context), runner, self._worker)

    def close(self) -> None:
        """Let go of the model; generations under way still end, and then the worker thread does."""
        self._runner = None

    def _open_runner(self) -> Runner:
        if self._runner is None:
            msg = "This engine was closed. Load the model again."
            raise ModelClosedError(msg)
        return self._runner


class Generation:
    """One answer in the making: an iterator, sync or async, over the tokens of it.

    A token that ends the answer (`SamplingParams.stop_token_ids`) is not part of what is iterated over.
    """

    def __init__(self, sequence: Sequence, runner: Runner, worker: ThreadPoolExecutor) -> None:
        self._sequence = sequence
        self._runner = runner
        self._worker = worker
        self._cache: RowCache | None = None
        self._weights = torch.empty(0)  # of the request, on the model's device from the first step on
        self._seen = torch.empty(0, dtype=torch.long)

    @property
    def finish_reason(self) -> FinishReason | None:
        """`None` while tokens are still to come."""
        return self._sequence.finish_reason

    @property
    def token_ids(self) -> list[int]:
        """All tokens drawn so far, the one that ended the answer included."""
        return list(self._sequence.token_ids)

    def cancel(self) -> None:
        """Stop after the token under way, and free the rows."""
        self._sequence.finish("cancelled")
        self._cache = None

    def __iter__(self) -> Iterator[int]:
        return self

    def __next__(self) -> int:
        token_id = None if self._sequence.is_finished else self._worker.submit(self._step).result()
        if token_id is None:
            raise StopIteration
        return token_id

    def __aiter__(self) -> AsyncIterator[int]:
        return self

    async def __anext__(self) -> int:
        token_id = None
        if not self._sequence.is_finished:
            token_id = await asyncio.wrap_future(self._worker.submit(self._step))
        if token_id is None:
            raise StopAsyncIteration
        return token_id

    @torch.inference_mode()
    def _step(self) -> int | None:
        """Draw the next token of the answer; `None` if it ended the answer instead."""
        cache = self._cache  # cancel() may take it away at any time
        if self._sequence.is_finished:
            return None
        try:
            token_id = self._draw(self._prefill() if cache is None else self._decode(cache))
            self._sequence.append(token_id)
        except BaseException:
            self._sequence.finish("error")
            raise
        finally:
            if self._sequence.is_finished:
                self._cache = None
        return None if self._sequence.finish_reason == "stop" else token_id

    def _prefill(self) -> Tensor:
        """Read the prompts: a long common beginning once, then all rows in one forward.

        Returns:
            Logits of the first token of the answer, `(rows, V)`.
        """
        prompts = self._sequence.request.prompts
        cache = self._runner.new_cache(len(prompts), self._sequence.max_length)
        shared = _common_prefix_length([prompt[:-1] for prompt in prompts])  # the last token is read for its logits
        if len(prompts) == 1 or shared < _MIN_SHARED_PREFIX:
            shared = 0
        else:
            self._runner.prefill(cache, [prompts[0][:shared]])
            cache.copy_prefix(shared)
        logits = self._runner.prefill(cache, [prompt[shared:] for prompt in prompts])
        self._cache = cache
        self._weights = torch.tensor(self._sequence.request.weights, device=logits.device)
        return logits

    def _decode(self, cache: RowCache) -> Tensor:
        return self._runner.decode(cache, [self._sequence.token_ids[-1]] * len(self._sequence.request.prompts))

    def _seen_ids(self, device: torch.device) -> Tensor:
        """What the repetition penalty acts on: the base prompt, not the preference, and the answer so far."""
        if self._sequence.request.sampling.repetition_penalty == 1:
            return self._seen
        if not len(self._seen):
            self._seen = torch.tensor(self._sequence.request.prompts[0], device=device)
        newest = self._sequence.token_ids[-1:]
        self._seen = torch.cat([self._seen, torch.tensor(newest, dtype=torch.long, device=device)])
        return self._seen

    def _draw(self, logits: Tensor) -> int:
        """Combine the streams, and draw one token for all of them."""
        request = self._sequence.request
        scores = _scores(logits, request.realignment, self._weights)
        is_greedy = request.sampling.temperature == 0
        uniform = 0.0 if is_greedy else self._sequence.next_uniform()
        token = sample(scores, request.sampling, uniform=uniform, seen_ids=self._seen_ids(logits.device))
        if not bool(scores[token].isfinite() & scores.amax().isfinite()):
            msg = (
                "The model's logits are NaN or leave no token to choose. In float16, load it in bfloat16 or float32 "
                '(model_kwargs={"dtype": "float32"}); else its weights may be damaged.'
            )
            raise NumericalError(msg)
        return int(token)


def _scores(logits: Tensor, realignment: RealignmentConfig, weights: Tensor) -> Tensor:
    """One score per token, `(V,)`: the realigned log-probabilities, or the logits of a stream that is alone."""
    if len(logits) == 1:
        return logits[0].to(torch.promote_types(logits.dtype, torch.float32))
    return realign(
        logits[0],
        logits[1:],
        realignment.guidance_scale,
        weights=weights,
        plausibility=realignment.plausibility,
        max_kl=realignment.max_kl,
    )


def _common_prefix_length(prompts: IdSequence[IdSequence[int]]) -> int:
    columns = zip(*prompts, strict=False)  # as many as the shortest prompt has tokens
    return sum(1 for _ in takewhile(lambda column: len(set(column)) == 1, columns))
