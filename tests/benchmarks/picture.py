"""The picture of a run: time per token of one user, and throughput by the number of users."""

from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tests.benchmarks.contenders import ONE_PREFERENCE, PLAIN, PROMPTED, TWO_PREFERENCES
from tests.benchmarks.machine import Machine
from tests.benchmarks.report import Measurement

COLOURS = {PLAIN: "#8da0b3", PROMPTED: "#5b8db8", ONE_PREFERENCE: "#d95f02", TWO_PREFERENCES: "#7b3294"}


def draw(measurements: Sequence[Measurement], machine: Machine, path: Path) -> None:
    """Draw one column of two plots per dtype."""
    dtypes = list(dict.fromkeys(each.dtype for each in measurements))
    fewest = min(each.users for each in measurements)
    num_bars = max(sum(each.dtype == dtype and each.users == fewest for each in measurements) for dtype in dtypes)
    height = 1.2 + 0.24 * num_bars
    has_more = any(each.users > fewest for each in measurements)
    figure = Figure(figsize=(7.5 * len(dtypes), height + 4 * has_more), layout="constrained", facecolor="white")
    ratios = [height, 4] if has_more else [height]
    grid = figure.subplots(1 + has_more, len(dtypes), squeeze=False, gridspec_kw={"height_ratios": ratios})
    for dtype, column in zip(dtypes, grid.T, strict=True):
        mine = [each for each in measurements if each.dtype == dtype]
        _draw_bars(column[0], f"{dtype}, {fewest} at once" if fewest > 1 else f"{dtype}, one user", mine, fewest)
        if has_more:
            _draw_throughput(column[1], mine)
    figure.suptitle(f"{machine.processor}, {machine.threads} threads, {machine.read_gb_per_s:.0f} GB/s", fontsize=10)
    figure.savefig(path, dpi=110)


def _draw_bars(axes: Axes, title: str, measurements: Sequence[Measurement], num_users: int) -> None:
    shown = [each for each in measurements if each.users == num_users]
    names = [f"{each.engine}: {each.prompt}" for each in shown]
    bars = axes.barh(names, [each.ms_per_token for each in shown], color=[COLOURS[each.prompt] for each in shown])
    labels = [
        f"{each.ms_per_token:.3g}" + ("" if each.against_generate is None else f"  ({each.against_generate:.2f}x)")
        for each in shown
    ]
    axes.bar_label(bars, labels, padding=3, fontsize=8)
    axes.set_title(title)
    axes.set_xlabel("ms per token, prefill included (in brackets: against plain generate)")
    axes.invert_yaxis()
    axes.margins(x=0.2)
    axes.tick_params(axis="y", labelsize=8)
    axes.spines[["top", "right"]].set_visible(False)


def _draw_throughput(axes: Axes, measurements: Sequence[Measurement]) -> None:
    lines: dict[str, list[Measurement]] = {}
    for each in measurements:
        if each.prompt in (ONE_PREFERENCE, PROMPTED):
            lines.setdefault(f"{each.engine}: {each.prompt}", []).append(each)
    lines = {name: line for name, line in lines.items() if len(line) > 1}
    for name, line in lines.items():
        users = [each.users for each in line]
        speeds = [1000 * each.users / each.ms_per_token for each in line]
        axes.plot(users, speeds, marker="o", markersize=3, label=name)
    axes.set_xlabel("users at once")
    axes.set_xticks(sorted({each.users for each in measurements}))
    axes.set_ylabel("tokens per second, all users")
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    if lines:
        axes.legend(fontsize=8, frameon=False)
