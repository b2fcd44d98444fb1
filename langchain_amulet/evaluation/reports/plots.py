"""The pictures of a report."""

import io
import math
import textwrap
from collections.abc import Mapping, Sequence
from itertools import cycle

from langchain_amulet.evaluation.analysis.comparisons import DEGENERATE, Yardstick
from langchain_amulet.evaluation.analysis.statistics import WinRate, estimate
from langchain_amulet.evaluation.methods.ablations import PAPER_SCALE, RANGES, ablation
from langchain_amulet.evaluation.methods.method import Method, distinct_runs
from langchain_amulet.evaluation.reports.tables import temperature_name
from langchain_amulet.evaluation.results import Evaluation
from langchain_amulet.exceptions import MissingExtraError

try:
    import matplotlib as mpl
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
except ImportError as error:
    msg = "Reports need matplotlib. Install it: pip install 'langchain-amulet[eval]'"
    raise MissingExtraError(msg) from error

_LABELS = {
    "num_iterations": "T",
    "eta": "\u03b7",
    "alpha": "\u03b1",
    "lam": "\u03bb",
    "guidance_scale": "guidance scale w",
}
_EFFECT, _COST = "#4c78a8", "#e45756"


def win_rate_bars(rates: Mapping[str, Mapping[str, WinRate]], title: str) -> Figure:
    """By preference and method, the win rate with its interval."""
    methods = [*{method: None for column in rates.values() for method in column}][::-1]
    figure = Figure(figsize=(1.6 + 2.5 * len(rates), 0.32 * len(methods) + 1.3), layout="constrained")
    panels = figure.subplots(1, len(rates), sharey=True, squeeze=False)[0]
    for axes, (name, column) in zip(panels, rates.items(), strict=True):
        for place, method in enumerate(methods):
            if method in column:
                _bar(axes, place, column[method])
        axes.axvline(50, color="black", linewidth=0.8)
        axes.set(xlim=(0, 100), title=_label(name), yticks=range(len(methods)), yticklabels=[*map(_label, methods)])
    figure.suptitle(_label(title, 100))
    figure.supxlabel("questions won, in percent (ties half); lines: 95 % intervals", fontsize="medium")
    return figure


def _bar(axes: Axes, place: int, rate: WinRate) -> None:
    low, high = (100 * each for each in rate.interval)
    axes.barh(place, 100 * rate.rate, color=_EFFECT, height=0.6)
    axes.plot([low, high], [place, place], color="black", linewidth=1.2)


def strength_and_coherence(evaluation: Evaluation, temperature: float) -> Figure:
    """What each strength w gains for a preference, and what it costs in degenerate answers.

    Settings without guards make a curve; those with guards are points of their own.
    """
    yardstick, broken = Yardstick(evaluation), Yardstick(evaluation, DEGENERATE)
    names = yardstick.dimensions
    figure = Figure(figsize=(3.3 * len(names), 3.8), layout="constrained")
    panels = figure.subplots(1, len(names), squeeze=False)[0]
    for axes, name in zip(panels, names, strict=True):
        points = {
            each: (_mean(yardstick, each, name, temperature), 100 * _mean(broken, each, name, temperature))
            for each in _kernel_methods(evaluation.methods)
        }
        _draw_points(axes, points, evaluation.methods)
        end = yardstick.better(name)
        axes.set(xlabel=f"{yardstick.scorer_of(name)} ({end} is better)", title=_label(name))
        if end == "lower":
            axes.invert_xaxis()  # so that better is to the right everywhere
        axes.grid(alpha=0.3)
    panels[0].set_ylabel("degenerate answers, in percent")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=4, fontsize="small")
    figure.suptitle(f"Strength and coherence, {temperature_name(temperature)}; numbers are w")
    return figure


def _kernel_methods(methods: Mapping[str, Method]) -> Sequence[str]:
    """One of each run."""
    return [method.name for method in distinct_runs(methods.values()) if method.config is not None]


def _draw_points(axes: Axes, points: Mapping[str, tuple[float, float]], methods: Mapping[str, Method]) -> None:
    scales = {name: config.guidance_scale for name in points if (config := methods[name].config) is not None}
    plain = sorted((name for name in points if not _is_guarded(methods[name])), key=scales.__getitem__)
    axes.plot([points[name][0] for name in plain], [points[name][1] for name in plain], marker="o", label="no guards")
    for name in plain:
        axes.annotate(f"{scales[name]:.3g}", points[name], textcoords="offset points", xytext=(4, 4), fontsize=7)
    for marker, name in zip(cycle("Ds^vPX*hdp"), (name for name in points if name not in plain), strict=False):
        axes.plot(*points[name], marker=marker, linestyle="none", label=_label(f"{name} (w {scales[name]:.3g})"))


def _is_guarded(method: Method) -> bool:
    config = method.config
    return config is not None and bool(config.plausibility or config.max_kl is not None or config.nucleus is not None)


def _mean(yardstick: Yardstick, method: str, dimension: str, temperature: float) -> float:
    scores = yardstick.scores(method, dimension, temperature)
    return estimate([*scores.values()], [*scores]).mean if scores else math.nan


def ablation_curves(yardstick: Yardstick, parameter: str, temperature: float) -> Figure:
    """By value of a parameter: what it does for every preference, and the share of degenerate answers."""
    evaluation, broken = yardstick.evaluation, Yardstick(yardstick.evaluation, DEGENERATE)
    names = yardstick.dimensions
    settings = [
        each for each in ablation(parameter) if each.method is not None and each.method.name in evaluation.methods
    ]
    places = [each.value if isinstance(each.value, float | int) else i for i, each in enumerate(settings)]
    figure = Figure(figsize=(3.3 * len(names), 3.2), layout="constrained")
    panels = figure.subplots(1, len(names), squeeze=False)[0]
    for axes, name in zip(panels, names, strict=True):
        methods = [each.method.name for each in settings if each.method is not None]
        effect = [_mean(yardstick, each, name, temperature) for each in methods]
        cost = [100 * _mean(broken, each, name, temperature) for each in methods]
        axes.plot(places, effect, marker="o", color=_EFFECT)
        axes.set_ylabel(yardstick.scorer_of(name), color=_EFFECT)
        right = axes.twinx()
        right.plot(places, cost, marker="s", markersize=4, linestyle="--", color=_COST)
        right.set_ylim(-3, 103)
        right.set_ylabel("degenerate, in percent", color=_COST)
        axes.set(title=_label(name), xlabel=_LABELS.get(parameter, parameter))
        if parameter not in _LABELS:
            axes.set_xticks(places, [each.label for each in settings], rotation=30, ha="right", fontsize=7)
    figure.suptitle(f"{parameter}, {temperature_name(temperature)}")
    return figure


def parameters_to_scale() -> Figure:
    """What the paper's parameters come to: w over its ranges, one at a time."""
    figure = Figure(figsize=(11, 2.8), layout="constrained")
    for axes, parameter in zip(figure.subplots(1, len(RANGES)), RANGES, strict=True):
        found = [(float(each.value), each.guidance_scale) for each in ablation(parameter)]
        kept = [(value, w) for value, w in found if w is not None]
        axes.plot([value for value, _ in kept], [w for _, w in kept], marker="o", markersize=3)
        axes.axhline(PAPER_SCALE, color="grey", linewidth=0.8, linestyle="--")
        axes.set(xlabel=_LABELS[parameter], yscale="log")
        axes.grid(alpha=0.3)
    figure.supylabel("w")
    figure.suptitle("The paper's parameters, one at a time, as the one number that they come to (dashed: its defaults)")
    return figure


def _label(text: str, width: int = 40) -> str:
    """Short, and no mathematics: dollars would begin a formula."""
    return textwrap.shorten(text, width, placeholder=" ...").replace("$", r"\$")


def as_svg(figure: Figure) -> str:
    """The same bytes for the same picture."""
    buffer = io.StringIO()
    with mpl.rc_context({"svg.hashsalt": "amulet", "svg.fonttype": "none"}):  # ids are drawn anew each time without
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    return buffer.getvalue()
