"""Many requests at once on one model, each with its own streams, strength, sampling and end.

The engine knows token ids only: no text, no messages, no users.
"""

import asyncio
import atexit
import logging
import os
import threading
import weakref
from collections import deque
from collections.abc import Sequence as TokenIds
from concurrent.futures import Future
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from langchain_amulet.engine.config import EngineConfig
from langchain_amulet.engine.failures import failure_of
from langchain_amulet.engine.generation import Generation
from langchain_amulet.engine.params import Request
from langchain_amulet.engine.runners.protocol import Runner
from langchain_amulet.engine.scheduler import Scheduler
from langchain_amulet.engine.scoring import Scoring
from langchain_amulet.engine.sequence import Sequence
from langchain_amulet.engine.worker import Worker, join_orphans
from langchain_amulet.exceptions import ContextLengthError, EngineBusyError, InvalidParameterError, ModelClosedError

logger = logging.getLogger(__name__)

_CACHE_SHARE = 0.5  # of the memory that is free once the weights are there
_PREFIX_CACHE_SHARE = 0.1
_PREFILL_TOKENS = {"cpu": 128}  # about as long as four steps of one user on the CPUs measured
_DEFAULT_PREFILL_TOKENS = 1024  # enough to fill a GPU, where reading it takes about as long as a step
_EXIT_TIMEOUT_S = 30  # for the step under way when the process ends


@dataclass(frozen=True, slots=True)
class EngineStats:
    """What an engine is doing, and has done."""

    num_running: int
    """Requests that hold rows."""
    num_waiting: int
    """Requests that wait for rows, callers who wait for a place in the queue included."""
    num_rows: int
    """Rows in use."""
    num_kept_tokens: int
    """Tokens kept of earlier requests."""
    num_reused_tokens: int
    """Tokens, since the engine was made, that were copied from other requests in place of being read."""
    num_preemptions: int
    """Times, since the engine was made, that a request gave up its rows to be read again later."""


class Engine:
    """Generates answers from one model; requests join and leave its batch at every token.

    A worker thread owns all forwards. It ends with the engine, once nobody refers to it and the last request is done.

    Args:
        runner: Executes the model.
        config: Limits. What is `None` there is taken from the device: half of its free memory for requests under way,
            and a tenth for what is kept of earlier ones.
    """

    def __init__(self, runner: Runner, config: EngineConfig | None = None) -> None:
        self.config = _completed(config or EngineConfig(), runner)
        """The limits that hold."""
        self.vocab_size = runner.vocab_size
        """V, the length of a row of logits."""
        self._runner = runner
        self._scheduler = Scheduler(runner, self.config)
        self._worker = Worker("amulet-engine")
        self._lock = threading.Lock()  # for what follows
        self._inbox: deque[Sequence] = deque()
        self._queueing: deque[tuple[Sequence, Future[None]]] = deque()  # not even in the queue yet
        self._scorings: deque[Scoring] = deque()
        self._is_working = False
        self._is_closed = False
        self._forgets = False
        self._cancels = False
        self._error: BaseException | None = None  # that has closed it
        _engines.add(self)

    def submit(self, request: Request) -> Generation:
        """Take a request; its tokens are drawn from now on.

        Waits while the queue is full, unless `config.when_busy` is `"raise"`.

        Raises:
            InvalidParameterError: A token id is none of the model's, or there are more streams than rows.
            ContextLengthError: A prompt leaves no room for an answer.
            EngineBusyError: The queue is full.
            ModelClosedError: The engine was closed.
        """
        sequence = self._sequence(request)
        generation = Generation(sequence)
        try:
            self._enqueue(sequence).result()
        except BaseException:
            generation.cancel()
            raise
        return generation

    async def asubmit(self, request: Request) -> Generation:
        """`submit`, where waiting for a place in the queue does not hold up the event loop."""
        sequence = self._sequence(request)
        generation = Generation(sequence)
        try:
            await asyncio.wrap_future(self._enqueue(sequence))
        except BaseException:
            generation.cancel()
            raise
        return generation

    def score(self, prompts: TokenIds[TokenIds[int]], token_ids: TokenIds[int]) -> "Future[Tensor]":
        """How likely a text is after each of several prompts; one forward for each, between the steps of others.

        Args:
            prompts: Token ids of each stream.
            token_ids: Those of the text.

        Returns:
            A future of the log-probability of each token, in nats: `(streams, tokens)`, float32 on the CPU. Cancelled,
            it ends after the forward under way.

        Raises:
            InvalidParameterError: A token id is none of the model's, there is no prompt, or one or the text is empty.
            ContextLengthError: A prompt and the text together are longer than the model's context.
            ModelClosedError: The engine was closed.
            GenerationError: By the future: the model failed. Or EngineMemoryError: for want of memory.
        """
        if not prompts:
            msg = "There is no prompt to score the text after. Give at least one."
            raise InvalidParameterError(msg)
        for row in (*prompts, token_ids):
            self._check_tokens(row)
        longest = max(map(len, prompts)) + len(token_ids)
        if longest > self._runner.max_context:
            msg = (
                f"The prompt and the text have {longest} tokens; the model takes {self._runner.max_context}. "
                f"Shorten the conversation or the text."
            )
            raise ContextLengthError(msg)
        scoring = Scoring(prompts, token_ids)
        with self._lock:
            if self._is_closed:
                raise _closed(self._error)
            self._scorings.append(scoring)
            self._start()
        return scoring.future

    @property
    def is_closed(self) -> bool:
        """Whether it takes no more requests."""
        return self._is_closed

    @property
    def stats(self) -> EngineStats:
        """What the engine is doing."""
        scheduler = self._scheduler
        return EngineStats(
            num_running=scheduler.num_running,
            num_waiting=self._num_waiting + len(self._queueing),
            num_rows=scheduler.num_rows,
            num_kept_tokens=scheduler.reuse.num_kept,
            num_reused_tokens=scheduler.reuse.num_reused,
            num_preemptions=scheduler.num_preemptions,
        )

    def forget_private(self) -> None:
        """Drop what is kept of streams that not everybody may reuse, such as those that hold preferences."""
        with self._lock:
            self._forgets = True
            for sequence in (*self._inbox, *(sequence for sequence, _ in self._queueing)):
                sequence.is_forgotten = True
            self._start()

    def close(self, *, cancel: bool = False) -> None:
        """Take no more requests; those under way still end, or, with `cancel`, are cancelled.

        Callers who wait for a place in the queue get `ModelClosedError`.
        """
        with self._lock:
            self._is_closed = True
            while self._queueing:
                sequence, future = self._queueing.popleft()
                sequence.finish("cancelled")
                if future.set_running_or_notify_cancel():
                    future.set_exception(_closed(None))
            if cancel:
                self._cancels = True  # the worker sees also whom the scheduler is moving right now
                self._start()
                for sequence in (*self._inbox, *self._scheduler.all_sequences()):
                    sequence.finish("cancelled")
                for scoring in self._scorings:
                    scoring.fail(_closed(None))

    def _sequence(self, request: Request) -> Sequence:
        num_streams = len(request.prompts)
        if num_streams > self.config.max_rows:
            msg = f"The request has {num_streams} streams; the engine decodes {self.config.max_rows} rows (max_rows)."
            raise InvalidParameterError(msg)
        for prompt in request.prompts:
            self._check_tokens(prompt)
        return Sequence(request, max_length=self._scheduler.max_length(num_streams))

    def _check_tokens(self, token_ids: TokenIds[int]) -> None:
        if not token_ids:
            msg = "There are no tokens: every prompt, and a text to score, has at least one."
            raise InvalidParameterError(msg)
        if not 0 <= min(token_ids) <= max(token_ids) < self.vocab_size:
            msg = f"Token ids go from 0 to {self.vocab_size - 1}; got {min(token_ids)} to {max(token_ids)}."
            raise InvalidParameterError(msg)

    def _enqueue(self, sequence: Sequence) -> "Future[None]":
        """Completes when the request has a place in the queue."""
        place: Future[None] = Future()
        with self._lock:
            if self._is_closed:
                raise _closed(self._error)
            if not self._queueing and self._num_waiting < self.config.max_waiting:
                self._inbox.append(sequence)
                place.set_result(None)
            elif self.config.when_busy == "raise":
                msg = (
                    f"The queue is full: {self._num_waiting} requests are waiting. Try again later; "
                    f'or raise max_waiting, or let requests wait: EngineConfig(when_busy="wait").'
                )
                raise EngineBusyError(msg)
            else:
                self._queueing.append((sequence, place))
            self._start()
        return place

    @property
    def _num_waiting(self) -> int:
        return len(self._inbox) + self._scheduler.num_waiting

    def _start(self) -> None:
        if not self._is_working:
            self._is_working = True
            self._worker.submit(self._work)

    def _work(self) -> None:
        """Step until there is nothing left to do; whatever happens, those who wait for an answer get to know."""
        try:
            with torch.inference_mode():  # recovering writes to tensors of it too
                while self._take_in():
                    try:
                        self._scheduler.step()
                    except Exception as error:  # noqa: BLE001
                        self._scheduler.recover(error)
                    if self._scorings:
                        self._scorings[0].step(self._runner)
        except BaseException as error:
            logger.exception("The engine's worker has failed, so the engine is closed.")
            self._break_down(error)

    def _break_down(self, error: BaseException) -> None:
        """End everything, after an error that the scheduler has found no way around."""
        with self._lock:
            self._is_closed, self._is_working, self._error = True, False, error
            queueing, scorings = [*self._queueing], [*self._scorings]
            sequences = [*self._scheduler.all_sequences(), *self._inbox, *(sequence for sequence, _ in queueing)]
        for sequence in sequences:
            sequence.finish("error", failure_of(error))
        for _, place in queueing:
            if place.set_running_or_notify_cancel():
                place.set_result(None)  # the generation tells
        for scoring in scorings:
            scoring.fail(_closed(error))

    def _take_in(self) -> bool:
        """Take over what other threads have left; whether there is anything to do."""
        with self._lock:
            while self._inbox:
                self._scheduler.add(self._inbox.popleft())
            self._give_places()
            if self._forgets:
                self._scheduler.forget_private()
                self._forgets = False
            if self._cancels:
                for sequence in self._scheduler.all_sequences():
                    sequence.finish("cancelled")
            while self._scorings and self._scorings[0].is_finished:
                self._scorings.popleft()
            if not self._scheduler.has_work:
                self._scheduler.release()
                self._is_working = bool(self._scorings)
            return self._is_working

    def _give_places(self) -> None:
        """Let those in who wait outside the queue, and those go who have waited too long."""
        for sequence, _ in self._queueing:
            sequence.expire()
        outside, self._queueing = self._queueing, deque()
        for sequence, place in outside:
            if not sequence.is_finished and self._num_waiting >= self.config.max_waiting:
                self._queueing.append((sequence, place))
            elif place.set_running_or_notify_cancel():
                if not sequence.is_finished:
                    self._scheduler.add(sequence)
                place.set_result(None)  # of one that has ended, the generation tells


_engines: "weakref.WeakSet[Engine]" = weakref.WeakSet()


@atexit.register
def _end_all() -> None:
    """Cancel what is under way when the process ends, since torch must not compute while it is taken down."""
    for engine in list(_engines):
        engine.close(cancel=True)
        engine._worker.join(_EXIT_TIMEOUT_S)  # noqa: SLF001
    join_orphans(_EXIT_TIMEOUT_S)


def _close_all_in_child() -> None:
    """A forked process has no worker threads; models make new engines there."""
    for engine in list(_engines):
        engine._lock = threading.Lock()  # noqa: SLF001 - a thread that is not there any more may hold the old one
        engine._is_closed = True  # noqa: SLF001


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_close_all_in_child)


def _closed(error: BaseException | None) -> ModelClosedError:
    if error is None:
        return ModelClosedError("This engine was closed. Load the model again.")
    closed = ModelClosedError(
        f"This engine has closed itself after {type(error).__name__}: {error}. Load the model again."
    )
    closed.__cause__ = error
    return closed


def _completed(config: EngineConfig, runner: Runner) -> EngineConfig:
    """Choose what is left open there from the device."""
    free = max(0, runner.free_bytes())
    chunk = _PREFILL_TOKENS.get(runner.device.type, _DEFAULT_PREFILL_TOKENS)

    def given(value: int | None, otherwise: int) -> int:
        return otherwise if value is None else value

    return replace(
        config,
        cache_bytes=given(config.cache_bytes, max(1, int(_CACHE_SHARE * free))),
        prefix_cache_bytes=given(config.prefix_cache_bytes, int(_PREFIX_CACHE_SHARE * free)),
        prefill_tokens=given(config.prefill_tokens, chunk),
    )
