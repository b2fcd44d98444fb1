"""Which requests hold rows, and what the next forward does.

A request is a group of rows, one per stream, that are admitted, stepped and freed as one. Rows that decode together are
the first ones; behind them lie those of the requests whose prompts are being read.
"""

from collections import deque
from collections.abc import Sequence as Counts

import torch
from torch import Tensor

from langchain_amulet.engine.batch import Batch
from langchain_amulet.engine.config import EngineConfig
from langchain_amulet.engine.devices import is_out_of_memory
from langchain_amulet.engine.failures import failure_of, too_large
from langchain_amulet.engine.reuse import MIN_SHARED, Reuse
from langchain_amulet.engine.row import Row
from langchain_amulet.engine.runners.protocol import Runner
from langchain_amulet.engine.sequence import Sequence

_HEADROOM = 64  # tokens: who is admitted has room to grow before somebody has to be preempted
_MAX_UNEVENNESS = 64  # tokens; filling rows up by fewer costs less than a forward of their own (100 ms on our CPUs)
_IDLE_FACTOR = 8  # larger chunks while nobody waits for a token; whoever comes meanwhile waits for the end of one
_MIN_CHUNK = 16  # tokens; if the device has no memory for so few, there is too much else in it
_UNLIMITED = 2**62


class Scheduler:
    """Admits, steps and frees sequences on one runner; one thread at a time.

    Args:
        runner: Executes the model.
        config: Limits; one that is `None` does not hold.
    """

    def __init__(self, runner: Runner, config: EngineConfig) -> None:
        self._runner = runner
        self._max_rows = config.max_rows
        self._max_bytes = config.cache_bytes or _UNLIMITED
        self._prefill_tokens = config.prefill_tokens or _UNLIMITED
        self._reuse = Reuse(runner, config.prefix_cache_bytes or 0)
        self._rows: list[Row] = []
        self._num_decode_rows = 0
        self._waiting: deque[Sequence] = deque()
        self._prefilling: list[Sequence] = []
        self._decoding: list[Sequence] = []
        self._num_shared = 0  # tokens that the base row of who is being read has to read for all its rows
        self._batch: Batch | None = None  # of those running, until a row moves
        self._under_way: list[Sequence] = []  # whose forward has begun
        self._is_reading = False  # it reads prompts
        self._chunk_divisor = 1  # grows when the device has no memory for a chunk, until the engine is idle
        self._is_full = False  # the device had no memory for more, and nobody has left since
        self.num_preemptions = 0
        """How often a request gave up its rows, to be read again later."""

    @property
    def num_waiting(self) -> int:
        """Requests without rows."""
        return len(self._waiting)

    @property
    def num_running(self) -> int:
        """Requests with rows."""
        return len(self._decoding) + len(self._prefilling)

    @property
    def num_rows(self) -> int:
        """Rows in use."""
        return len(self._rows)

    @property
    def reuse(self) -> Reuse:
        """What is kept of earlier requests."""
        return self._reuse

    @property
    def has_work(self) -> bool:
        """Whether a step would do anything."""
        return bool(self._waiting or self._rows)

    def max_length(self, num_rows: int) -> int:
        """Tokens that each of so many rows can hold within the limits."""
        bytes_per_token = num_rows * self._runner.bytes_per_token
        return min(self._runner.max_context, self._max_bytes // bytes_per_token if bytes_per_token else _UNLIMITED)

    def add(self, sequence: Sequence) -> None:
        """Queue a request."""
        self._waiting.append(sequence)

    def all_sequences(self) -> list[Sequence]:
        """All requests that have not left."""
        return [*self._decoding, *self._prefilling, *self._waiting]

    @torch.inference_mode()
    def step(self) -> None:
        """Read one chunk of prompts, and draw one token for each request that is being answered."""
        self._sweep()
        try:
            self._admit()
            if self._prefilling:
                self._read()
                self._under_way, self._is_reading = [], False
                self._sweep()  # some answers end with their first token
            if self._decoding:
                self._decode()
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            self._make_room(error)
        self._under_way, self._is_reading = [], False
        self._sweep()

    @torch.inference_mode()
    def recover(self, error: Exception) -> None:
        """Go on after a step that has raised: those fail whose forward it was, else all."""
        culprits, self._under_way = self._under_way or self.all_sequences(), []
        is_reading, self._is_reading = self._is_reading, False
        self._take_back_undrawn()
        if is_reading and len(culprits) > 1:  # whose fault it was shows when each is read alone
            for sequence in reversed(culprits):
                sequence.is_suspect = True
                self._preempt(sequence, keeps=False)
        else:
            for sequence in culprits:
                sequence.finish("error", failure_of(error))
        self._sweep()

    def forget_private(self) -> None:
        """Keep nothing of streams that not everybody may reuse, of requests under way neither."""
        for sequence in self.all_sequences():
            sequence.is_forgotten = True
        self._reuse.clear(private_only=True)

    def release(self) -> None:
        """Give the memory of all rows back; nobody may hold one."""
        assert not self._rows, "rows are in use"
        self._chunk_divisor = 1
        self._runner.release()

    # Admission

    def _admit(self) -> None:
        while self._waiting and self._may_join(self._waiting[0]):
            sequence = self._waiting[0]
            if not self._has_room(sequence):
                return
            longest = max(each.num_tokens for each in (sequence, *self._decoding, *self._prefilling))
            self._under_way = [sequence]
            try:
                self._runner.reserve(len(self._rows) + sequence.num_streams, longest, self._max_bytes)
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                self._refuse(sequence, error)
                return
            self._waiting.popleft()
            self._prefilling.append(sequence)
            first = len(self._rows)
            self._rows += [Row(sequence, stream) for stream in range(sequence.num_streams)]
            self._num_shared = self._reuse.fill(self._rows, first)
            self._under_way = []

    def _may_join(self, sequence: Sequence) -> bool:
        """Whether its prompts can be read in the next forward, along with those that are being read."""
        if not self._prefilling:
            return True
        if (
            self._num_shared
            or sequence.num_shared >= MIN_SHARED
            or sequence.is_suspect
            or self._prefilling[0].is_suspect
        ):
            return False
        rows = self._rows[self._num_decode_rows :]
        longest = max(sequence.num_tokens, *(row.num_unread for row in rows))
        return (len(rows) + sequence.num_streams) * longest <= self._chunk_size()

    def _has_room(self, sequence: Sequence) -> bool:
        if not self._rows:
            return True  # alone, it has room: the engine has limited its length
        num_rows = len(self._rows) + sequence.num_streams
        if self._is_full or num_rows > self._max_rows:
            return False
        active = [sequence, *self._decoding, *self._prefilling]
        longest = max(min(each.num_tokens + _HEADROOM, each.max_length) for each in active)
        return longest <= self.max_length(num_rows)

    def _refuse(self, sequence: Sequence, error: BaseException) -> None:
        """The device has no memory for these rows: spare what can be spared, wait for others to leave, or give up."""
        if self._reuse.clear():
            return
        self._is_full = True
        if not self._rows:
            self._give_up(sequence, error)

    def _give_up(self, sequence: Sequence, error: BaseException) -> None:
        """End a request that has too little memory to itself, after a last try with buffers of its own size."""
        self._runner.release()
        if sequence.is_last_try:
            sequence.finish("error", too_large(sequence, error))
        sequence.is_last_try = True

    # Reading prompts

    def _read(self) -> None:
        """Read one chunk of prompts; with the last one, their requests draw, and join those who decode."""
        self._under_way, self._is_reading = list(self._prefilling), True
        first = self._num_decode_rows
        rows = self._rows[first:]
        if self._num_shared:
            self._read_shared(rows)
            return
        start, counts = self._plan_chunk(rows)
        logits = self._extend(first + start, counts)
        if all(row.num_unread == 0 for row in rows):
            batch = Batch(self._prefilling, self._places(self._prefilling, rows))
            self._decoding += self._prefilling
            self._prefilling, self._num_decode_rows, self._batch = [], len(self._rows), None
            batch.draw(logits)

    def _read_shared(self, rows: list[Row]) -> None:
        """Read what all streams of a request begin with, in the row of its base stream; then copy it."""
        assert len(self._prefilling) == 1, "a request with much in common among its streams is read alone"
        base = self._num_decode_rows + next(index for index, row in enumerate(rows) if row.stream == 0)
        self._extend(base, [min(self._chunk_size(), self._num_shared - self._rows[base].num_tokens)])
        if self._rows[base].num_tokens == self._num_shared:
            self._reuse.share(self._rows, base, range(self._num_decode_rows, len(self._rows)))
            self._num_shared = 0

    def _plan_chunk(self, rows: list[Row]) -> tuple[int, list[int]]:
        """Which rows to read on, from which one on, and by how many tokens each; all end in the same forward."""
        unread = [row.num_unread for row in rows]
        longest, shortest, size = max(unread), min(unread), self._chunk_size()
        if not self._runner.is_incremental:
            return 0, unread
        if longest - shortest > _MAX_UNEVENNESS:
            return unread.index(longest), [min(size, longest - shortest)]
        room = self.max_length(len(self._rows)) - max(row.num_tokens for row in rows)
        width = min(longest, max(1, size // len(rows)), room)
        return 0, [each - min(each, longest - width) for each in unread]

    def _chunk_size(self) -> int:
        """Tokens to read in one forward: few if others wait for their next token meanwhile."""
        size = self._prefill_tokens if self._decoding else _IDLE_FACTOR * self._prefill_tokens
        return max(1, size // self._chunk_divisor)

    def _extend(self, first: int, counts: Counts[int]) -> Tensor:
        rows = self._rows[first : first + len(counts)]
        self._runner.reserve(len(self._rows), max(row.num_tokens for row in rows) + max(counts), self._max_bytes)
        logits = self._runner.prefill(first, [row.unread_ids(count) for row, count in zip(rows, counts, strict=True)])
        for row, count in zip(rows, counts, strict=True):
            row.num_tokens += count
        return logits

    # Decoding

    def _decode(self) -> None:
        """Draw one token for each request whose prompts are read."""
        self._preempt_what_does_not_fit()
        self._under_way = list(self._decoding)
        rows = self._rows[: self._num_decode_rows]
        if not rows:
            return
        self._runner.reserve(len(self._rows), max(row.num_tokens for row in rows) + 1, self._max_bytes)
        logits = self._runner.decode([row.next_id for row in rows])
        for row in rows:
            row.num_tokens += 1
        if self._batch is None:
            self._batch = Batch(self._decoding, self._places(self._decoding, rows))
        self._batch.draw(logits)

    @staticmethod
    def _places(sequences: list[Sequence], rows: list[Row]) -> list[list[int]]:
        """For each sequence, where its rows are among these, by stream."""
        places: dict[int, list[int]] = {sequence.number: [0] * sequence.num_streams for sequence in sequences}
        for index, row in enumerate(rows):
            places[row.sequence.number][row.stream] = index
        return [places[sequence.number] for sequence in sequences]

    def _preempt_what_does_not_fit(self) -> None:
        """Keep to the limit as rows grow: the latest requests wait, the first ones go on."""
        while self.num_running > 1:
            active = [*self._decoding, *self._prefilling]
            if max(each.num_tokens for each in active) <= self.max_length(len(self._rows)):
                return
            self._preempt(self._latest())

    def _latest(self) -> Sequence:
        return max([*self._decoding, *self._prefilling], key=lambda sequence: sequence.number)

    def _make_room(self, error: BaseException) -> None:
        """A forward, or the draw after it, did not get its memory: try it again with less around it."""
        self._take_back_undrawn()
        if self._reuse.clear() or not self.num_running:
            return
        if self._is_reading and self._chunk_size() > _MIN_CHUNK:
            self._chunk_divisor *= 2
            return
        latest, is_alone = self._latest(), self.num_running == 1
        self._preempt(latest, keeps=False)
        self._is_full = True
        if is_alone:
            self._give_up(latest, error)

    def _take_back_undrawn(self) -> None:
        """Let rows whose token was read, but from whose logits none was drawn, read it again."""
        for index, row in enumerate(self._rows[: self._num_decode_rows]):
            if row.num_unread == 0 and not row.sequence.is_finished:
                row.num_tokens -= 1
                self._runner.truncate(index, row.num_tokens)

    def _preempt(self, sequence: Sequence, *, keeps: bool = True) -> None:
        """Take a request's rows; its answer goes on when they have been read again."""
        self._leave(sequence, keeps=keeps)
        self._waiting.appendleft(sequence)
        self.num_preemptions += 1

    # Leaving

    def _sweep(self) -> None:
        """Free the rows of whoever has ended or taken too long, and take those out of the queue."""
        for sequence in self.all_sequences():
            sequence.expire()
        for sequence in [each for each in (*self._decoding, *self._prefilling) if each.is_finished]:
            self._leave(sequence)
        if any(sequence.is_finished for sequence in self._waiting):
            self._waiting = deque(each for each in self._waiting if not each.is_finished)

    def _leave(self, sequence: Sequence, *, keeps: bool = True) -> None:
        # Rows from which no token was drawn may hold numbers that are none, for all that is known.
        is_sound = sequence in self._decoding and sequence.is_sound and sequence.finish_reason != "error"
        for index in reversed(range(len(self._rows))):
            if self._rows[index].sequence is sequence:
                if keeps and is_sound:
                    self._reuse.keep(self._rows[index], index)
                self._free(index, erase=not is_sound)
        group = self._prefilling if sequence in self._prefilling else self._decoding
        group.remove(sequence)
        if not self._prefilling:
            self._num_shared = 0
        self._batch, self._is_full = None, False

    def _free(self, index: int, *, erase: bool) -> None:
        """Give a row up; others move, so that those that decode stay in front."""
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
