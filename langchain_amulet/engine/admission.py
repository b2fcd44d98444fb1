"""The queue of requests that wait for rows, and the conditions to admit the next one."""

from collections import abc, deque
from dataclasses import dataclass

from langchain_amulet.engine.reuse import MIN_SHARED
from langchain_amulet.engine.row import Row
from langchain_amulet.engine.sequence import Sequence

_HEADROOM = 64  # tokens; each request must be able to grow by so many before one has to be preempted
UNLIMITED = 2**62
"""A number of bytes or tokens that stands for "no limit"."""


@dataclass(frozen=True, slots=True)
class RowLimits:
    """The limits on the number of rows and on their length."""

    max_rows: int
    max_bytes: int
    """Memory for the keys and values of all rows."""
    max_context: int
    """The most tokens that the model accepts in one row."""
    bytes_per_token: int
    """Memory for the keys and values of one token of one row."""

    def max_length(self, num_rows: int) -> int:
        """Return the most tokens that each of `num_rows` rows can hold."""
        bytes_per_token = num_rows * self.bytes_per_token
        return min(self.max_context, self.max_bytes // bytes_per_token if bytes_per_token else UNLIMITED)


class AdmissionQueue:
    """The requests that wait for rows, in the order of admission.

    Args:
        limits: The limits that the rows of all running requests must meet.
    """

    def __init__(self, limits: RowLimits) -> None:
        self._limits = limits
        self._waiting: deque[Sequence] = deque()
        self.is_full = False
        """Whether the device had too little memory for another request. It is reset when a request leaves its rows."""

    def __len__(self) -> int:
        """Return the number of waiting requests."""
        return len(self._waiting)

    def sequences(self) -> list[Sequence]:
        """Return the waiting requests, the next one first. Other threads may call this at any time."""
        return list(self._waiting)  # one C call, so the deque cannot change during the iteration

    def append(self, sequence: Sequence) -> None:
        """Add a new request at the end."""
        self._waiting.append(sequence)

    def put_back(self, sequence: Sequence) -> None:
        """Add a preempted request at the front."""
        self._waiting.appendleft(sequence)

    def pop(self) -> Sequence:
        """Remove and return the first request."""
        return self._waiting.popleft()

    def remove_finished(self) -> None:
        """Remove the requests that ended while they waited."""
        if any(sequence.is_finished for sequence in self._waiting):
            self._waiting = deque(sequence for sequence in self._waiting if not sequence.is_finished)

    def next_admissible(
        self, rows: abc.Sequence[Row], num_decode_rows: int, *, num_shared: int, chunk_size: int
    ) -> Sequence | None:
        """Return the first request if it can get rows now, else `None`. The request stays in the queue.

        Args:
            rows: The rows in use, decoding rows first.
            num_decode_rows: The number of decoding rows.
            num_shared: The number of prompt tokens that the request in prefill reads once for all its streams. 0 if it
                reads each stream separately.
            chunk_size: The most tokens to prefill in one forward, over all rows.
        """
        if not self._waiting:
            return None
        first = self._waiting[0]
        prefilling = rows[num_decode_rows:]
        if prefilling and (num_shared or not _fits_into_chunk(first, prefilling, chunk_size)):
            return None
        return first if self._has_room(first, rows) else None

    def _has_room(self, sequence: Sequence, rows: abc.Sequence[Row]) -> bool:
        if not rows:
            return True  # a request alone always fits: `Sequence.max_length` limits its length
        num_rows = len(rows) + sequence.num_streams
        if self.is_full or num_rows > self._limits.max_rows:
            return False
        sequences = [sequence, *(row.sequence for row in rows)]
        longest = max(min(running.num_tokens + _HEADROOM, running.max_length) for running in sequences)
        return longest <= self._limits.max_length(num_rows)


def _fits_into_chunk(sequence: Sequence, prefilling: abc.Sequence[Row], chunk_size: int) -> bool:
    """Whether a request can be prefilled in the same forward as the requests that are being prefilled."""
    if sequence.num_shared >= MIN_SHARED or sequence.is_suspect or any(row.sequence.is_suspect for row in prefilling):
        return False
    longest = max(sequence.num_tokens, *(row.num_unread for row in prefilling))
    return (len(prefilling) + sequence.num_streams) * longest <= chunk_size
