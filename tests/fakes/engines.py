"""A fake model for the engine, and what tests of the engine share."""

import time
import zlib
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from langchain_amulet.engine.params import Request
from langchain_amulet.realignment import realign

VOCAB_SIZE = 40
NOT_A_NUMBER_AFTER = -1  # a token that spoils the logits of its row


def fake_logits(input_ids: Sequence[int]) -> Tensor:
    """Logits that any change of the tokens changes, `(V,)`."""
    seed = zlib.crc32(repr(list(input_ids)).encode())
    logits = torch.randn(VOCAB_SIZE, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return logits * torch.nan if NOT_A_NUMBER_AFTER in input_ids else logits


class FakeRunner:
    """A model in pure Python: each row is the list of its tokens."""

    device = torch.device("cpu")
    vocab_size = VOCAB_SIZE
    bytes_per_token = 1
    is_incremental = True

    def __init__(self, max_context: int = 200) -> None:
        self.max_context = max_context
        self.rows: list[list[int]] = []
        self.most_bytes = 0
        self.sizes: list[tuple[str, int, int]] = []  # of each forward: kind, rows, tokens
        self._failures: list[Exception | None] = []  # of the calls to come

    def fail(self, error: Exception, delay: int, times: int = 1) -> None:
        """Raise an error from calls to come that take memory, after as many that do not."""
        self._failures = [*[None] * delay, *[error] * times]

    def _take(self) -> None:
        error = self._failures.pop(0) if self._failures else None
        if error is not None:
            raise error

    def free_bytes(self) -> int:
        return 10**6

    def reserve(self, num_rows: int, num_tokens: int, max_bytes: int) -> None:  # noqa: ARG002
        self._take()
        self.rows += [[] for _ in range(num_rows - len(self.rows))]
        self.most_bytes = max(self.most_bytes, num_rows * num_tokens)

    def prefill(self, first_row: int, input_ids: Sequence[Sequence[int]]) -> Tensor:
        self._take()
        self.sizes.append(("prefill", len(input_ids), sum(map(len, input_ids))))
        rows = self.rows[first_row : first_row + len(input_ids)]
        for row, ids in zip(rows, input_ids, strict=True):
            row.extend(ids)
        nothing = torch.full((VOCAB_SIZE,), torch.nan, dtype=torch.float64)
        return torch.stack([fake_logits(row) if ids else nothing for row, ids in zip(rows, input_ids, strict=True)])

    def decode(self, input_ids: Sequence[int]) -> Tensor:
        logits = self.prefill(0, [[token_id] for token_id in input_ids])
        self.sizes[-1] = ("decode", len(input_ids), len(input_ids))
        return logits

    def truncate(self, row: int, num_tokens: int, *, erase: bool = False) -> None:  # noqa: ARG002
        del self.rows[row][num_tokens:]

    def copy_prefix(self, source: int, target: int, num_tokens: int) -> None:
        assert num_tokens <= len(self.rows[source])
        self.rows[target] = self.rows[source][:num_tokens]

    def save(self, row: int, num_tokens: int) -> list[int]:
        self._take()
        return self.rows[row][:num_tokens]

    def load(self, saved: list[int], row: int, num_tokens: int) -> None:
        assert num_tokens <= len(saved)
        self.rows[row] = saved[:num_tokens]

    def release(self) -> None:
        self.rows = []


def alone(request: Request) -> list[int]:
    """What a greedy request without stop tokens gets from the fake model, by a loop that knows no rows."""
    tokens: list[int] = []
    for _ in range(request.sampling.max_tokens):
        base, *prefs = (fake_logits([*prompt, *tokens]) for prompt in request.prompts)
        scores = base
        if prefs:
            weights = torch.tensor(request.weights, dtype=base.dtype)
            config = request.realignment
            guards = {"plausibility": config.plausibility, "max_kl": config.max_kl}
            scores = realign(base, torch.stack(prefs), config.guidance_scale, weights=weights, **guards)
        tokens.append(int(scores.argmax()))
    return tokens


def wait_until(condition: Callable[[], bool], timeout_s: float = 20) -> None:
    """Wait for what another thread is about to do."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.002)
