"""What a run has found: printed as Markdown while it is found, then written as Markdown, JSON and a picture."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from tests.benchmarks.machine import Machine

FORMAT_VERSION = 1


@dataclass(frozen=True, slots=True)
class Measurement:
    """The medians of one contender with one dtype and one number of users. Times are in milliseconds."""

    dtype: str
    users: int
    engine: str
    prompt: str
    ms_per_token: float
    """Time until all users have their answer, by its length in tokens; prefill included."""
    first_token_ms: float | None
    ms_per_further_token: float | None
    share_of_bandwidth: float | None
    """Time in which the weights of a step can be read, by the time of a step."""
    against_generate: float | None
    """Time against plain `generate` in the same dtype with as many users."""
    against_plain: float | None
    """Time against the same engine without a preference."""
    throughput_against_fewest: float | None
    """Throughput against the same contender with the smallest number of users."""
    weight_bytes: int | None
    """Bytes of weights read per token and step."""
    rounds: list[float]
    """`ms_per_token` of each round."""


COLUMNS = {
    "ms per token": "ms_per_token",
    "first token, ms": "first_token_ms",
    "further token, ms": "ms_per_further_token",
    "of the bandwidth": "share_of_bandwidth",
    "time against generate": "against_generate",
    "against ours, plain": "against_plain",
    "throughput against fewest users": "throughput_against_fewest",
}


class Report:
    """Collects the tables of a run.

    Args:
        machine: Where it runs.
        arguments: The arguments of the command, for the JSON file.
    """

    def __init__(self, machine: Machine, arguments: dict[str, object]) -> None:
        self._machine = machine
        self._arguments = arguments
        self._tables: list[dict[str, object]] = []
        self._measurements: list[Measurement] = []
        self._missing: list[dict[str, str]] = []
        self._lines: list[str] = []
        self.say(machine.describe())

    def say(self, text: str) -> None:
        """Print a line or a paragraph."""
        self._lines.append(text)
        print(text, flush=True)

    def table(self, title: str, header: str, rows: Sequence[Sequence[object]]) -> None:
        """Print a table.

        Args:
            title: Its heading.
            header: The names of its columns, separated by ` | `.
            rows: Its cells; `None` is empty.
        """
        columns = header.split(" | ")
        self._tables.append({"title": title, "columns": columns, "rows": [list(row) for row in rows]})
        lines = [f"\n### {title}\n", f"| {header} |", "|" + "---|" * len(columns)]
        self.say("\n".join([*lines, *("| " + " | ".join(map(_cell, row)) + " |" for row in rows)]))

    def measured(self, title: str, measurements: Sequence[Measurement]) -> None:
        """Print measurements as a table, without columns that none of them has."""
        self._measurements += measurements
        shown = {
            column: name
            for column, name in COLUMNS.items()
            if any(getattr(each, name) is not None for each in measurements)
        }
        if len({each.users for each in self._measurements}) == 1:
            shown.pop("throughput against fewest users", None)
        rows = [
            [f"{each.engine}: {each.prompt}", *(_value(name, getattr(each, name)) for name in shown.values())]
            for each in measurements
        ]
        self.table(title, " | ".join(["", *shown]), rows)

    def missing(self, dtype: str, reasons: dict[str, str]) -> None:
        """Print what could not take part, and why."""
        for name, reason in reasons.items():
            self._missing.append({"dtype": dtype, "name": name, "reason": reason})
            self.say(f"\n{name}: not available ({reason})")

    def document(self) -> dict[str, object]:
        """Return everything as JSON."""
        return {
            "format_version": FORMAT_VERSION,
            "machine": asdict(self._machine),
            "arguments": self._arguments,
            "measurements": [asdict(each) for each in self._measurements],
            "not_available": self._missing,
            "tables": self._tables,
        }

    def write(self, folder: Path) -> list[Path]:
        """Write `bench.md`, `bench.json` and, if there are measurements, `bench.png`. Return their paths."""
        folder.mkdir(parents=True, exist_ok=True)
        markdown, document, picture = (folder / f"bench.{suffix}" for suffix in ("md", "json", "png"))
        markdown.write_text("\n".join(self._lines) + "\n", encoding="utf-8")
        document.write_text(json.dumps(self.document(), indent=1, default=str) + "\n", encoding="utf-8")
        if not self._measurements:
            return [markdown, document]
        from tests.benchmarks.picture import draw

        draw(self._measurements, self._machine, picture)
        return [markdown, document, picture]


def _cell(value: object) -> str:
    if value is None:
        return ""
    return f"{value:.2f}" if isinstance(value, float) else str(value)


def _value(name: str, value: float | None) -> str | float | None:
    if value is None or name.endswith(("_ms", "_token")):
        return value
    return f"{value:.1%}" if name.startswith("share") else f"{value:.2f}x"
