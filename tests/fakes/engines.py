"""A fake runner for the engine, and functions that tests of the engine share."""

import time
import zlib
from collections.abc import Callable, Generator, Sequence

import pytest
import torch
from torch import Tensor

from langchain_amulet.engine.config import EngineConfig
from langchain_amulet.engine.params import Request, SamplingParams
from langchain_amulet.engine.scheduler import Scheduler
from langchain_amulet.engine.sequence import Sequence as EngineSequence
from langchain_amulet.realignment import RealignmentConfig, realign_streams

VOCAB_SIZE = 40
NOT_A_NUMBER_AFTER = -1  # a token that makes all later logits of its row NaN


def fake_logits(input_ids: Sequence[int]) -> Tensor:
    """Logits `(V,)` that depend on every token."""
    seed = zlib.crc32(repr(list(input_ids)).encode())
    logits = torch.randn(VOCAB_SIZE, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return logits * torch.nan if NOT_A_NUMBER_AFTER in input_ids else logits


class FakeRunner:
    """A runner in pure Python: each row is the list of its tokens."""

    device = torch.device("cpu")
    vocab_size = VOCAB_SIZE
    bytes_per_token = 1
    is_incremental = True
    num_graphs = 0

    def __init__(self, max_context: int = 200) -> None:
        self.max_context = max_context
        self.rows: list[list[int]] = []
        self.most_bytes = 0
        self.capacity = 0  # tokens of each row
        self.sizes: list[tuple[str, int, int]] = []  # kind, rows and tokens of each forward
        self._failures: list[Exception | None] = []  # of the next calls that allocate memory

    def fail(self, error: Exception, delay: int, times: int = 1) -> None:
        """Let `delay` of the next calls that allocate memory succeed, and then `times` of them raise."""
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
        self.capacity = max(self.capacity, num_tokens)

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

    def verify(self, input_ids: Sequence[Sequence[int]]) -> Tensor:
        self._take()
        width = max(map(len, input_ids))
        assert max(map(len, self.rows[: len(input_ids)])) + width <= self.capacity, (
            "rows of this length are not reserved"
        )
        self.sizes.append(("verify", len(input_ids), len(input_ids) * width))
        return torch.stack([self._verify_row(row, ids, width) for row, ids in zip(self.rows, input_ids, strict=False)])

    def _verify_row(self, row: list[int], input_ids: Sequence[int], width: int) -> Tensor:
        logits = torch.full((width, VOCAB_SIZE), torch.nan, dtype=torch.float64)
        for position, token_id in enumerate(input_ids):
            row.append(token_id)
            logits[position] = fake_logits(row)
        return logits

    def score(
        self, pairs: Sequence[tuple[Sequence[int], Sequence[int]]], *, max_tokens: int
    ) -> Generator[None, None, list[Tensor]]:
        self._take()
        self.sizes.append(("score", len(pairs), max_tokens))
        yield
        return [self._score_one(*pair) for pair in pairs]

    def _score_one(self, prompt: Sequence[int], token_ids: Sequence[int]) -> Tensor:
        prefixes = [[*prompt, *token_ids[:length]] for length in range(len(token_ids))]
        rows = [
            fake_logits(prefix).log_softmax(-1)[token_id] for prefix, token_id in zip(prefixes, token_ids, strict=True)
        ]
        return torch.stack(rows).float()

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
        self.rows, self.capacity = [], 0


def alone(request: Request) -> list[int]:
    """Return the greedy answer of the fake model to one request without stop tokens, by a loop without rows."""
    tokens: list[int] = []
    for _ in range(request.sampling.max_tokens):
        streams = torch.stack([fake_logits([*prompt, *tokens]) for prompt in request.prompts])
        target, reference = (streams.new_tensor(each) for each in (request.mixture.target, request.mixture.reference))
        guards = request.realignment.active_guards if len(streams) > 1 else {}
        tokens.append(int(realign_streams(streams, target, reference, guards=guards).argmax()))
    return tokens


def wait_until(condition: Callable[[], bool], timeout_s: float = 20) -> None:
    """Wait until another thread has made a condition true."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"the condition is still false after {timeout_s} s"
        time.sleep(0.002)


LIMITS = {"cache_bytes": 10**6, "prefix_cache_bytes": 0, "prefill_tokens": 1000}


def request(*prompts: list[int], max_tokens: int = 5, keys=(), realignment=None, **others) -> Request:
    """Make a greedy request with these prompts, one per stream, each of weight 1."""
    realignment = realignment or RealignmentConfig.paper()
    weights = [1.0] * (len(prompts) - 1)
    return Request(prompts, weights, realignment, SamplingParams(max_tokens=max_tokens), prefix_keys=keys, **others)


def scheduler_of(runner: FakeRunner, **limits) -> Scheduler:
    return Scheduler(runner, EngineConfig(**{**LIMITS, **limits}))


def add(scheduler: Scheduler, each: Request) -> EngineSequence:
    sequence = EngineSequence(each, max_length=scheduler.max_length(len(each.prompts)))
    scheduler.add(sequence)
    return sequence


def drain(scheduler: Scheduler) -> None:
    """Step until no request is left, as the engine does."""
    for _ in range(1000):
        if not scheduler.has_work:
            return
        try:
            scheduler.step()
        except Exception as error:  # noqa: BLE001
            scheduler.recover(error)
    pytest.fail("requests are left over")
