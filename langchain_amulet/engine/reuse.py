"""Takes over what was read before: by other streams of a request, by requests under way, and by earlier ones."""

from collections.abc import Iterable, Sequence

from langchain_amulet.engine.prefix_cache import Prefix, PrefixCache
from langchain_amulet.engine.row import Row
from langchain_amulet.engine.runners.protocol import Runner
from langchain_amulet.engine.tokens import Tokens

_MIN_REUSE = 8  # tokens; copying fewer saves nothing
MIN_SHARED = 64
"""Tokens; reading fewer twice costs less than a forward of their own."""


class Reuse:
    """Fills new rows from what is there.

    Args:
        runner: Holds the rows.
        max_bytes: The budget for rows kept of earlier requests. 0 reuses nothing between requests.
    """

    def __init__(self, runner: Runner, max_bytes: int) -> None:
        self._runner = runner
        self._between_requests = bool(max_bytes) and runner.is_incremental
        self._kept = PrefixCache(max_bytes // max(1, runner.bytes_per_token) if self._between_requests else 0)
        self.num_reused = 0
        """Tokens of requests that were copied from other requests, and not read."""

    @property
    def num_kept(self) -> int:
        """Tokens kept of earlier requests."""
        return self._kept.num_tokens

    def fill(self, rows: Sequence[Row], first: int) -> int:
        """Fill the rows of a new request, from number `first` on, as far as others have read the same.

        Returns:
            Tokens that its base row is to read before they are copied to its other rows; 0 if that does not pay.
        """
        if self._between_requests:
            for index in range(first, len(rows)):
                rows[index].num_tokens = self._take_over(rows[index], index, rows[:first])
                self.num_reused += rows[index].num_tokens
        if not self._runner.is_incremental:
            return 0
        self.share(rows, first, range(first + 1, len(rows)))
        shared = rows[first].sequence.num_shared
        pays = shared - max(row.num_tokens for row in rows[first:]) >= MIN_SHARED
        return shared if pays else 0

    def share(self, rows: Sequence[Row], base: int, group: Iterable[int]) -> None:
        """Copy what the base row has read to those rows of its request that begin alike and have read less."""
        for index in group:
            length = rows[base].common_length(rows[index].reusable_ids)
            if length >= rows[index].num_tokens + _MIN_REUSE:
                self._runner.copy_prefix(base, index, length)
                rows[index].num_tokens = length

    def keep(self, row: Row, index: int) -> None:
        """Keep what a row has read, if a request to come may use it."""
        tokens, key = row.read_ids, row.key
        if (
            key is None
            or (key and row.sequence.is_forgotten)
            or len(tokens) < _MIN_REUSE
            or not self._kept.has_use_for(tokens, key)
        ):
            return
        try:
            saved = self._runner.save(index, len(tokens))
        except (RuntimeError, MemoryError):  # of memory: an answer is not to fail for the sake of the next
            self._kept.clear()
        else:
            self._kept.put(Prefix(tokens, key, saved))

    def clear(self, *, private_only: bool = False) -> bool:
        """Drop what is kept, or what not everybody may use of it; whether there was anything."""
        before = len(self._kept)
        self._kept.clear(private_only=private_only)
        return len(self._kept) < before

    def _take_over(self, row: Row, index: int, others: Sequence[Row]) -> int:
        """Fill one row from the kept or the active row that has the most in common with it."""
        if row.key is None:
            return 0
        prefix, kept_length = self._kept.find(row.reusable_ids, row.key)
        source, length = _longest_match(row.reusable_ids, row.key, others)
        if max(length, kept_length) < _MIN_REUSE:
            return 0
        if length >= kept_length:
            self._runner.copy_prefix(source, index, length)
            return length
        assert prefix is not None, "a match has a prefix"
        self._runner.load(prefix.saved, index, kept_length)
        return kept_length


def _longest_match(tokens: Tokens, key: str, rows: Sequence[Row]) -> tuple[int, int]:
    """The row under way with the longest common beginning, and its length."""
    lengths = [row.common_length(tokens) if row.key in ("", key) else 0 for row in rows]
    length = max(lengths, default=0)
    return (lengths.index(length) if lengths else 0), length
