"""The figures of a test run: `count("answers compared")` adds to a table that pytest prints at the end.

The module is a pytest plugin, which `tests/conftest.py` registers. The counts of pytest-xdist's workers are added up.
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

import pytest
from tqdm import tqdm

# The first rows of the table, in this order, even where they are 0; other figures follow in alphabetical order.
MAIN = ("requests", "faults injected", "answers compared", "wrong answers", "stalls", "leaks")
_KEY = "figures"

_counts: Counter[str] = Counter()
_T = TypeVar("_T")


def count(figure: str, number: int = 1) -> None:
    """Add `number` to a figure of this run."""
    _counts[figure] += number


def is_full(config: pytest.Config) -> bool:
    """Whether the long tests run in full, as in `make campaign`."""
    return bool(config.getoption("--hypothesis-profile") == "campaign")


def rows(counts: Counter[str]) -> list[str]:
    """Return the lines of the table."""
    names = [*MAIN, *sorted(set(counts) - set(MAIN))]
    return [f"{counts[name]:>12,}  {name}" for name in names]


class Progress:
    """Shows progress bars past pytest's capture of output; silent unless it is on."""

    def __init__(self, config: pytest.Config, *, is_on: bool) -> None:
        self._capture = config.pluginmanager.getplugin("capturemanager")
        self._is_on = is_on

    def of(self, items: Iterable[_T], total: int, title: str) -> Iterator[_T]:
        """Iterate over items, with a bar."""
        bar = self.bar(total, title)
        for item in items:
            yield item
            self.step(bar)
        bar.close()

    def bar(self, total: int, title: str) -> tqdm:
        """Make a bar, which `step` moves."""
        return tqdm(total=total, desc=title, disable=not self._is_on, mininterval=1, ascii=True)

    def step(self, bar: tqdm) -> None:
        """Move a bar by one."""
        if not self._is_on:
            return
        with self._capture.global_and_fixture_disabled():
            bar.update()


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Send the counts of a pytest-xdist worker to the main process."""
    if (output := getattr(session.config, "workeroutput", None)) is not None:
        output[_KEY] = dict(_counts)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Add the counts of a pytest-xdist worker."""
    _counts.update(getattr(node, "workeroutput", {}).get(_KEY, {}))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the table."""
    if _counts:
        terminalreporter.section("figures of the campaign")
        for row in rows(_counts):
            terminalreporter.write_line(row)
