"""What methods cost: time to the first token, time per token and memory, side by side."""

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import NamedTuple, Self

import psutil
import torch
from tqdm import tqdm

from langchain_amulet.chat_models import ChatAmulet
from langchain_amulet.evaluation.methods.method import Ask, Method
from langchain_amulet.evaluation.protocol import SYSTEM
from langchain_amulet.evaluation.scorers.scorer import messages_of

_WATCH_S = 0.01


@dataclass(frozen=True, slots=True)
class Cost:
    """Of one method, for one user: medians over questions and rounds."""

    method: str
    first_token_s: float | None
    """From the question to the first token; `None` for methods that give an answer only as a whole."""
    token_s: float
    """Per further token; per token of the whole answer, for methods that give it only as a whole."""
    relative: float
    """Time per token, as a multiple of the first method's: the median of ratios of neighbours in time."""
    peak_bytes: int
    """Most memory in use while it answered, weights included: of the GPU, or else of the process, which keeps what
    earlier answers took."""


class _Timing(NamedTuple):
    first_token_s: float | None
    token_s: float


def measure(
    methods: Sequence[Method],
    questions: Sequence[str],
    *,
    llm: ChatAmulet,
    preference: str,
    max_tokens: int = 64,
    rounds: int = 2,
) -> list[Cost]:
    """Let methods take turns, one question at a time, so that a machine whose speed drifts slows all alike.

    Args:
        methods: The first is what others are compared with, such as plain decoding.
        questions: Each is answered by each method in each round.
        llm: The model. Each prompt begins with a number of its own, so that nothing that was read before is reused.
        preference: What to answer for.
        max_tokens: Of each answer.
        rounds: How often.
    """
    timings: dict[str, list[_Timing]] = {method.name: [] for method in methods}
    peaks = {method.name: 0 for method in methods}
    device = llm.load().model.device
    turns = [(question, method) for _ in range(rounds) for question in questions for method in methods]
    for number, (question, method) in enumerate(tqdm(turns, desc="efficiency", unit="answer")):
        prompts = [messages_of(f"{2 * number + i}. {SYSTEM}", question) for i in range(2)]
        with _Peak(device) as peak:
            timings[method.name].append(_time(method, [Ask(llm, each, preference, {}) for each in prompts], max_tokens))
        peaks[method.name] = max(peaks[method.name], peak.num_bytes)
    return [
        _cost(method.name, timings[method.name], timings[methods[0].name], peaks[method.name]) for method in methods
    ]


def _cost(name: str, mine: Sequence[_Timing], theirs: Sequence[_Timing], peak_bytes: int) -> Cost:
    firsts = [each.first_token_s for each in mine if each.first_token_s is not None]
    return Cost(
        method=name,
        first_token_s=median(firsts) if firsts else None,
        token_s=median(each.token_s for each in mine),
        relative=median(one.token_s / other.token_s for one, other in zip(mine, theirs, strict=True)),
        peak_bytes=peak_bytes,
    )


def _time(method: Method, asks: Sequence[Ask], max_tokens: int) -> _Timing:
    """An answer of one token by the first prompt, and a whole one by the second."""
    first = None
    if method.is_engine and not method.is_search:
        first = _seconds(method, asks[0], 1)[0]
    seconds, num_tokens = _seconds(method, asks[1], max_tokens)
    if first is None or num_tokens == 1:
        return _Timing(first, seconds / num_tokens)
    return _Timing(first, (seconds - first) / (num_tokens - 1))


def _seconds(method: Method, ask: Ask, max_tokens: int) -> tuple[float, int]:
    """How long an answer takes, and its tokens."""
    begun = time.perf_counter()
    usage = method.answer(
        ask._replace(sampling={"temperature": 0.0, "max_tokens": max_tokens, "seed": 0})
    ).usage_metadata
    return time.perf_counter() - begun, max(1, usage["output_tokens"] if usage else 1)


class _Peak:
    """Watches memory while something runs."""

    def __init__(self, device: torch.device) -> None:
        self.num_bytes = 0
        self._device = device
        self._has_ended = threading.Event()
        self._watcher = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Self:
        if self._device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self._device)
        else:
            self._watcher.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._device.type == "cuda":
            self.num_bytes = int(torch.cuda.max_memory_allocated(self._device))
        else:
            self._has_ended.set()
            self._watcher.join()

    def _watch(self) -> None:
        process = psutil.Process()
        while True:
            self.num_bytes = max(self.num_bytes, process.memory_info().rss)
            if self._has_ended.wait(_WATCH_S):
                return
