"""Scoring: the log-probabilities of a text after each of several prompts."""

import contextlib
import threading
from collections.abc import Sequence
from concurrent.futures import Future, InvalidStateError
from typing import Any

import torch
from torch import Tensor

from langchain_amulet.engine.device_memory import is_out_of_memory
from langchain_amulet.engine.failures import caused, failure_of
from langchain_amulet.engine.runners.protocol import Runner
from langchain_amulet.exceptions import AmuletError, EngineMemoryError


class Scoring:
    """A text to score. It takes one forward per prompt, between the steps of the running requests.

    Args:
        prompts: Token ids of each stream, at least one per stream.
        token_ids: Token ids of the text, at least one.
    """

    def __init__(self, prompts: Sequence[Sequence[int]], token_ids: Sequence[int]) -> None:
        self.prompts = [list(prompt) for prompt in prompts]
        self.token_ids = list(token_ids)
        self.future: Future[Tensor] = Future()
        """Log-probabilities in nats, `(streams, tokens)`, float32 on the CPU."""
        self._log_probs: list[Tensor] = []

    @property
    def is_finished(self) -> bool:
        """Whether the future has a result or an error, or is cancelled."""
        return self.future.done()

    def step(self, runner: Runner[Any]) -> None:
        """Score the text after the next prompt. An error of the model goes to the future."""
        try:
            prompt = self.prompts[len(self._log_probs)]
            self._log_probs.append(runner.score(prompt, self.token_ids))
        except Exception as error:  # noqa: BLE001
            self.fail(self._failure_of(error))
            return
        if len(self._log_probs) == len(self.prompts):
            with contextlib.suppress(InvalidStateError):
                self.future.set_result(torch.stack(self._log_probs))

    def _failure_of(self, error: Exception) -> AmuletError:
        if not is_out_of_memory(error):
            return failure_of(error)
        num_tokens = max(map(len, self.prompts)) + len(self.token_ids)
        msg = f"A forward of {num_tokens} tokens needs more memory than the device has free. Score a shorter text."
        return caused(EngineMemoryError(msg), error)

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
