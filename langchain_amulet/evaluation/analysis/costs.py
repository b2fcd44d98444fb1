"""Costs of methods: time to the first token, time per token, and memory."""

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

_POLL_S = 0.01  # interval at which memory is measured on a CPU


@dataclass(frozen=True, slots=True)
class Cost:
    """Costs of one method with one request at a time. Times are medians over questions and rounds."""

    method: str
    first_token_s: float | None
    """Time of an answer of one token to a prompt of the same length, in seconds. `None` for methods that do not
    stream."""
    token_s: float
    """Seconds per token after the first. For methods that do not stream, per token of the whole answer."""
    relative: float
    """Time per token relative to the first method: the median of ratios, each of two measurements of the same question
    and round."""
    peak_bytes: int
    """Peak memory during the answers, including weights: memory allocated on the GPU, or the resident memory of the
    process on a CPU. The latter includes memory that was used for earlier answers and not returned to the system."""


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
    """Measure the costs of methods. The methods take turns, so that changes of the machine's speed affect all.

    Before that, each method generates one token that is not measured, since first calls are slower.

    Args:
        methods: The first one is the baseline of `Cost.relative`, such as plain decoding.
        questions: Each method answers each question in each round.
        llm: The model. Each prompt begins with a different number, so that no cached prefix is reused. The numbers have
            equal lengths, so that the prompts of one question differ in nothing else.
        preference: Text of the preference.
        max_tokens: The most tokens of an answer.
        rounds: Number of rounds.
    """
    timings: dict[str, list[_Timing]] = {method.name: [] for method in methods}
    peaks = {method.name: 0 for method in methods}
    device = llm.load().model.device
    turns = [(question, method) for _ in range(rounds) for question in questions for method in methods]
    for i, method in enumerate(methods):
        _seconds(method, Ask(llm, messages_of(_numbered(2 * len(turns) + i), questions[0]), preference, {}), 1)
    for number, (question, method) in enumerate(tqdm(turns, desc="efficiency", unit="answer")):
        prompts = [messages_of(_numbered(2 * number + i), question) for i in range(2)]
        with _Peak(device) as peak:
            timings[method.name].append(_time(method, [Ask(llm, each, preference, {}) for each in prompts], max_tokens))
        peaks[method.name] = max(peaks[method.name], peak.num_bytes)
    return [
        _cost(method.name, timings[method.name], timings[methods[0].name], peaks[method.name]) for method in methods
    ]


def _numbered(number: int) -> str:
    return f"{number:06d}. {SYSTEM}"


def _cost(name: str, timings: Sequence[_Timing], baseline: Sequence[_Timing], peak_bytes: int) -> Cost:
    firsts = [each.first_token_s for each in timings if each.first_token_s is not None]
    return Cost(
        method=name,
        first_token_s=median(firsts) if firsts else None,
        token_s=median(each.token_s for each in timings),
        relative=median(one.token_s / other.token_s for one, other in zip(timings, baseline, strict=True)),
        peak_bytes=peak_bytes,
    )


def _time(method: Method, asks: Sequence[Ask], max_tokens: int) -> _Timing:
    """Time an answer of one token to the first prompt, and a whole answer to the second."""
    first = None
    if method.uses_engine and not method.is_search:
        first = _seconds(method, asks[0], 1)[0]
    seconds, num_tokens = _seconds(method, asks[1], max_tokens)
    if first is None or num_tokens == 1 or first >= seconds:  # the machine was busy during the first one
        return _Timing(first, seconds / num_tokens)
    return _Timing(first, (seconds - first) / (num_tokens - 1))


def _seconds(method: Method, ask: Ask, max_tokens: int) -> tuple[float, int]:
    """Return the duration of an answer in seconds, and its number of tokens."""
    begun = time.perf_counter()
    usage = method.generate(
        ask._replace(sampling={"temperature": 0.0, "max_tokens": max_tokens, "seed": 0})
    ).usage_metadata
    return time.perf_counter() - begun, max(1, usage["output_tokens"] if usage else 1)


class _Peak:
    """Measures peak memory within a `with` block."""

    def __init__(self, device: torch.device) -> None:
        self.num_bytes = 0
        self._device = device
        self._has_ended = threading.Event()
        self._thread = threading.Thread(target=self._poll, daemon=True)

    def __enter__(self) -> Self:
        if self._device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self._device)
        else:
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._device.type == "cuda":
            self.num_bytes = int(torch.cuda.max_memory_allocated(self._device))
        else:
            self._has_ended.set()
            self._thread.join()

    def _poll(self) -> None:
        process = psutil.Process()
        while True:
            self.num_bytes = max(self.num_bytes, process.memory_info().rss)
            if self._has_ended.wait(_POLL_S):
                return
