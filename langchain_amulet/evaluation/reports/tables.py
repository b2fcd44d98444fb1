"""Tables, and how numbers are told in them."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np

from langchain_amulet.evaluation.analysis.statistics import SMALL, Estimate, WinRate


@dataclass(frozen=True, slots=True)
class Table:
    """Text in rows and columns; `**` around a cell makes it bold."""

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""

    def as_markdown(self) -> str:
        """With the title as a heading."""
        lines = [f"### {self.title}", "", _row(self.header), _row(["---"] * len(self.header)), *map(_row, self.rows)]
        return "\n".join([*lines, *(["", self.note] if self.note else [])]) + "\n"


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"


def format_estimate(found: Estimate) -> str:
    """A mean with its standard error, to two digits of the error."""
    if not np.isfinite(found.stderr) or found.stderr == 0:
        return f"{found.mean:.3g}"
    digits = _digits(found.stderr)
    return f"{found.mean:.{digits}f} ± {found.stderr:.{digits}f}"


def format_difference(found: Estimate) -> str:
    """A difference with its 95 % interval; bold where the interval leaves out 0."""
    low, high = found.interval
    if not np.isfinite(found.stderr):
        return f"{found.mean:+.3g}"
    digits = _digits(found.stderr) if found.stderr else 2
    text = f"{found.mean:+.{digits}f} ({low:+.{digits}f} to {high:+.{digits}f})"
    return bold(text) if low > 0 or high < 0 else text


def _digits(stderr: float) -> int:
    return max(0, 1 - int(np.floor(np.log10(stderr))))


def format_rate(rate: WinRate) -> str:
    """A win rate with its 95 % interval, in percent."""
    return f"{percent(rate.rate)} ({percent(rate.interval[0])} to {percent(rate.interval[1])})"


def percent(share: float) -> str:
    """Without decimals and unit."""
    return f"{100 * share:.0f}"


def format_interval(interval: tuple[float, float]) -> str:
    """From, to."""
    return f"{interval[0]:+.2f} to {interval[1]:+.2f}"


def bold(text: str, *, when: bool = True) -> str:
    """Set off, when it is."""
    return f"**{text}**" if when else text


def temperature_name(temperature: float) -> str:
    """As reports say it."""
    return "greedy" if temperature == 0 else f"temperature {temperature:g}"


def small_note(sizes: Collection[int]) -> str:
    """How many questions there were, and whether they are few."""
    if not sizes:
        return ""
    least, most = min(sizes), max(sizes)
    told_size = f"{least}" if least == most else f"{least} to {most}"
    warning = f" Fewer than {SMALL} questions are few: there, intervals are rough." if least < SMALL else ""
    return f"{told_size} questions.{warning}"
