"""Scoring: the log-probabilities of texts after prompts, in batches of those that wait."""

import contextlib
import threading
from collections.abc import Generator, Sequence
from concurrent.futures import Future, InvalidStateError
from typing import Any, NamedTuple

import torch
from torch import Tensor

from langchain_amulet.engine.device_memory import is_out_of_memory
from langchain_amulet.engine.failures import caused, failure_of
from langchain_amulet.engine.runners.protocol import Runner
from langchain_amulet.exceptions import AmuletError, EngineMemoryError

_IDLE_TOKENS = 256  # of a forward, if nothing else runs: on CPUs, a token takes half the time of one among 128
_BATCH_FORWARDS = 8  # a batch has as many tokens as this many full forwards, which bounds the memory of its rows


class Scoring:
    """A text to score after each of several prompts.

    Args:
        prompts: Token ids of each stream, at least one per stream.
        token_ids: Token ids of the text, at least one.
    """

    def __init__(self, prompts: Sequence[Sequence[int]], token_ids: Sequence[int]) -> None:
        self.prompts = [list(prompt) for prompt in prompts]
        self.token_ids = list(token_ids)
        self.future: Future[Tensor] = Future()
        """Log-probabilities in nats, `(streams, tokens)`, float32 on the CPU."""
        self.log_probs: list[Tensor] = []
        """Those of the first prompts, each `(tokens,)`."""
        self.is_alone = False
        """Whether each prompt has a batch of its own, since a batch with it has failed."""

    @property
    def is_finished(self) -> bool:
        """Whether the future has a result or an error, or is cancelled."""
        return self.future.done()

    def push(self, log_probs: Tensor) -> None:
        """Add the log-probabilities after the next prompt. The last ones complete the future."""
        self.log_probs.append(log_probs)
        if len(self.log_probs) == len(self.prompts):
            with contextlib.suppress(InvalidStateError):
                self.future.set_result(torch.stack(self.log_probs))

    def end_after_fork(self, error: BaseException) -> None:
        """End the scoring in a forked process, where a thread of the parent process may hold the lock of the future."""
        future: Any = self.future
        # Also without what the parent process waits with: asyncio would wake the parent's event loop.
        future._condition, future._waiters, future._done_callbacks = threading.Condition(), [], []  # noqa: SLF001
        self.fail(error)

    def fail(self, error: BaseException) -> None:
        """Set an error, unless the future is done already."""
        with contextlib.suppress(InvalidStateError):
            self.future.set_exception(error)


class _Batch(NamedTuple):
    scorings: list[Scoring]  # one per text and prompt, in the order of the queue
    forwards: Generator[None, None, list[Tensor]]


class BatchScorer:
    """Scores the texts that wait, in batches, one forward per step.

    Args:
        runner: Executes the model.
        prefill_tokens: The most tokens of a forward while requests run.
    """

    def __init__(self, runner: Runner[Any], prefill_tokens: int) -> None:
        self._runner, self._prefill_tokens = runner, prefill_tokens
        self._idle_tokens = max(prefill_tokens, _IDLE_TOKENS)
        self._batch: _Batch | None = None

    def step(self, waiting: Sequence[Scoring], *, is_busy: bool) -> None:
        """Run one forward for the texts at the front of the queue. An error of the model goes to their futures.

        Args:
            waiting: The queue, which may contain finished scorings.
            is_busy: Whether requests run, whose next tokens wait for this forward.
        """
        if self._batch is None or all(scoring.is_finished for scoring in self._batch.scorings):
            self._batch = self._next_batch(waiting, self._prefill_tokens if is_busy else self._idle_tokens)
        if self._batch is None:
            return
        scorings = self._batch.scorings
        try:
            next(self._batch.forwards)
        except StopIteration as end:
            self._batch = None
            for scoring, log_probs in zip(scorings, end.value, strict=True):
                scoring.push(log_probs)
        except Exception as error:  # noqa: BLE001 - any error of the model
            self._batch = None
            _fail(scorings, error)

    def release(self) -> None:
        """Free the rows of a batch whose scorings are all finished."""
        self._batch = None

    def _next_batch(self, waiting: Sequence[Scoring], max_tokens: int) -> _Batch | None:
        unfinished = [scoring for scoring in waiting if not scoring.is_finished]
        if not unfinished:
            return None
        pairs = _next_pairs(unfinished, _BATCH_FORWARDS * max_tokens)
        tokens = [(prompt, scoring.token_ids) for scoring, prompt in pairs]
        return _Batch([scoring for scoring, _ in pairs], self._forwards(tokens, max_tokens))

    def _forwards(
        self, tokens: list[tuple[list[int], list[int]]], max_tokens: int
    ) -> Generator[None, None, list[Tensor]]:
        return (yield from self._runner.score(tokens, max_tokens=max_tokens))  # here, any error belongs to the batch


def _next_pairs(waiting: Sequence[Scoring], max_tokens: int) -> list[tuple[Scoring, list[int]]]:
    """Return the first texts of the queue and their prompts, at least one, whose rows have at most `max_tokens`."""
    pairs: list[tuple[Scoring, list[int]]] = []
    longest_prompt = longest_text = 0
    for scoring in waiting:
        longest_text = max(longest_text, len(scoring.token_ids))
        for prompt in scoring.prompts[len(scoring.log_probs) :]:
            longest_prompt = max(longest_prompt, len(prompt))
            longest = longest_prompt + longest_text
            if pairs and (longest * (len(pairs) + 1) > max_tokens or scoring.is_alone or pairs[0][0].is_alone):
                return pairs
            pairs.append((scoring, prompt))
    return pairs


def _fail(scorings: Sequence[Scoring], error: Exception) -> None:
    """Give up the only text of a batch, or have each of several texts scored in a batch of its own."""
    for scoring in scorings if len(scorings) > 1 else ():
        scoring.is_alone = True
    if len(scorings) == 1:
        scorings[0].fail(_failure_of(scorings[0], error))


def _failure_of(scoring: Scoring, error: Exception) -> AmuletError:
    if not is_out_of_memory(error):
        return failure_of(error)
    num_tokens = max(map(len, scoring.prompts)) + len(scoring.token_ids)
    msg = f"A forward of {num_tokens} tokens needs more memory than the device has free. Score a shorter text."
    return caused(EngineMemoryError(msg), error)
