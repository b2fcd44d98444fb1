"""The plot of the frontier: adherence against coherence."""

from collections import defaultdict
from collections.abc import Mapping
from itertools import cycle
from typing import NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from langchain_amulet.evaluation.analysis.frontier import Frontier, is_steering
from langchain_amulet.evaluation.analysis.statistics import Estimate, wilson_interval
from langchain_amulet.evaluation.methods.steering import contrast_name, guards_name
from langchain_amulet.evaluation.reports.frontier_tables import SHARES, place
from langchain_amulet.evaluation.reports.plots import label

_COLORS = {"base": "#4c78a8", "neutral": "#54a24b", "opposite": "#e45756"}


class _Curve(NamedTuple):
    """Steering methods of equal prompts and guards."""

    contrast: str
    prompts: str
    guards: str


def frontier_plot(frontier: Frontier) -> Figure:
    """Draw each method's adherence against its coherence with 95 % intervals, in one panel per scorer of coherence.

    Steering methods of equal contrast and guards form a curve over w. Better is up and to the left.
    """
    scorers = [frontier.degenerate, *([frontier.nll] if frontier.nll else [])]
    figure = Figure(figsize=(1 + 5.2 * len(scorers), 5.4), layout="constrained")
    panels = figure.subplots(1, len(scorers), sharey=True, squeeze=False)[0]
    for axes, scorer in zip(panels, scorers, strict=True):
        _draw(axes, frontier, scorer)
        axes.set_xlabel(f"{label(scorer)}{_unit(scorer)} (lower is better)")
        axes.grid(alpha=0.3)
    panels[0].set_ylabel(f"{label(frontier.adherence)}{_unit(frontier.adherence)} (higher is better)")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=2, fontsize="small")
    lines = [f"Adherence and coherence, {place(frontier)}", "The numbers at the curves are w"]
    figure.suptitle("\n".join(label(line, 60 * len(panels)) for line in lines), fontsize="medium")
    return figure


def _draw(axes: Axes, frontier: Frontier, scorer: str) -> None:
    markers = cycle("osD^vPX*hdp")
    for curve, by_scale in _curves(frontier).items():
        points = {w: _point(frontier, scorer, name) for w, name in sorted(by_scale.items())}
        found: dict[float | None, _Point] = {w: each for w, each in points.items() if each is not None}
        name = f"{curve.prompts}, {curve.guards}"
        if found:
            _draw_points(axes, found, _COLORS.get(curve.contrast, "grey"), next(markers), name)
    for name in frontier.methods:
        if not is_steering(frontier.evaluation, name) and (point := _point(frontier, scorer, name)) is not None:
            _draw_points(axes, {None: point}, "black", next(markers), name)


def _curves(frontier: Frontier) -> Mapping[_Curve, Mapping[float, str]]:
    """Return the names of steering methods by curve and guidance scale."""
    curves: dict[_Curve, dict[float, str]] = defaultdict(dict)
    for name in frontier.methods:
        config = frontier.evaluation.methods[name].config
        if config is not None and is_steering(frontier.evaluation, name):
            guards = guards_name(config)
            curves[_Curve(config.contrast, contrast_name(config), guards)][config.guidance_scale] = name
    return curves


class _Point(NamedTuple):
    cost: float
    cost_errors: tuple[float, float]
    effect: float
    effect_errors: tuple[float, float]


def _point(frontier: Frontier, scorer: str, method: str) -> _Point | None:
    effect, cost = (frontier.figures(each, method) for each in (frontier.adherence, scorer))
    if effect is None or cost is None:
        return None
    return _Point(*_with_errors(scorer, cost.mean), *_with_errors(frontier.adherence, effect.mean))


def _with_errors(scorer: str, mean: Estimate) -> tuple[float, tuple[float, float]]:
    """Return a mean and the lengths of its error bars, in percent if it is a share."""
    low, high = wilson_interval(mean) if scorer in SHARES else mean.interval
    factor = 100.0 if scorer in SHARES else 1.0
    bars = (mean.mean - low, high - mean.mean) if mean.num_clusters > 1 else (0.0, 0.0)
    return factor * mean.mean, (factor * max(bars[0], 0.0), factor * max(bars[1], 0.0))


def _draw_points(axes: Axes, points: Mapping[float | None, _Point], color: str, marker: str, name: str) -> None:
    x, y = [each.cost for each in points.values()], [each.effect for each in points.values()]
    axes.plot(x, y, color=color, marker=marker, markersize=5, linewidth=1.2, label=label(name, 60))
    xerr = [*zip(*(each.cost_errors for each in points.values()), strict=True)]
    yerr = [*zip(*(each.effect_errors for each in points.values()), strict=True)]
    axes.errorbar(x, y, xerr=xerr, yerr=yerr, fmt="none", ecolor=color, elinewidth=0.8, alpha=0.35)
    for scale, each in points.items():
        if scale is not None:
            place_of_text = (each.cost, each.effect)
            axes.annotate(f"{scale:.3g}", place_of_text, textcoords="offset points", xytext=(4, 4), fontsize=7)


def _unit(scorer: str) -> str:
    return " in %" if scorer in SHARES else ""
