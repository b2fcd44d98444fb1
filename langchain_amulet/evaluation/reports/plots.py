"""Figures of a report. A new plot is a function that returns a `Figure`."""

import io
import math
import textwrap
from collections.abc import Mapping, Sequence
from itertools import cycle

from langchain_amulet.evaluation.analysis.comparisons import Criterion
from langchain_amulet.evaluation.analysis.statistics import WinRate, estimate
from langchain_amulet.evaluation.methods.ablations import PAPER_SCALE, RANGES, ablation
from langchain_amulet.evaluation.methods.method import Method, distinct_methods
from langchain_amulet.evaluation.reports.tables import temperature_name
from langchain_amulet.evaluation.results import Evaluation
from langchain_amulet.evaluation.scorers.text import DEGENERATE
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
    """Draw the win rate of each method with its interval, in one panel per preference."""
    methods = [*{method: None for column in rates.values() for method in column}][::-1]
    figure = Figure(figsize=(1.6 + 2.5 * len(rates), 0.32 * len(methods) + 1.3), layout="constrained")
    panels = figure.subplots(1, len(rates), sharey=True, squeeze=False)[0]
    for axes, (name, column) in zip(panels, rates.items(), strict=True):
        for place, method in enumerate(methods):
            if method in column:
                _bar(axes, place, column[method])
        axes.axvline(50, color="black", linewidth=0.8)
        axes.set(xlim=(0, 100), title=label(name), yticks=range(len(methods)), yticklabels=[*map(label, methods)])
    figure.suptitle(label(title, 100))
    figure.supxlabel("win rate in % (a tie is half a win), with 95 % intervals", fontsize="medium")
    return figure


def _bar(axes: Axes, place: int, rate: WinRate) -> None:
    low, high = (100 * each for each in rate.interval)
    axes.barh(place, 100 * rate.rate, color=_EFFECT, height=0.6)
    axes.plot([low, high], [place, place], color="black", linewidth=1.2)


def strength_and_coherence(evaluation: Evaluation, temperature: float) -> Figure:
    """Draw degenerate answers against the proxy score of each guidance scale w, in one panel per preference.

    Settings without guards form a curve. Settings with guards are separate points.
    """
    criterion, degenerate = Criterion(evaluation), Criterion(evaluation, DEGENERATE)
    names = criterion.dimensions
    figure = Figure(figsize=(3.3 * len(names), 3.8), layout="constrained")
    panels = figure.subplots(1, len(names), squeeze=False)[0]
    for axes, name in zip(panels, names, strict=True):
        points = {
            each: (_mean(criterion, each, name, temperature), 100 * _mean(degenerate, each, name, temperature))
            for each in _realigned_methods(evaluation.methods)
        }
        _draw_points(axes, points, evaluation.methods)
        end = criterion.better(name)
        axes.set(xlabel=f"{criterion.scorer_of(name)} ({end} is better)", title=label(name))
        if end == "lower":
            axes.invert_xaxis()  # better is to the right in all panels
        axes.grid(alpha=0.3)
    panels[0].set_ylabel("degenerate answers in %")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=4, fontsize="small")
    figure.suptitle(f"Strength and coherence, {temperature_name(temperature)}; the numbers at the curve are w")
    return figure


def _realigned_methods(methods: Mapping[str, Method]) -> Sequence[str]:
    """Return the names of distinct methods that are determined by realignment settings."""
    return [method.name for method in distinct_methods(methods.values()) if method.config is not None]


def _draw_points(axes: Axes, points: Mapping[str, tuple[float, float]], methods: Mapping[str, Method]) -> None:
    scales = {name: config.guidance_scale for name in points if (config := methods[name].config) is not None}
    unguarded = sorted((name for name in points if not _is_guarded(methods[name])), key=scales.__getitem__)
    axes.plot(
        [points[name][0] for name in unguarded], [points[name][1] for name in unguarded], marker="o", label="no guards"
    )
    for name in unguarded:
        axes.annotate(f"{scales[name]:.3g}", points[name], textcoords="offset points", xytext=(4, 4), fontsize=7)
    for marker, name in zip(cycle("Ds^vPX*hdp"), (name for name in points if name not in unguarded), strict=False):
        axes.plot(*points[name], marker=marker, linestyle="none", label=label(f"{name} (w {scales[name]:.3g})"))


def _is_guarded(method: Method) -> bool:
    return method.config is not None and method.config.has_guards


def _mean(criterion: Criterion, method: str, dimension: str, temperature: float) -> float:
    scores = criterion.scores(method, dimension, temperature)
    return estimate([*scores.values()], [*scores]).mean if scores else math.nan


def ablation_curves(criterion: Criterion, parameter: str, temperature: float) -> Figure:
    """Draw the mean score and the degenerate answers against the values of a parameter, in one panel per preference."""
    evaluation, degenerate = criterion.evaluation, Criterion(criterion.evaluation, DEGENERATE)
    names = criterion.dimensions
    settings = [
        each for each in ablation(parameter) if each.method is not None and each.method.name in evaluation.methods
    ]
    places = [each.value if isinstance(each.value, float | int) else i for i, each in enumerate(settings)]
    figure = Figure(figsize=(3.3 * len(names), 3.2), layout="constrained")
    panels = figure.subplots(1, len(names), squeeze=False)[0]
    for axes, name in zip(panels, names, strict=True):
        methods = [each.method.name for each in settings if each.method is not None]
        effect = [_mean(criterion, each, name, temperature) for each in methods]
        cost = [100 * _mean(degenerate, each, name, temperature) for each in methods]
        axes.plot(places, effect, marker="o", color=_EFFECT)
        axes.set_ylabel(criterion.scorer_of(name), color=_EFFECT)
        right = axes.twinx()
        right.plot(places, cost, marker="s", markersize=4, linestyle="--", color=_COST)
        right.set_ylim(-3, 103)
        right.set_ylabel("degenerate answers in %", color=_COST)
        axes.set(title=label(name), xlabel=_LABELS.get(parameter, parameter))
        if parameter not in _LABELS:
            axes.set_xticks(places, [each.label for each in settings], rotation=30, ha="right", fontsize=7)
    figure.suptitle(f"{parameter}, {temperature_name(temperature)}")
    return figure


def parameters_to_scale() -> Figure:
    """Draw w against each of the paper's parameters over its range, with the others at their defaults."""
    figure = Figure(figsize=(11, 2.8), layout="constrained")
    for axes, parameter in zip(figure.subplots(1, len(RANGES)), RANGES, strict=True):
        settings = [each for each in ablation(parameter) if each.guidance_scale is not None]
        scales = [each.guidance_scale for each in settings]
        axes.plot([float(each.value) for each in settings], scales, marker="o", markersize=3)
        axes.axhline(PAPER_SCALE, color="grey", linewidth=0.8, linestyle="--")
        axes.set(xlabel=_LABELS[parameter], yscale="log")
        axes.grid(alpha=0.3)
    figure.supylabel("w")
    figure.suptitle(
        "Guidance scale w for each of the paper's parameters, the others at their defaults (dashed: w of the defaults)"
    )
    return figure


def label(text: str, width: int = 40) -> str:
    """Shorten a text, and escape dollars, which matplotlib takes for the beginning of a formula."""
    return textwrap.shorten(text, width, placeholder=" ...").replace("$", r"\$")


def as_svg(figure: Figure) -> str:
    """Return the figure as SVG. Equal figures give equal text."""
    buffer = io.StringIO()
    with mpl.rc_context({"svg.hashsalt": "amulet", "svg.fonttype": "none"}):  # random ids otherwise
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    return buffer.getvalue()
