"""Timers: contenders take turns, so that drift of the machine affects all of them alike."""

import statistics
import time
from collections.abc import Callable, Sequence

import torch
from tqdm import tqdm


def milliseconds(run: Callable[[], object]) -> float:
    """Return the time of a call, including the work of the device."""
    started = time.perf_counter()
    run()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return (time.perf_counter() - started) * 1000


def take_turns(
    runs: dict[str, Callable[[], object]], num_rounds: int, title: str, *, warm_up: bool = True
) -> dict[str, list[float]]:
    """Return the milliseconds of each contender in each round, after a warm-up round. Contenders alternate."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    for round_number in tqdm(range(num_rounds + warm_up), desc=title):
        for name, run in runs.items():
            taken = milliseconds(run)
            if round_number or not warm_up:
                times[name].append(taken)
    return times


def ratio(a: Sequence[float], b: Sequence[float]) -> float:
    """Return the median of the ratios of measurements in the same round."""
    return statistics.median(x / y for x, y in zip(a, b, strict=True))
