"""The scheduler: decides which requests hold rows and what the next forward computes.

A request is a group of rows, one per stream; they are admitted, stepped and freed together. The rows that decode come
first. Behind them are the rows of the requests whose prompts are being prefilled.

| State | Where | Enters it | Leaves it |
|---|---|---|---|
| waiting | `_queue` | `add()`; `_preempt()`, at the front | `_admit()` |
| prefilling | `_prefilling`, rows behind | `_admit()` | `_read()`, once all its prompts are read |
| decoding | `_decoding`, rows in front | `_read()`, with its first token | `_preempt()` or `_sweep()` |
| finished | `finish_reason` is set | `finish()`, from any thread; its last token | `_sweep()`, which frees its rows |

Three flags change how a request is treated while it waits or prefills:

| Flag | Set | Effect |
|---|---|---|
| `Sequence.is_suspect` | `recover()`: a prefill of several requests has failed | it is prefilled alone |
| `Sequence.is_last_try` | `_give_up()`: too little memory while it ran alone | the next such failure ends it |
| `AdmissionQueue.is_full` | no memory for its rows, or for a step | no admission until a request has left |
"""

from collections import abc
from typing import Any

import torch
from torch import Tensor

from langchain_amulet.engine.admission import UNLIMITED, AdmissionQueue, RowLimits
from langchain_amulet.engine.batch import Batch
from langchain_amulet.engine.chunks import plan_chunk
from langchain_amulet.engine.config import EngineConfig
from langchain_amulet.engine.device_memory import is_out_of_memory
from langchain_amulet.engine.failures import failure_of, too_large
from langchain_amulet.engine.reuse import Reuse
from langchain_amulet.engine.row import Row, rows_by_sequence
from langchain_amulet.engine.runners.protocol import Runner
from langchain_amulet.engine.sequence import Sequence
from langchain_amulet.engine.speculation.speculator import Speculator

_IDLE_FACTOR = 8  # chunks are larger while no request decodes; a new request then waits for the end of the chunk
_MIN_CHUNK = 16  # tokens; a device without memory for so few has none for a smaller chunk either


class Scheduler:
    """Admits, steps and frees sequences on one runner. Not thread-safe: only the worker thread calls it.

    Args:
        runner: Executes the model.
        config: Limits. `None` means no limit.
    """

    def __init__(self, runner: Runner[Any], config: EngineConfig) -> None:
        self._runner = runner
        self._max_bytes = config.cache_bytes or UNLIMITED
        self._limits = RowLimits(config.max_rows, self._max_bytes, runner.max_context, runner.bytes_per_token)
        self._prefill_tokens = config.prefill_tokens or UNLIMITED
        self._reuse = Reuse(runner, config.prefix_cache_bytes or 0)
        self._speculator = Speculator(config.num_draft_tokens if runner.is_incremental else 0, runner.device.type)
        self._rows: list[Row] = []
        self._num_decode_rows = 0
        self._queue = AdmissionQueue(self._limits)
        self._prefilling: list[Sequence] = []
        self._decoding: list[Sequence] = []
        self._num_shared = 0  # prompt tokens that the base row of the request in prefill reads for all its rows
        self._batch: Batch | None = None  # of the decoding requests; rebuilt after a row has moved
        self._in_forward: list[Sequence] = []  # the requests of the current forward
        self._is_reading = False  # whether the current forward is a prefill
        self._is_verifying = False  # whether the current forward verifies drafted tokens
        self._chunk_divisor = 1  # grows when the device has no memory for a chunk; reset when the engine is idle
        self.num_preemptions = 0
        """How often a request lost its rows, to be prefilled again later."""

    @property
    def num_waiting(self) -> int:
        """Requests without rows."""
        return len(self._queue)

    @property
    def num_running(self) -> int:
        """Requests with rows."""
        return len(self._decoding) + len(self._prefilling)

    @property
    def num_rows(self) -> int:
        """Rows in use."""
        return len(self._rows)

    @property
    def reuse(self) -> Reuse[Any]:
        """Reuses keys and values, and counts the reused tokens."""
        return self._reuse

    @property
    def speculator(self) -> Speculator:
        """Drafts tokens, and counts them."""
        return self._speculator

    @property
    def has_work(self) -> bool:
        """Whether a step would do anything."""
        return bool(self._queue or self._rows)

    def max_length(self, num_rows: int) -> int:
        """Return the most tokens that each of `num_rows` rows can hold within the limits."""
        return self._limits.max_length(num_rows)

    def add(self, sequence: Sequence) -> None:
        """Queue a request."""
        self._queue.append(sequence)

    def all_sequences(self) -> list[Sequence]:
        """Return all waiting and running requests."""
        return [*self._decoding, *self._prefilling, *self._queue.sequences()]

    @torch.inference_mode()
    def step(self) -> None:
        """Prefill one chunk of prompts, and draw one token for each decoding request."""
        self._sweep()
        try:
            self._admit()
            if self._prefilling:
                self._read()
                self._end_forward()
                self._sweep()  # an answer may end with its first token
            if self._decoding:
                self._decode()
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            self._make_room(error)
        self._end_forward()
        self._sweep()

    @torch.inference_mode()
    def recover(self, error: Exception) -> None:
        """Continue after a step has raised an error: the requests of the failed forward end with an error.

        If it is unknown which requests were in the forward, all requests end.

        After a failed prefill of several requests, each is prefilled again alone, so that only the failing one ends.
        """
        failed, self._in_forward = self._in_forward or self.all_sequences(), []
        is_reading, self._is_reading, self._is_verifying = self._is_reading, False, False
        self._take_back()
        if is_reading and len(failed) > 1:
            for sequence in reversed(failed):
                sequence.is_suspect = True
                self._preempt(sequence, saves=False)
        else:
            for sequence in failed:
                sequence.finish("error", failure_of(error))
        self._sweep()

    def forget_private(self) -> None:
        """Drop the saved private rows, and do not save such rows of running and waiting requests."""
        for sequence in self.all_sequences():
            sequence.forget()
        self._reuse.clear(private_only=True)

    def release(self) -> None:
        """Free the memory of all rows. No row may be in use."""
        assert not self._rows, "rows are in use"
        self._chunk_divisor = 1
        self._speculator.resume()
        self._runner.release()

    def _end_forward(self) -> None:
        self._in_forward, self._is_reading, self._is_verifying = [], False, False

    # Admission

    def _admit(self) -> None:
        while True:
            sequence = self._queue.next_admissible(
                self._rows, self._num_decode_rows, num_shared=self._num_shared, chunk_size=self._chunk_size()
            )
            if sequence is None:
                return
            longest = max(running.num_tokens for running in (sequence, *self._decoding, *self._prefilling))
            self._in_forward = [sequence]
            try:
                self._runner.reserve(len(self._rows) + sequence.num_streams, longest, self._max_bytes)
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                self._refuse(sequence, error)
                return
            self._prefilling.append(self._queue.pop())
            first = len(self._rows)
            self._rows += [Row(sequence, stream) for stream in range(sequence.num_streams)]
            self._num_shared = self._reuse.fill(self._rows, first)
            self._in_forward = []

    def _refuse(self, sequence: Sequence, error: BaseException) -> None:
        """Handle too little memory for new rows: drop the saved rows, or wait until a request leaves, or give up."""
        if self._reuse.clear():
            return
        self._queue.is_full = True
        if not self._rows:
            self._give_up(sequence, error)

    def _give_up(self, sequence: Sequence, error: BaseException) -> None:
        """Try a request that does not fit into memory alone once more, in buffers of exactly its size; then end it."""
        self._runner.release()
        if sequence.is_last_try:
            sequence.finish("error", too_large(sequence, error))
        sequence.is_last_try = True

    # Prefill

    def _read(self) -> None:
        """Prefill one chunk. After the last chunk, the requests draw their first token and join the decoding ones."""
        self._in_forward, self._is_reading = list(self._prefilling), True
        first = self._num_decode_rows
        rows = self._rows[first:]
        if self._num_shared:
            self._read_shared(rows)
            return
        start, counts = 0, [row.num_unread for row in rows]
        if self._runner.is_incremental:
            room = self.max_length(len(self._rows)) - max(row.num_tokens for row in rows)
            start, counts = plan_chunk(counts, chunk_size=self._chunk_size(), max_width=room)
        logits = self._extend(first + start, counts)
        if all(row.num_unread == 0 for row in rows):
            batch = Batch(self._prefilling, rows_by_sequence(self._prefilling, rows))
            self._decoding += self._prefilling
            self._prefilling, self._num_decode_rows, self._batch = [], len(self._rows), None
            batch.draw(logits)

    def _read_shared(self, rows: list[Row]) -> None:
        """Prefill the common prefix of all streams of a request in its base row, then copy it to the others."""
        assert len(self._prefilling) == 1, "a request with a long common prefix is prefilled alone"
        base = self._num_decode_rows + next(index for index, row in enumerate(rows) if row.stream == 0)
        self._extend(base, [min(self._chunk_size(), self._num_shared - self._rows[base].num_tokens)])
        if self._rows[base].num_tokens == self._num_shared:
            self._reuse.share(self._rows, base, range(self._num_decode_rows, len(self._rows)))
            self._num_shared = 0

    def _chunk_size(self) -> int:
        """Return the most tokens to prefill in one forward: fewer while other requests are decoding."""
        size = self._prefill_tokens if self._decoding else _IDLE_FACTOR * self._prefill_tokens
        return max(1, size // self._chunk_divisor)

    def _extend(self, first: int, counts: abc.Sequence[int]) -> Tensor:
        rows = self._rows[first : first + len(counts)]
        self._runner.reserve(len(self._rows), max(row.num_tokens for row in rows) + max(counts), self._max_bytes)
        logits = self._runner.prefill(first, [row.unread_ids(count) for row, count in zip(rows, counts, strict=True)])
        for row, count in zip(rows, counts, strict=True):
            row.num_tokens += count
        return logits

    # Decoding

    def _decode(self) -> None:
        """Draw one token for each decoding request, and one more after each drafted token that comes true."""
        self._preempt_until_rows_fit()
        self._in_forward = list(self._decoding)
        rows = self._rows[: self._num_decode_rows]
        if not rows:
            return
        if self._batch is None:
            self._batch = Batch(self._decoding, rows_by_sequence(self._decoding, rows))
        longest = max(row.num_tokens for row in rows)
        room = self.max_length(len(self._rows)) - longest - 1
        drafts = self._speculator.drafts(self._decoding, len(rows), room)
        self._is_verifying = bool(drafts)
        input_ids = [[row.next_id, *drafts.get(row.sequence, ())] for row in rows]
        self._runner.reserve(len(self._rows), longest + max(map(len, input_ids)), self._max_bytes)
        if drafts:
            logits = self._runner.verify(input_ids)
        else:
            logits = self._runner.decode([row_ids[0] for row_ids in input_ids]).unsqueeze(1)
        for row, row_ids in zip(rows, input_ids, strict=True):
            row.num_tokens += len(row_ids)
        self._speculator.draw(self._batch, logits, drafts)
        self._take_back()

    def _preempt_until_rows_fit(self) -> None:
        """Preempt the latest requests until the rows fit into the memory limit after one more token."""
        while self.num_running > 1:
            active = [*self._decoding, *self._prefilling]
            if max(sequence.num_tokens for sequence in active) <= self.max_length(len(self._rows)):
                return
            self._preempt(self._latest())

    def _latest(self) -> Sequence:
        return max([*self._decoding, *self._prefilling], key=lambda sequence: sequence.number)

    def _make_room(self, error: BaseException) -> None:
        """Free memory after a forward or a draw had too little of it, so that the next step can try again.

        Drops the saved rows first, then ends drafting or makes chunks smaller, then preempts the latest request.
        """
        self._take_back()
        if self._reuse.clear() or not self.num_running:
            return
        if self._is_verifying:
            self._speculator.suspend()
            return
        if self._is_reading and self._chunk_size() > _MIN_CHUNK:
            self._chunk_divisor *= 2
            return
        latest, is_alone = self._latest(), self.num_running == 1
        self._preempt(latest, saves=False)
        self._queue.is_full = True
        if is_alone:
            self._give_up(latest, error)

    def _take_back(self) -> None:
        """Remove the tokens from rows after which no token was drawn: they were read in vain, or drafted wrongly."""
        for index, row in enumerate(self._rows[: self._num_decode_rows]):
            if row.num_unread < 1:
                row.num_tokens -= 1 - row.num_unread
                self._runner.truncate(index, row.num_tokens)

    def _preempt(self, sequence: Sequence, *, saves: bool = True) -> None:
        """Free the rows of a running request and put it at the front of the queue, to be prefilled again later."""
        self._leave(sequence, saves=saves)
        self._queue.put_back(sequence)
        self.num_preemptions += 1

    # Leaving

    def _sweep(self) -> None:
        """Remove the requests that have ended or timed out, and free their rows."""
        for sequence in self.all_sequences():
            sequence.expire()
        for sequence in [running for running in (*self._decoding, *self._prefilling) if running.is_finished]:
            self._leave(sequence)
        self._queue.remove_finished()

    def _leave(self, sequence: Sequence, *, saves: bool = True) -> None:
        # Rows from which no token was drawn may hold NaN.
        is_sound = sequence in self._decoding and sequence.is_sound and sequence.finish_reason != "error"
        for index in reversed(range(len(self._rows))):
            if self._rows[index].sequence is sequence:
                if saves and is_sound:
                    self._reuse.keep(self._rows[index], index)
                self._free(index, erase=not is_sound)
        group = self._prefilling if sequence in self._prefilling else self._decoding
        group.remove(sequence)
        if not self._prefilling:
            self._num_shared = 0
        self._batch, self._queue.is_full = None, False

    def _free(self, index: int, *, erase: bool) -> None:
        """Free a row. The last rows move into the gap, so that the decoding rows stay in front."""
        if erase:
            self._runner.truncate(index, 0, erase=True)
        if index < self._num_decode_rows:
            self._num_decode_rows -= 1
            self._move(self._num_decode_rows, index)
            index = self._num_decode_rows
        self._move(len(self._rows) - 1, index)
        self._rows.pop()
        self._runner.truncate(len(self._rows), 0)

    def _move(self, source: int, target: int) -> None:
        if source != target:
            self._rows[target] = self._rows[source]
            self._runner.copy_prefix(source, target, self._rows[source].num_tokens)
