"""Tables of results: means, win rates, differences and rankings."""

from collections.abc import Mapping

from langchain_amulet.evaluation.analysis.comparisons import Criterion
from langchain_amulet.evaluation.analysis.statistics import Estimate, WinRate, estimate
from langchain_amulet.evaluation.methods.method import Method
from langchain_amulet.evaluation.reports.tables import (
    Table,
    bold,
    format_difference,
    format_estimate,
    format_interval,
    format_rate,
    percent,
    small_note,
    temperature_name,
)
from langchain_amulet.evaluation.results import Evaluation

MAX_COLUMNS = 8
"""With more preferences than this, a table of means has a row per preference, and a column per method."""
_ALL_ANSWERS = "Includes degenerate answers."


def equal_methods_table(methods: Mapping[str, Method]) -> Table:
    """Show which methods give equal answers."""
    names_by_key: dict[str, list[str]] = {}
    for name, method in methods.items():
        names_by_key.setdefault(method.decoding_key, []).append(name)
    rows = tuple((key, ", ".join(names)) for key, names in names_by_key.items())
    note = "Methods in one row have equal guidance scale w and guards, so they give equal answers, generated once."
    return Table("Methods by settings", ("settings", "methods"), rows, note)


def main_table(criterion: Criterion, temperature: float) -> Table:
    """Show the mean score of each distinct method by dataset and preference, the best in bold, as in the paper.

    The means are over the questions that all methods, except those with `is_search`, have answered. A method that has
    not answered all of these has no mean.
    """
    evaluation = criterion.evaluation
    methods = evaluation.distinct_methods
    rows, sizes, num_best = [], [], dict[str, int]()
    for dataset in evaluation.datasets:
        for dimension in criterion.dimensions:
            estimates = _comparable_means(criterion, dataset, dimension, temperature)
            best = _best(estimates, criterion.better(dimension))
            for method in estimates:
                if method in methods:
                    num_best[method] = num_best.get(method, 0) + (estimates[method].mean == best)
            cells = [_cell(estimates.get(method), best) for method in methods]
            if estimates:
                rows.append((dataset, f"{dimension} ({criterion.scorer_of(dimension)})", *cells))
                sizes += [each.num_clusters for each in estimates.values()]
    shares = [percent(num_best[method] / len(rows)) if method in num_best else "" for method in methods]
    title = f"{criterion.scorer or 'Proxies'} by dataset, {temperature_name(temperature)}"
    empty = "Empty cell: the method has not answered all questions that the others have."
    note = f"{_ALL_ANSWERS} {empty} {small_note(sizes)}"
    return Table(title, ("dataset", "preference", *methods), (*rows, ("best, in % of rows", "", *shares)), note)


def _comparable_means(criterion: Criterion, dataset: str, dimension: str, temperature: float) -> dict[str, Estimate]:
    """Return the mean of each method over the questions that all have answered."""
    scores = criterion.comparable_scores(dimension, temperature, dataset)
    return {method: estimate([*each.values()], [*each]) for method, each in scores.items()}


def _cell(value: Estimate | None, best: float | None) -> str:
    return "" if value is None else bold(f"{value.mean:.3g}", when=value.mean == best)


def means_table(evaluation: Evaluation, scorer: str, temperature: float) -> Table:
    """Show the mean score of each method by preference with its standard error, the best in bold.

    A method is the best only among those that have answered all common questions. If neither high nor low scores are
    better for a preference, no method is.
    """
    criterion = Criterion(evaluation, scorer)
    names = [dimension.name for dimension in evaluation.dimensions]
    columns = {name: _column(criterion, name, temperature) for name in names}
    comparable = {name: {*criterion.comparable_scores(name, temperature)} for name in names}
    best = {
        name: _best({each: columns[name][each] for each in comparable[name]}, criterion.better(name)) for name in names
    }
    rows = []
    for method in evaluation.methods:
        estimates = {name: columns[name][method] for name in names if method in columns[name]}
        is_best = {name: method in comparable[name] and each.mean == best[name] for name, each in estimates.items()}
        cells = [
            bold(format_estimate(estimates[name]), when=is_best[name]) if name in estimates else "" for name in names
        ]
        rows.append((method, *cells, _sizes([each.num_clusters for each in estimates.values()])))
    header = ("method", *names, "questions")
    sizes = [each.num_clusters for column in columns.values() for each in column.values()]
    note = f"± is the standard error, clustered by question. {small_note(sizes)}"
    lines = [header, *rows]
    if len(names) > MAX_COLUMNS:
        lines = [*zip(*lines, strict=True)]
        lines[0] = ("preference", *lines[0][1:])
    return Table(f"{scorer}, {temperature_name(temperature)}", lines[0], tuple(lines[1:]), note)


def _column(criterion: Criterion, dimension: str, temperature: float) -> dict[str, Estimate]:
    scores = {each: criterion.scores(each, dimension, temperature) for each in criterion.evaluation.methods}
    return {method: estimate([*each.values()], [*each]) for method, each in scores.items() if each}


def _best(estimates: Mapping[str, Estimate], better: str | None) -> float | None:
    values = [each.mean for each in estimates.values()]
    if better is None or not values:
        return None
    return max(values) if better == "higher" else min(values)


def _sizes(sizes: list[int]) -> str:
    if not sizes:
        return ""
    return f"{sizes[0]}" if min(sizes) == max(sizes) else f"{min(sizes)} to {max(sizes)}"


def win_rate_table(
    rates: Mapping[str, Mapping[str, WinRate]], title: str, methods: Mapping[str, Method], note: str = ""
) -> Table:
    """Show the win rates of methods by preference, in percent."""
    rows = [
        (method, *(format_rate(column[method]) if method in column else "" for column in rates.values()))
        for method in methods
        if any(method in column for column in rates.values())
    ]
    sizes = [rate.num_clusters for column in rates.values() for rate in column.values()]
    full_note = f"In %, with the 95 % interval. A tie is half a win. {small_note(sizes)} {note}".strip()
    return Table(title, ("method", *rates), tuple(rows), full_note)


def difference_table(criterion: Criterion, temperature: float, *, baseline: str) -> Table:
    """Show the mean of each method's score minus the baseline's on the same questions, by preference."""
    names = criterion.dimensions
    columns = {name: criterion.differences(name, temperature, baseline=baseline) for name in names}
    rows = [
        (method, *(format_difference(columns[name][method]) if method in columns[name] else "" for name in names))
        for method in criterion.evaluation.methods
        if method != baseline
    ]
    sizes = [each.num_clusters for column in columns.values() for each in column.values()]
    header = ("method", *(f"{name} ({criterion.scorer_of(name)})" for name in names))
    note = (
        f"{_ALL_ANSWERS} With the 95 % interval, clustered by question. Bold: the interval excludes 0. "
        f"Without any real difference, this happens by chance in 1 of 20 cells. {small_note(sizes)}"
    )
    title = f"{criterion.scorer or 'Proxies'}: difference from {baseline}, {temperature_name(temperature)}"
    return Table(title, header, tuple(rows), note)


def ranking_table(criterion: Criterion, temperature: float) -> Table:
    """Show the Bradley-Terry strengths of the distinct methods."""
    ranked = criterion.ranking(temperature)
    sizes = {each.name: criterion.num_questions(each.name, temperature) for each in ranked}
    rows = tuple(
        (each.name, f"{each.strength:+.2f}", format_interval(each.interval), f"{sizes[each.name]}") for each in ranked
    )
    title = f"Ranking by Bradley-Terry ({criterion.scorer or 'proxies'}), {temperature_name(temperature)}"
    note = (
        "Strength in nats: a method of strength a wins against one of strength b with probability "
        "1 / (1 + exp(b - a)). "
        f"{small_note([*sizes.values()])}"
    )
    return Table(title, ("method", "strength", "95 % interval", "questions"), rows, note)
