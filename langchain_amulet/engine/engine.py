"""The engine: runs many requests at once on one model, with continuous batching.

Each request has its own streams, guidance scale, sampling parameters and stop tokens. The engine works on token ids
only: it knows no text, messages or users.
"""

import asyncio
import atexit
import logging
import os
import threading
import weakref
from collections import abc, deque
from concurrent.futures import Future
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from langchain_amulet.engine.config import EngineConfig
from langchain_amulet.engine.failures import closed_engine, failure_of, forked_engine
from langchain_amulet.engine.generation import Generation
from langchain_amulet.engine.params import Request
from langchain_amulet.engine.runners.protocol import Runner
from langchain_amulet.engine.scheduler import Scheduler
from langchain_amulet.engine.scoring import BatchScorer, Scoring
from langchain_amulet.engine.sequence import Sequence
from langchain_amulet.engine.stats import EngineStats
from langchain_amulet.engine.worker import Worker, join_orphans
from langchain_amulet.exceptions import ContextLengthError, EngineBusyError, InvalidParameterError

logger = logging.getLogger(__name__)

_CACHE_SHARE = 0.5  # of the memory that is free after the weights are loaded
_PREFIX_CACHE_SHARE = 0.1
_PREFILL_TOKENS = {"cpu": 128}  # takes about as long as four steps of one user on the CPUs measured
_DEFAULT_PREFILL_TOKENS = 1024  # enough to use all of a GPU, and takes about as long as a step
_EXIT_TIMEOUT_S = 30  # for the current step when the process ends


class Engine:
    """Generates answers from one model. Requests can join and leave the batch at every token.

    A worker thread runs all forwards. It ends when the engine is garbage collected and the last request has ended.

    Args:
        runner: Executes the model.
        config: Limits. `EngineConfig` says which value a limit of `None` stands for on the device.
    """

    def __init__(self, runner: Runner[Any], config: EngineConfig | None = None) -> None:
        self.config = _with_defaults(config or EngineConfig(), runner)
        """The limits, without `None`."""
        self.vocab_size = runner.vocab_size
        """V, the number of logits per token."""
        self._runner = runner
        self._scheduler = Scheduler(runner, self.config)
        self._scorer = BatchScorer(runner, self.config.prefill_tokens or 1)
        self._worker = Worker("amulet-engine")
        self._lock = threading.Lock()  # for the attributes below
        self._inbox: deque[Sequence] = deque()
        # Callers of `submit` wait for a place in the queue.
        self._overflow: deque[tuple[Sequence, Future[None]]] = deque()
        self._scorings: deque[Scoring] = deque()
        self._is_working = False
        self._is_closed = False
        self._forget_requested = False
        self._cancel_requested = False
        self._error: BaseException | None = None  # the error that closed the engine
        self._pending: weakref.WeakSet[Sequence | Scoring] = weakref.WeakSet()  # what a forked process may wait for
        _engines.add(self)

    def submit(self, request: Request) -> Generation:
        """Start a request. Its tokens are drawn whether or not the returned generation is iterated.

        Waits while the queue is full, unless `config.when_busy` is `"raise"`.

        Raises:
            InvalidParameterError: A token id is not in the vocabulary, or there are more streams than rows.
            ContextLengthError: A prompt leaves no room for an answer.
            EngineBusyError: The queue is full, and `config.when_busy` is `"raise"`.
            MaxTokensError: The structure that the guide requires does not fit into `max_tokens`.
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
        """Async `submit`: waiting for a place in the queue does not block the event loop."""
        sequence = self._sequence(request)
        generation = Generation(sequence)
        try:
            await asyncio.wrap_future(self._enqueue(sequence))
        except BaseException:
            generation.cancel()
            raise
        return generation

    def score(self, prompts: abc.Sequence[abc.Sequence[int]], token_ids: abc.Sequence[int]) -> "Future[Tensor]":
        """Compute the log-probability of a text after each of several prompts, between the steps of requests.

        Calls that wait at the same time are computed together, and a prompt that several of them have is read once.

        Args:
            prompts: Token ids of each stream.
            token_ids: Token ids of the text.

        Returns:
            A future of the log-probability of each token, in nats, `(streams, tokens)`, float32 on the CPU. If it is
            cancelled, the text is still computed while its batch has others.

        Raises:
            InvalidParameterError: A token id is not in the vocabulary, there is no prompt, or a prompt or the text is
                empty.
            ContextLengthError: A prompt and the text together are longer than the model's context.
            ModelClosedError: The engine was closed.
            GenerationError: The model failed. The future raises it.
            EngineMemoryError: The device has too little free memory. The future raises it.
        """
        if not prompts:
            msg = "Got no prompts to score the text after. Pass at least one."
            raise InvalidParameterError(msg)
        for row in (*prompts, token_ids):
            self._check_tokens(row)
        longest = max(map(len, prompts)) + len(token_ids)
        if longest > self._runner.max_context:
            msg = (
                f"The prompt and the text have {longest} tokens; the model accepts {self._runner.max_context}. "
                f"Shorten the conversation or the text."
            )
            raise ContextLengthError(msg)
        scoring = Scoring(prompts, token_ids)
        self._pending.add(scoring)
        with self._lock:
            if self._is_closed:
                raise closed_engine(self._error)
            self._scorings.append(scoring)
            self._start()
        return scoring.future

    @property
    def is_closed(self) -> bool:
        """Whether the engine refuses new requests."""
        return self._is_closed

    @property
    def stats(self) -> EngineStats:
        """The state of the engine, and its counts."""
        scheduler = self._scheduler
        return EngineStats(
            num_running=scheduler.num_running,
            num_waiting=self._num_waiting + len(self._overflow),
            num_rows=scheduler.num_rows,
            num_kept_tokens=scheduler.reuse.num_kept,
            num_reused_tokens=scheduler.reuse.num_reused,
            num_preemptions=scheduler.num_preemptions,
            num_drafted_tokens=scheduler.speculator.num_drafted,
            num_accepted_tokens=scheduler.speculator.num_accepted,
            num_graphs=self._runner.num_graphs,
        )

    def forget_private(self) -> None:
        """Drop the private rows: those of streams with preferences, and of answers that follow preferences.

        The rows of requests that are running or waiting now are not saved either.
        """
        with self._lock:
            self._forget_requested = True
            for sequence in (*self._inbox, *(sequence for sequence, _ in self._overflow)):
                sequence.forget()
            self._start()

    def close(self, *, cancel: bool = False) -> None:
        """Refuse new requests. Running and waiting requests still finish; with `cancel` they are cancelled.

        Callers that wait for a place in the queue get `ModelClosedError`.
        """
        with self._lock:
            self._is_closed = True
            while self._overflow:
                sequence, future = self._overflow.popleft()
                sequence.finish("cancelled")
                if future.set_running_or_notify_cancel():
                    future.set_exception(closed_engine(None))
            if cancel:
                self._cancel_requested = True  # for requests that the worker is moving between lists right now
                self._start()
                for sequence in (*self._inbox, *self._scheduler.all_sequences()):
                    sequence.finish("cancelled")
                for scoring in self._scorings:
                    scoring.fail(closed_engine(None))

    def join(self, timeout_s: float) -> None:
        """Wait until the worker thread has ended, for at most `timeout_s` seconds. Call `close()` first."""
        self._worker.join(timeout_s)

    def close_after_fork(self) -> None:
        """Close the engine in a forked process, where its worker thread does not exist, and end all waits for it.

        Threads of the parent process may have held any lock when it forked, so all are replaced.
        """
        self._lock = threading.Lock()
        self._is_closed, self._is_working, self._error = True, False, forked_engine()
        for pending in list(self._pending):
            pending.end_after_fork(forked_engine())
        self._inbox, self._overflow, self._scorings = deque(), deque(), deque()

    def _sequence(self, request: Request) -> Sequence:
        num_streams = len(request.prompts)
        if num_streams > self.config.max_rows:
            msg = f"The request has {num_streams} streams; the engine has {self.config.max_rows} rows. Raise max_rows."
            raise InvalidParameterError(msg)
        for prompt in request.prompts:
            self._check_tokens(prompt)
        sequence = Sequence(request, max_length=self._scheduler.max_length(num_streams))
        self._pending.add(sequence)
        return sequence

    def _check_tokens(self, token_ids: abc.Sequence[int]) -> None:
        if not token_ids:
            msg = "Got no tokens: every prompt, and a text to score, needs at least one."
            raise InvalidParameterError(msg)
        if not 0 <= min(token_ids) <= max(token_ids) < self.vocab_size:
            msg = f"Token ids must be from 0 to {self.vocab_size - 1}; got {min(token_ids)} to {max(token_ids)}."
            raise InvalidParameterError(msg)

    def _enqueue(self, sequence: Sequence) -> "Future[None]":
        """Return a future that completes when the request has a place in the queue."""
        place: Future[None] = Future()
        with self._lock:
            if self._is_closed:
                raise closed_engine(self._error)
            if not self._overflow and self._num_waiting < self.config.max_waiting:
                self._inbox.append(sequence)
                place.set_result(None)
            elif self.config.when_busy == "raise":
                msg = (
                    f"The queue is full: {self._num_waiting} requests are waiting. Try again later; "
                    f'or raise max_waiting, or let callers wait: EngineConfig(when_busy="wait").'
                )
                raise EngineBusyError(msg)
            else:
                self._overflow.append((sequence, place))
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
        """Step until no request is left. If the worker itself fails, all requests end with an error."""
        try:
            with torch.inference_mode():  # recover() too writes to inference tensors
                while self._process_inbox():
                    try:
                        self._scheduler.step()
                    except Exception as error:  # noqa: BLE001
                        self._scheduler.recover(error)
                    if self._scorings:
                        with self._lock:
                            scorings = [*self._scorings]
                        self._scorer.step(scorings, is_busy=self._scheduler.has_work)
        except BaseException as error:
            logger.exception("The engine's worker has failed; the engine is closed.")
            self._break_down(error)

    def _break_down(self, error: BaseException) -> None:
        """Close the engine and end all requests, after an error from which the scheduler could not recover."""
        with self._lock:
            self._is_closed, self._is_working, self._error = True, False, error
            queueing, scorings = [*self._overflow], [*self._scorings]
            sequences = [*self._scheduler.all_sequences(), *self._inbox, *(sequence for sequence, _ in queueing)]
        for sequence in sequences:
            sequence.finish("error", failure_of(error))
        for _, place in queueing:
            if place.set_running_or_notify_cancel():
                place.set_result(None)  # the generation raises the error
        for scoring in scorings:
            scoring.fail(closed_engine(error))

    def _process_inbox(self) -> bool:
        """Process the requests and flags that other threads have set. Return whether there is work to do."""
        with self._lock:
            if self._forget_requested:  # before the inbox: requests that came after the call must not be affected
                self._scheduler.forget_private()
                self._forget_requested = False
            while self._inbox:
                self._scheduler.add(self._inbox.popleft())
            self._fill_queue()
            if self._cancel_requested:
                for sequence in self._scheduler.all_sequences():
                    sequence.finish("cancelled")
            while self._scorings and self._scorings[0].is_finished:
                self._scorings.popleft()
            if not self._scorings:
                self._scorer.release()
            if not self._scheduler.has_work:
                self._scheduler.release()
                self._is_working = bool(self._scorings)
            return self._is_working

    def _fill_queue(self) -> None:
        """Move requests from `_overflow` into free places of the queue, and drop those that have timed out."""
        for sequence, _ in self._overflow:
            sequence.expire()
        outside, self._overflow = self._overflow, deque()
        for sequence, place in outside:
            if not sequence.is_finished and self._num_waiting >= self.config.max_waiting:
                self._overflow.append((sequence, place))
            elif place.set_running_or_notify_cancel():
                if not sequence.is_finished:
                    self._scheduler.add(sequence)
                place.set_result(None)  # if the request has ended, the generation raises its error


_engines: "weakref.WeakSet[Engine]" = weakref.WeakSet()


@atexit.register
def _cancel_all_at_exit() -> None:
    """Cancel all requests when the process ends: torch must not compute during the shutdown of the interpreter."""
    for engine in list(_engines):
        engine.close(cancel=True)
        engine.join(_EXIT_TIMEOUT_S)
    join_orphans(_EXIT_TIMEOUT_S)


def _close_all_in_child() -> None:
    """Close all engines in a forked process, which has no worker threads; models make new engines there."""
    engines = list(_engines)
    for engine in engines:
        engine.close_after_fork()
    if engines:  # they may have used OpenMP, and GNU's hangs in a child that uses the parent's team of threads
        torch.set_num_threads(1)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_close_all_in_child)


def _with_defaults(config: EngineConfig, runner: Runner[Any]) -> EngineConfig:
    """Return the config with the device's default in place of each limit that is `None`."""
    free = max(0, runner.free_bytes())
    chunk = _PREFILL_TOKENS.get(runner.device.type, _DEFAULT_PREFILL_TOKENS)

    def or_default(value: int | None, default: int) -> int:
        return default if value is None else value

    return replace(
        config,
        cache_bytes=or_default(config.cache_bytes, max(1, int(_CACHE_SHARE * free))),
        prefix_cache_bytes=or_default(config.prefix_cache_bytes, int(_PREFIX_CACHE_SHARE * free)),
        prefill_tokens=or_default(config.prefill_tokens, chunk),
    )
