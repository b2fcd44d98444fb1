"""Reuses keys and values between the streams of a request and between requests."""

from collections import abc
from typing import Generic

from langchain_amulet.engine.labels import LabelledStream, Labels
from langchain_amulet.engine.prefix_cache import Prefix, PrefixCache
from langchain_amulet.engine.row import Row
from langchain_amulet.engine.runners.protocol import Runner, SavedRow
from langchain_amulet.engine.sequence import Sequence
from langchain_amulet.engine.tokens import Tokens

_MIN_REUSE = 8  # tokens; copying fewer saves no time
MIN_SHARED = 64
"""Tokens. Prefilling fewer tokens in every stream costs less than a separate forward for the common prefix."""


class Reuse(Generic[SavedRow]):
    """Copies keys and values to new rows, from running and from saved rows.

    Args:
        runner: The runner, which holds the rows.
        max_bytes: Memory for saved rows of earlier requests. 0 turns reuse between requests off.
    """

    def __init__(self, runner: Runner[SavedRow], max_bytes: int) -> None:
        self._runner = runner
        self._between_requests = bool(max_bytes) and runner.is_incremental
        self._saved: PrefixCache[SavedRow] = PrefixCache(
            max_bytes // max(1, runner.bytes_per_token) if self._between_requests else 0
        )
        self._labels = Labels()
        self.num_reused = 0
        """Tokens that were not prefilled, since their keys and values were copied from other requests."""

    @property
    def num_kept(self) -> int:
        """Tokens in saved rows of earlier requests."""
        return self._saved.num_tokens

    def fill(self, rows: abc.Sequence[Row], first: int) -> int:
        """Copy the longest known prefix of each stream to the rows of a new request, which begin at index `first`.

        Returns:
            The number of tokens to prefill in its base row and then copy to its other rows; 0 if that saves no time.
        """
        if self._between_requests:
            self._label(rows[first].sequence)
            for index in range(first, len(rows)):
                rows[index].num_tokens = self._take_over(rows[index], index, rows[:first])
                self.num_reused += rows[index].num_tokens
        if not self._runner.is_incremental:
            return 0
        self.share(rows, first, range(first + 1, len(rows)))
        shared = rows[first].sequence.num_shared
        is_worthwhile = shared - max(row.num_tokens for row in rows[first:]) >= MIN_SHARED
        return shared if is_worthwhile else 0

    def share(self, rows: abc.Sequence[Row], base: int, group: abc.Iterable[int]) -> None:
        """Copy the common prefix from the base row to the rows of `group` that have read less of it."""
        for index in group:
            length = rows[base].common_length(rows[index].reusable_ids)
            if length >= rows[index].num_tokens + _MIN_REUSE:
                self._runner.copy_prefix(base, index, length)
                rows[index].num_tokens = length

    def keep(self, row: Row, index: int) -> None:
        """Save the keys and values of a row, as far as later requests may reuse them."""
        if not row.sequence.labelled:
            return
        tokens, stream = row.kept_ids, row.sequence.labelled[row.stream]
        if len(tokens) < _MIN_REUSE or not self._saved.has_use_for(tokens):
            return
        try:
            saved = self._runner.save(index, len(tokens))
        except (RuntimeError, MemoryError):  # out of memory: saving must not make an answer fail
            self._saved.clear()
        else:
            is_private = stream.is_private and len(tokens) > stream.public_length
            self._saved.put(Prefix(tokens, saved, stream.labels, is_private))

    def clear(self, *, private_only: bool = False) -> bool:
        """Drop the saved rows, or only the private ones. Return whether there were any."""
        before = len(self._saved)
        self._saved.clear(private_only=private_only)
        return len(self._saved) < before

    def _label(self, sequence: Sequence) -> None:
        """Label the tokens of a request's streams, once."""
        request = sequence.request
        sequence.labelled = sequence.labelled or [
            LabelledStream(prompt, request.keys_of(stream), self._labels, shares_answer=request.shares_answer)
            for stream, prompt in enumerate(sequence.prompts)
        ]

    def _take_over(self, row: Row, index: int, others: abc.Sequence[Row]) -> int:
        """Fill a row from the saved or running row with the longest common prefix. Return the length of the prefix."""
        wanted = row.wanted_ids
        if len(wanted) < _MIN_REUSE:
            return 0
        prefix, kept_length = self._saved.find(wanted)
        source, length = _longest_match(wanted, others)
        if max(length, kept_length) < _MIN_REUSE:
            return 0
        if length >= kept_length:
            self._runner.copy_prefix(source, index, length)
            return length
        assert prefix is not None, "a positive length comes with a prefix"
        self._runner.load(prefix.saved, index, kept_length)
        return kept_length


def _longest_match(tokens: Tokens, rows: abc.Sequence[Row]) -> tuple[int, int]:
    """Return the index of the row with the longest common prefix, and the length of that prefix."""
    lengths = [row.labelled_common_length(tokens) for row in rows]
    length = max(lengths, default=0)
    return (lengths.index(length) if lengths else 0), length
