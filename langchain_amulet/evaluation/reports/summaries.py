"""What an evaluation has found, as tables."""

from collections.abc import Mapping

from langchain_amulet.evaluation.analysis.comparisons import Yardstick
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

_RAW = "Scores as they are, of degenerate answers too."


def shared_runs(methods: Mapping[str, Method]) -> Table:
    """Which methods are one and the same here."""
    runs: dict[str, list[str]] = {}
    for name, method in methods.items():
        runs.setdefault(method.run, []).append(name)
    rows = tuple((run, ", ".join(names)) for run, names in runs.items())
    note = "Methods in one row have the same guidance scale w and guards: their answers are equal, and were run once."
    return Table("Runs", ("run", "methods"), rows, note)


def main_table(yardstick: Yardstick, temperature: float) -> Table:
    """As the paper's: by question set and preference, the mean of every method; the best in bold.

    Over the questions that all methods but searches have answered, and of methods that have answered them; those that
    share a run are one.
    """
    evaluation = yardstick.evaluation
    methods = evaluation.distinct_methods
    rows, sizes, won = [], [], dict[str, int]()
    for dataset in evaluation.datasets:
        for dimension in yardstick.dimensions:
            found = _means_of_all(yardstick, dataset, dimension, temperature)
            best = _best(found, yardstick.better(dimension))
            for method in found:
                if method in methods:
                    won[method] = won.get(method, 0) + (found[method].mean == best)
            cells = [_cell(found.get(method), best) for method in methods]
            if found:
                rows.append((dataset, f"{dimension} ({yardstick.scorer_of(dimension)})", *cells))
                sizes += [each.num_clusters for each in found.values()]
    shares = [percent(won[method] / len(rows)) if method in won else "" for method in methods]
    title = f"{yardstick.scorer or 'Proxies'} by question set, {temperature_name(temperature)}"
    note = f"{_RAW} Empty: has not answered what the others have. {small_note(sizes)}"
    return Table(title, ("questions", "preference", *methods), (*rows, ("best in % of the rows", "", *shares)), note)


def _means_of_all(yardstick: Yardstick, dataset: str, dimension: str, temperature: float) -> dict[str, Estimate]:
    """By method that competes, its mean over the questions that all of them have answered."""
    scores = yardstick.competing(dimension, temperature, dataset)
    return {method: estimate([*each.values()], [*each]) for method, each in scores.items()}


def _cell(found: Estimate | None, best: float | None) -> str:
    return "" if found is None else bold(f"{found.mean:.3g}", when=found.mean == best)


def means(evaluation: Evaluation, scorer: str, temperature: float) -> Table:
    """The mean score of every method for every preference, with its error; the best in bold, where one end is best.

    Only methods that have answered what all but searches have answered compete for it.
    """
    yardstick = Yardstick(evaluation, scorer)
    names = [dimension.name for dimension in evaluation.dimensions]
    columns = {name: _column(yardstick, name, temperature) for name in names}
    able = {name: {*yardstick.competing(name, temperature)} for name in names}
    best = {name: _best({each: columns[name][each] for each in able[name]}, yardstick.better(name)) for name in names}
    rows = []
    for method in evaluation.methods:
        found = [columns[name].get(method) for name in names]
        cells = [
            "" if each is None else bold(format_estimate(each), when=method in able[name] and each.mean == best[name])
            for name, each in zip(names, found, strict=True)
        ]
        rows.append((method, *cells, _sizes([each.num_clusters for each in found if each is not None])))
    header = ("method", *names, "questions")
    sizes = [each.num_clusters for column in columns.values() for each in column.values()]
    note = f"± is the standard error, clustered by question. {small_note(sizes)}"
    return Table(f"{scorer}, {temperature_name(temperature)}", header, tuple(rows), note)


def _column(yardstick: Yardstick, dimension: str, temperature: float) -> dict[str, Estimate]:
    scores = {each: yardstick.scores(each, dimension, temperature) for each in yardstick.evaluation.methods}
    return {method: estimate([*each.values()], [*each]) for method, each in scores.items() if each}


def _best(found: Mapping[str, Estimate], better: str | None) -> float | None:
    values = [each.mean for each in found.values()]
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
    """By preference and method, how often it wins, in percent."""
    rows = [
        (method, *(format_rate(column[method]) if method in column else "" for column in rates.values()))
        for method in methods
        if any(method in column for column in rates.values())
    ]
    sizes = [rate.num_clusters for column in rates.values() for rate in column.values()]
    told_note = f"In percent, ties half, with the 95 % interval; {small_note(sizes)} {note}".strip()
    return Table(title, ("method", *rates), tuple(rows), told_note)


def difference_table(yardstick: Yardstick, temperature: float, *, baseline: str) -> Table:
    """By preference and method, its score less the baseline's on the same questions."""
    names = yardstick.dimensions
    columns = {name: yardstick.differences(name, temperature, baseline=baseline) for name in names}
    rows = [
        (method, *(format_difference(columns[name][method]) if method in columns[name] else "" for name in names))
        for method in yardstick.evaluation.methods
        if method != baseline
    ]
    sizes = [each.num_clusters for column in columns.values() for each in column.values()]
    header = ("method", *(f"{name} ({yardstick.scorer_of(name)})" for name in names))
    note = (
        f"{_RAW} With the 95 % interval, clustered by question; bold where it leaves out 0, as one in twenty would by "
        f"chance. {small_note(sizes)}"
    )
    title = f"{yardstick.scorer or 'Proxies'}: difference to {baseline}, {temperature_name(temperature)}"
    return Table(title, header, tuple(rows), note)


def ranking_table(yardstick: Yardstick, temperature: float) -> Table:
    """Who wins how often against whom, as one strength per method."""
    ranked = yardstick.ranking(temperature)
    sizes = {each.name: yardstick.num_questions(each.name, temperature) for each in ranked}
    rows = tuple(
        (each.name, f"{each.strength:+.2f}", format_interval(each.interval), f"{sizes[each.name]}") for each in ranked
    )
    title = f"Ranking by Bradley-Terry ({yardstick.scorer or 'proxies'}), {temperature_name(temperature)}"
    note = (
        "Strengths in nats: a method of strength a beats one of strength b in 1 / (1 + exp(b - a)) of questions. "
        f"{small_note([*sizes.values()])}"
    )
    return Table(title, ("method", "strength", "95 % interval", "questions"), rows, note)
