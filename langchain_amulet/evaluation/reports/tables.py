"""The type of tables, and the format of numbers in them."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np

from langchain_amulet.evaluation.analysis.statistics import SMALL, Estimate, WinRate


@dataclass(frozen=True, slots=True)
class Table:
    """A table of text. A cell enclosed in `**` is bold."""

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""

    def as_markdown(self) -> str:
        """Return the table as Markdown, with the title as a heading and the note below."""
        lines = [f"### {self.title}", "", _row(self.header), _row(["---"] * len(self.header)), *map(_row, self.rows)]
        return "\n".join([*lines, *(["", self.note] if self.note else [])]) + "\n"


_ROUNDING = 1e-9  # a relative error of sums of floating-point numbers


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"


def format_estimate(estimate: Estimate) -> str:
    """Format a mean with its standard error, rounded to two significant digits of the error."""
    if not _has_error(estimate):
        return f"{estimate.mean:.3g}"
    digits = digits_of(estimate)
    return f"{estimate.mean:.{digits}f} ± {estimate.stderr:.{digits}f}"


def format_difference(estimate: Estimate) -> str:
    """Format a difference with its 95 % interval, in bold if the interval excludes 0."""
    low, high = estimate.interval
    if not _has_error(estimate):
        return f"{estimate.mean:+.3g}"
    digits = digits_of(estimate)
    text = f"{estimate.mean:+.{digits}f} ({low:+.{digits}f} to {high:+.{digits}f})"
    return bold(text) if low > 0 or high < 0 else text


def digits_of(estimate: Estimate) -> int:
    """Return the number of decimals with which a mean is shown: two significant digits of its error, or 2."""
    if not _has_error(estimate):
        return 2
    return max(0, 1 - int(np.floor(np.log10(estimate.stderr))))


def _has_error(estimate: Estimate) -> bool:
    """Whether a standard error is known; one of the size of rounding comes from clusters that happen to be equal."""
    return bool(np.isfinite(estimate.stderr)) and estimate.stderr > _ROUNDING * (1 + abs(estimate.mean))


def format_rate(rate: WinRate) -> str:
    """Format a win rate with its 95 % interval, in percent."""
    return f"{percent(rate.rate)} ({percent(rate.interval[0])} to {percent(rate.interval[1])})"


def percent(share: float) -> str:
    """Format a share as a percentage, without decimals and without the sign %."""
    return f"{100 * share:.0f}"


def format_interval(interval: tuple[float, float]) -> str:
    """Format an interval."""
    return f"{interval[0]:+.2f} to {interval[1]:+.2f}"


def bold(text: str, *, when: bool = True) -> str:
    """Format a cell as bold if `when` is true."""
    return f"**{text}**" if when else text


def temperature_name(temperature: float) -> str:
    """Return the name of a temperature in reports."""
    return "greedy" if temperature == 0 else f"temperature {temperature:g}"


def small_note(sizes: Collection[int]) -> str:
    """Return a sentence with the number of questions, and a warning if there are few."""
    if not sizes:
        return ""
    least, most = min(sizes), max(sizes)
    num_questions = f"{least}" if least == most else f"{least} to {most}"
    warning = f" Below {SMALL}, intervals are approximate." if least < SMALL else ""
    return f"Number of questions: {num_questions}.{warning}"
