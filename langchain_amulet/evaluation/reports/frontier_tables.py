"""Tables of the frontier: adherence, coherence, single preferences, and what was chosen on one half."""

from collections.abc import Iterable

from langchain_amulet.evaluation.analysis.frontier import MAX_DEGENERATE, MAX_NLL, Figures, Frontier
from langchain_amulet.evaluation.analysis.local_judge import FOLLOWS
from langchain_amulet.evaluation.analysis.statistics import Estimate, wilson_interval
from langchain_amulet.evaluation.reports.tables import (
    Table,
    bold,
    digits_of,
    format_difference,
    percent,
    small_note,
    temperature_name,
)
from langchain_amulet.evaluation.scorers.text import DEGENERATE, SEQ_REP_4, STRICTLY_DEGENERATE, TOKENS
from langchain_amulet.evaluation.scorers.verifiable import KEPT

SHARES = (KEPT, DEGENERATE, STRICTLY_DEGENERATE, FOLLOWS)
"""Scorers whose scores are from 0 to 1. Their means are shown in percent."""
NUM_CHOSEN = 3
"""Number of methods in the table of chosen ones."""
_NUM_STEERING_COLUMNS = 8  # of the table by preference
_INTERVALS = "With 95 % intervals, clustered by question. Bold: the interval of a difference excludes 0."


def adherence_table(frontier: Frontier) -> Table:
    """Show the adherence of each method, and what it gains over prompting and over the repeated preference."""
    by_method = {name: frontier.figures(frontier.adherence, name) for name in frontier.methods}
    found = {name: each for name, each in by_method.items() if each is not None}
    best = max((each.mean.mean for each in found.values()), default=0.0)
    unit = _unit(frontier.adherence)
    rows = tuple(
        (
            name,
            bold(_mean(frontier.adherence, each.mean), when=each.mean.mean == best),
            _change(frontier.adherence, each.gain),
            _change(frontier.adherence, each.gain_over_repeated),
            _ratio(each.ratio) if unit else "",
            str(each.num_answers),
        )
        for name, each in found.items()
    )
    header = ("method", f"{frontier.adherence}{unit}", f"over {frontier.prompted}", "over repeated", "ratio", "answers")
    note = f"{_INTERVALS} {_questions(found.values())}"
    return Table(f"Adherence ({frontier.adherence}), {place(frontier)}", header, rows, note)


def coherence_table(frontier: Frontier) -> Table:
    """Show by each scorer of coherence the mean of each method, and its difference from prompting."""
    scorers = coherence_scorers(frontier)
    rows, sizes = [], []
    for name in frontier.methods:
        each = {scorer: frontier.figures(scorer, name) for scorer in scorers}
        cells = [_mean_and_change(scorer, figures) for scorer, figures in each.items()]
        rows.append((name, *cells, "yes" if frontier.is_coherent(name) else "no"))
        sizes += [figures for figures in each.values() if figures is not None]
    header = ("method", *(f"{scorer}{_unit(scorer)}" for scorer in scorers), "coherent")
    limit = f" and {frontier.nll} at most {MAX_NLL:g} above" if frontier.nll else ""
    note = (
        f"In brackets: the difference from {frontier.prompted}. {_INTERVALS} Coherent: {frontier.degenerate} at most "
        f"{percent(MAX_DEGENERATE)} point above {frontier.prompted}{limit}, on the means. {_questions(sizes)}"
    )
    return Table(f"Coherence, {place(frontier)}", header, tuple(rows), note)


def coherence_scorers(frontier: Frontier) -> list[str]:
    """Return the names of the scorers of the table of coherence."""
    rest = [each for each in (SEQ_REP_4, TOKENS) if each in frontier.evaluation.scorers]
    return [frontier.degenerate, *([frontier.nll] if frontier.nll else []), *rest]


def preferences_table(frontier: Frontier) -> Table:
    """Show the adherence by preference, for the methods without steering and the best steering methods."""
    shown = frontier.shown(_NUM_STEERING_COLUMNS)
    rows = []
    for dimension in frontier.dimensions:
        each = {name: frontier.figures(frontier.adherence, name, [dimension]) for name in shown}
        means = [figures.mean.mean for figures in each.values() if figures is not None]
        cells = [_short(frontier.adherence, figures, max(means)) for figures in each.values()]
        rows.append((dimension, *cells, "/".join(dict.fromkeys(str(f.num_answers) for f in each.values() if f))))
    note = f"{frontier.adherence}{_unit(frontier.adherence)}; the best in bold. A cell alone has few answers."
    header = ("preference", *shown, "answers")
    return Table(f"By preference ({frontier.adherence}), {place(frontier)}", header, tuple(rows), note)


def chosen_table(choose: Frontier, report: Frontier) -> Table:
    """Show the best coherent methods on one half of the questions, with their figures on the other half."""
    rows = []
    for name in choose.best(NUM_CHOSEN):
        chosen, reported = (each.figures(each.adherence, name) for each in (choose, report))
        if chosen is None or reported is None:
            continue
        coherence = [_change(scorer, _gain(report, scorer, name)) for scorer in coherence_scorers(report)]
        rows.append(
            (
                name,
                _mean_and_change(choose.adherence, chosen),
                _mean_and_change(report.adherence, reported),
                _change(report.adherence, reported.gain_over_repeated),
                _ratio(reported.ratio) if _unit(report.adherence) else "",
                *coherence,
            )
        )
    header = (
        "method", f"chosen by: {choose.adherence}{_unit(choose.adherence)}",
        f"reported: {report.adherence}{_unit(report.adherence)}", "over repeated", "ratio",
        *(f"{scorer}, difference" for scorer in coherence_scorers(report)),
    )  # fmt: skip
    note = (
        f"The coherent steering methods of the highest adherence on {', '.join(choose.datasets)}, best first; all "
        f"figures from the second on are from {', '.join(report.datasets)}. In brackets: the difference from "
        f"{report.prompted}. {_INTERVALS}"
    )
    return Table(
        f"Chosen on one half, reported on the other, {temperature_name(report.temperature)}", header, tuple(rows), note
    )


def place(frontier: Frontier) -> str:
    """Return the datasets and the temperature of a frontier, for titles."""
    return f"{', '.join(frontier.datasets)}, {temperature_name(frontier.temperature)}"


def _unit(scorer: str) -> str:
    return ", %" if scorer in SHARES else ""


def _factor(scorer: str) -> float:
    return 100.0 if scorer in SHARES else 1.0


def _mean(scorer: str, mean: Estimate) -> str:
    """Format a mean with its interval; that of a share is Wilson's, which does not leave 0 to 100 %."""
    if scorer in SHARES:
        low, high = wilson_interval(mean)
        return f"{100 * mean.mean:.1f} ({100 * low:.1f} to {100 * high:.1f})"
    low, high = mean.interval
    digits = digits_of(mean)
    interval = f" ({low:.{digits}f} to {high:.{digits}f})" if mean.num_clusters > 1 else ""
    return f"{mean.mean:.{digits}f}{interval}"


def _change(scorer: str, change: Estimate | None) -> str:
    return "" if change is None else format_difference(change.scaled(_factor(scorer)))


def _mean_and_change(scorer: str, figures: Figures | None) -> str:
    if figures is None:
        return ""
    change = _change(scorer, figures.gain)
    return f"{_mean(scorer, figures.mean)}" + (f" [{change}]" if change else "")


def _gain(frontier: Frontier, scorer: str, method: str) -> Estimate | None:
    figures = frontier.figures(scorer, method)
    return None if figures is None else figures.gain


def _ratio(ratio: Estimate | None) -> str:
    if ratio is None:
        return ""
    low, high = ratio.interval
    return f"{ratio.mean:.2f}" + (f" ({low:.2f} to {high:.2f})" if ratio.num_clusters > 1 else "")


def _short(scorer: str, figures: Figures | None, best: float) -> str:
    """Format a mean without its interval, in bold if it is the best."""
    if figures is None:
        return ""
    mean = figures.mean.mean
    return bold(percent(mean) if scorer in SHARES else f"{mean:.2g}", when=mean == best)


def _questions(figures: Iterable[Figures]) -> str:
    return small_note([each.mean.num_clusters for each in figures])
