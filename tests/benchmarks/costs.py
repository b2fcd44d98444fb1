"""What settings of a call cost per token: a stronger guidance scale, and traces that are switched on or off."""

import argparse
import statistics
from dataclasses import replace
from functools import partial

from langchain_amulet import ChatAmulet, RealignmentConfig
from tests.benchmarks import variants
from tests.benchmarks.models import LONG_QUESTION, PREFERENCES, dtypes_of
from tests.benchmarks.report import Report
from tests.benchmarks.timing import ratio, take_turns

WEAK = 2.0
DEFAULT = RealignmentConfig()
REFERENCE = "the default"
SETTINGS = {
    REFERENCE: {},
    "the default again, which shows the noise": {},
    f"w = {WEAK:g}": {"realignment": replace(DEFAULT, guidance_scale=WEAK)},
    "trace=True": {"trace": True},
    "logprobs=True": {"logprobs": True},
}


def rows_of(times: dict[str, list[float]], num_tokens: int) -> list[list[object]]:
    """Return the time per token of each setting, and its ratio to the reference with the range over the rounds."""
    reference = times[REFERENCE]
    rows: list[list[object]] = []
    for name, mine in times.items():
        ratios = [x / y for x, y in zip(mine, reference, strict=True)]
        rows.append(
            [
                name,
                statistics.median(mine) / num_tokens,
                f"{ratio(mine, reference):.3f}x",
                f"{min(ratios):.3f}x to {max(ratios):.3f}x",
            ]
        )
    return rows


def run(arguments: argparse.Namespace, report: Report) -> None:
    """Print a table per dtype: one user with one preference."""
    for dtype in dtypes_of(arguments):
        weights = variants.Weights(arguments.model, dtype)
        llm: ChatAmulet = variants.chat_model(weights, variants.Variant("default"), arguments.tokens)
        invoke = partial(llm.invoke, LONG_QUESTION, preference=PREFERENCES[0])
        contenders = {name: partial(invoke, **settings) for name, settings in SETTINGS.items()}
        times = take_turns(contenders, arguments.rounds, "costs")
        report.table(
            f"{dtype}, one user with a preference, w = {DEFAULT.guidance_scale:g} by default",
            "setting | ms per token | against the default | range over the rounds",
            rows_of(times, arguments.tokens),
        )
