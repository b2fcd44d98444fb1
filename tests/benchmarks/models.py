"""The model, questions and preferences of the benchmarks, and their timers and tables."""

import statistics
import time
from collections.abc import Callable

import torch
from tqdm import tqdm

from langchain_amulet import ChatAmulet

PREFERENCES = [
    "Answer concisely.",
    "Be uplifting.",
    "Answer as a list.",
    "Be creative.",
    "Use formal words.",
    "Explain for a child.",
    "Be verbose.",
    "Use examples.",
]
MESSAGES = [
    ("system", "You are a helpful assistant."),
    ("human", "What should I cook for a friend who visits tonight, is tired and likes vegetables a lot?"),
]


def packaged_model(model: str | None) -> ChatAmulet:
    """Return a model: in float32 on CPUs, in its own dtype on a GPU."""
    return ChatAmulet(model=model, model_kwargs={} if torch.cuda.is_available() else {"dtype": "float32"})


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


def ratio(a: list[float], b: list[float]) -> float:
    """Return the median of the ratios of measurements in the same round."""
    return statistics.median(x / y for x, y in zip(a, b, strict=True))


def print_table(title: str, header: str, rows: list[list[object]]) -> None:
    """Print a Markdown table."""
    columns = header.split(" | ")
    print(f"\n### {title}\n\n| {header} |\n|{'---|' * len(columns)}")
    for row in rows:
        print("| " + " | ".join(f"{cell:.2f}" if isinstance(cell, float) else str(cell) for cell in row) + " |")
