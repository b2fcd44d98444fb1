"""Scores several texts after their prompts in rows of a cache of their own, in forwards of bounded size."""

from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from langchain_amulet.engine.runners.plain_forward import log_probs_of
from langchain_amulet.engine.runners.row_cache import RowCache


class Forward(Protocol):
    """A forward of a model that appends tokens to consecutive rows of a cache."""

    def __call__(
        self, cache: RowCache, rows: slice, input_ids: Tensor, num_tokens: list[int], kept: Sequence[int]
    ) -> Tensor:
        """Return the logits of the kept positions of the input, `(B, len(kept), V)`.

        Args:
            cache: Keys and values of the rows.
            rows: The B rows to append to.
            input_ids: Token ids, `(B, S)`, padded at the end.
            num_tokens: Tokens of each row without padding, `(B,)`.
            kept: Positions from 0 to S − 1, at least one.
        """
        ...


@dataclass(slots=True)
class _Row:
    """A text, and the tokens that its row has still to read: the rest of the prompt, and the text but its last one."""

    text: Sequence[int]
    unread: Sequence[int]
    log_probs: list[Tensor] = field(default_factory=list)

    def predicting(self, chunk: "_Chunk") -> range:
        """Return the positions within a chunk whose logits predict tokens of the text."""
        first = len(self.unread) - len(self.text)
        return range(max(first - chunk.start, 0), max(min(len(self.unread), chunk.stop) - chunk.start, 0))

    def add(self, logits: Tensor) -> None:
        """Take the log-probabilities of the next tokens of the text, whose logits these are, `(tokens, V)`."""
        num_scored = sum(map(len, self.log_probs))
        targets = torch.tensor(self.text[num_scored : num_scored + len(logits)], device=logits.device)
        self.log_probs.append(log_probs_of(logits, targets))


class _Chunk(NamedTuple):
    """What one forward reads: tokens from `start` to `stop` of the first rows; shorter rows end before `stop`."""

    num_rows: int
    start: int
    stop: int


@torch.inference_mode()
def score_in_rows(
    forward: Forward, cache: RowCache, pairs: Sequence[tuple[Sequence[int], Sequence[int]]], *, max_tokens: int
) -> Generator[None, None, list[Tensor]]:
    """Score each text after its prompt, and yield after each forward. A prompt of several texts is read once.

    Args:
        forward: Runs the model.
        cache: An empty cache. It is filled, with up to two rows per text.
        pairs: Token ids of each prompt and of the text after it, at least one each.
        max_tokens: The most tokens of a forward, over all rows, unless there are more rows. The logits of at most so
            many positions exist at once.

    Returns:
        Log-probabilities of each text in nats, `(tokens,)`, float32 on the CPU.
    """
    heads = _heads([prompt for prompt, _ in pairs])
    # The head of a prompt is all but its last token, whose logits predict the first token of the text.
    rows = [_Row(text, [*(prompt[-1:] if heads else prompt), *text[:-1]]) for prompt, text in pairs]
    # Longer than any row: the padding of the shortest text may follow the longest prompt.
    capacity = max(map(len, heads), default=0) + max(len(row.unread) for row in rows)
    cache.resize(len(heads) + len(pairs), capacity)
    for chunk in _chunks(heads, max_tokens):
        _read(forward, cache, 0, heads, chunk, range(1))
        yield
    longest_first = sorted(range(len(pairs)), key=lambda index: len(rows[index].unread), reverse=True)
    for row, index in enumerate(longest_first, start=len(heads)):
        if heads:
            head = [*pairs[index][0][:-1]]
            cache.copy_prefix(heads.index(head), row, len(head))
    yield from _score(forward, cache, len(heads), [rows[index] for index in longest_first], max_tokens)
    return [torch.cat(row.log_probs).cpu() for row in rows]


def _heads(prompts: Sequence[Sequence[int]]) -> list[list[int]]:
    """Return the different prompts without their last token, the longest first; nothing if all prompts differ."""
    distinct = {tuple(prompt[:-1]) for prompt in prompts}
    return sorted(map(list, distinct), key=len, reverse=True) if len(distinct) < len(prompts) else []


def _score(
    forward: Forward, cache: RowCache, first_row: int, rows: Sequence[_Row], max_tokens: int
) -> Generator[None, None, None]:
    """Read the rows, the longest first, and collect the log-probabilities of their texts."""
    unread = [row.unread for row in rows]
    for chunk in _chunks(unread, max_tokens):
        wanted = [row.predicting(chunk) for row in rows[: chunk.num_rows]]
        starts, stops = ([getattr(each, name) for each in wanted if each] for name in ("start", "stop"))
        kept = range(min(starts, default=0), max(stops, default=1))
        logits = _read(forward, cache, first_row, unread, chunk, kept)
        for row, positions, row_logits in zip(rows, wanted, logits, strict=False):
            if positions:
                row.add(row_logits[positions.start - kept.start : positions.stop - kept.start])
        yield


def _chunks(rows: Sequence[Sequence[int]], max_tokens: int) -> Iterator[_Chunk]:
    """Divide rows, the longest first, into chunks of at most `max_tokens` tokens with padding, unless more have one."""
    start = 0
    while num_rows := sum(len(row) > start for row in rows):
        stop = min(len(rows[0]), start + max(1, max_tokens // num_rows))
        yield _Chunk(num_rows, start, stop)
        start = stop


def _read(
    forward: Forward, cache: RowCache, first_row: int, rows: Sequence[Sequence[int]], chunk: _Chunk, kept: range
) -> Tensor:
    parts = [[*row[chunk.start : chunk.stop]] for row in rows[: chunk.num_rows]]
    width = chunk.stop - chunk.start
    # A forward is rectangular: pad shorter rows at the end, where no token attends to.
    input_ids = torch.tensor([[*part, *[0] * (width - len(part))] for part in parts])
    rows_read = slice(first_row, first_row + chunk.num_rows)
    return forward(cache, rows_read, input_ids, [len(part) for part in parts], kept)
