"""Time per token of everything that can answer here, on the same weights: transformers, LangChain, llama.cpp and ours."""

import argparse
import gc
import logging
import statistics
import time
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeAlias

from tqdm import tqdm

from langchain_amulet.models.defaults import default_device
from tests.benchmarks import chat_huggingface, generate, llama_cpp, variants
from tests.benchmarks.contenders import GENERATE, PLAIN, Contender, NotAvailableError, Stamps
from tests.benchmarks.machine import Buffer
from tests.benchmarks.models import LONG_QUESTION, PREFERENCES, dtypes_of
from tests.benchmarks.report import Measurement, Report
from tests.benchmarks.timing import ratio

DEFAULT_USERS = (1, 4, 16, 32)


@dataclass(frozen=True, slots=True)
class Timing:
    """One round of one contender, in milliseconds."""

    total: float
    """From the question to the last token of the last user."""
    first: float | None
    """To the first token, median of the users. `None`: the contender tells no token but the last."""
    step: float | None
    """Between two further tokens of a user, on average."""


Cell: TypeAlias = tuple[Contender, int]
"""A contender, and the number of users at once."""


def timing_of(started: float, stamps: Stamps, num_tokens: int) -> Timing:
    """Compute the times of a round.

    Args:
        started: When the users asked, in seconds.
        stamps: When each user's tokens arrived.
        num_tokens: The length of each answer.
    """
    total = (max(each[-1] for each in stamps) - started) * 1000
    if num_tokens < 2 or any(len(each) < 2 for each in stamps):
        return Timing(total, None, None)
    first = statistics.median(each[0] - started for each in stamps) * 1000
    step = statistics.median(each[-1] - each[0] for each in stamps) * 1000 / (num_tokens - 1)
    return Timing(total, first, step)


def measure(
    contenders: Sequence[Contender], users: Sequence[int], num_tokens: int, num_rounds: int
) -> tuple[dict[Cell, list[Timing]], dict[int, list[float]], dict[str, str]]:
    """Let contenders take turns, for all numbers of users in each round.

    A warm-up round goes first. A contender that fails in it with some number of users takes no further part with it.

    Returns:
        The times of each cell by round; the milliseconds in which so many bytes of weights are read, by round; and why
        contenders have failed, by name and number of users.
    """
    cells = [(each, n) for n in users for each in contenders if each.most_users is None or n <= each.most_users]
    times: dict[Cell, list[Timing]] = {cell: [] for cell in cells}
    buffers = {
        each.weight_bytes: Buffer(each.weight_bytes, default_device()) for each in contenders if each.weight_bytes
    }
    reading: dict[int, list[float]] = {size: [] for size in buffers}
    failures: dict[str, str] = {}
    with tqdm(total=(num_rounds + 1) * len(cells), desc="side by side") as progress:
        for round_number in range(num_rounds + 1):
            gc.collect()  # now rather than during an answer
            for size, buffer in buffers.items():
                reading[size].append(buffer.read_ms())
            for contender, number in [*times]:
                progress.update()
                try:
                    times[contender, number].append(_timed(contender, number, num_tokens))
                except Exception as error:
                    if round_number:
                        raise
                    failures[f"{contender.name}, users: {number}"] = f"{type(error).__name__}: {error}"
                    del times[contender, number]
    return {cell: each[1:] for cell, each in times.items()}, {n: each[1:] for n, each in reading.items()}, failures


def _timed(contender: Contender, num_users: int, num_tokens: int) -> Timing:
    started = time.perf_counter()
    return timing_of(started, contender.answer(num_users), num_tokens)


def measurements(
    times: dict[Cell, list[Timing]], reading: dict[int, list[float]], dtype: str, num_tokens: int
) -> list[Measurement]:
    """Compute medians and ratios; each ratio is the median of the ratios of the same round."""
    totals = {(cell.engine, cell.prompt, n): [each.total for each in rounds] for (cell, n), rounds in times.items()}
    fewest = min(n for _, n in times)

    def against(mine: list[float], engine: str, prompt: str, num_users: int) -> float | None:
        other = totals.get((engine, prompt, num_users))
        return None if other is None else ratio(mine, other)

    found = []
    for (contender, num_users), rounds in times.items():
        mine = [each.total for each in rounds]
        alone = against(mine, contender.engine, contender.prompt, fewest)
        found.append(
            Measurement(
                dtype=dtype,
                users=num_users,
                engine=contender.engine,
                prompt=contender.prompt,
                ms_per_token=statistics.median(mine) / num_tokens,
                first_token_ms=_median(each.first for each in rounds),
                ms_per_further_token=_median(each.step for each in rounds),
                share_of_bandwidth=_share(contender, rounds, reading),
                against_generate=against(mine, GENERATE, PLAIN, num_users),
                against_plain=against(mine, contender.engine, PLAIN, num_users),
                throughput_against_fewest=alone and num_users / fewest / alone,
                weight_bytes=contender.weight_bytes * contender.num_reads or None,
                rounds=[each / num_tokens for each in mine],
            )
        )
    return found


def _median(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.median(known) if known else None


def _share(contender: Contender, rounds: list[Timing], reading: dict[int, list[float]]) -> float | None:
    """Return how close a step comes to the time in which its weights can be read, from 0 to about 1."""
    steps = [each.step for each in rounds if each.step]
    if contender.weight_bytes not in reading or len(steps) < len(rounds):
        return None
    return contender.num_reads * ratio(reading[contender.weight_bytes], steps)


def contenders_of(
    weights: variants.Weights, names: Sequence[str], num_tokens: int
) -> tuple[list[Contender], dict[str, str]]:
    """Return everything that can take part with these weights, and why the rest cannot, by name."""
    plain = weights.load("plain")
    llm = variants.chat_model(weights, variants.Variant("plain"), num_tokens)
    streams = [llm.prompt_streams(LONG_QUESTION, preference) for preference in PREFERENCES]
    makers: dict[str, Callable[[], list[Contender]]] = {
        "transformers": lambda: generate.contenders(plain, streams, num_tokens),
        chat_huggingface.NAME: lambda: chat_huggingface.contenders(plain, weights.tokenizer, num_tokens),
        llama_cpp.NAME: lambda: llama_cpp.contenders(variants.path_of(weights), streams[0][0], num_tokens),
    }

    def ours(name: str) -> list[Contender]:
        return variants.contenders(name, variants.chat_model(weights, variants.VARIANTS[name], num_tokens), num_tokens)

    makers |= {f"ours, {name}": partial(ours, name) for name in names}
    found: list[Contender] = []
    missing: dict[str, str] = {}
    for name, make in makers.items():
        try:
            found += make()
        except NotAvailableError as error:
            missing[name] = str(error)
    return found, missing


def run(arguments: argparse.Namespace, report: Report) -> None:
    """Print a table for each dtype and number of users."""
    logging.getLogger("transformers").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="transformers")
    users = sorted(set(arguments.users or DEFAULT_USERS))
    for dtype in dtypes_of(arguments):
        weights = variants.Weights(arguments.model, dtype)
        contenders, missing = contenders_of(weights, arguments.variants, arguments.tokens)
        times, reading, failures = measure(contenders, users, arguments.tokens, arguments.rounds)
        found = measurements(times, reading, dtype, arguments.tokens)
        for num_users in users:
            title = f"{dtype}, {num_users} at once" if num_users > 1 else f"{dtype}, one user"
            report.measured(title, [each for each in found if each.users == num_users])
        report.missing(dtype, missing | failures)
        del weights, contenders, times
        gc.collect()
