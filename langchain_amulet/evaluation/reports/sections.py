"""The parts of a report, each made from what an evaluation has found."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence

from langchain_amulet.evaluation.analysis.comparisons import PROXIES, Yardstick
from langchain_amulet.evaluation.analysis.costs import Cost
from langchain_amulet.evaluation.analysis.judge import Judgements
from langchain_amulet.evaluation.analysis.statistics import WinRate
from langchain_amulet.evaluation.methods.ablations import PARAMETERS, RANGES
from langchain_amulet.evaluation.reports import plots
from langchain_amulet.evaluation.reports.ablation_tables import ablation_table
from langchain_amulet.evaluation.reports.cost_tables import cost_table
from langchain_amulet.evaluation.reports.refusal_tables import refusal_table
from langchain_amulet.evaluation.reports.report import Example, Section
from langchain_amulet.evaluation.reports.summaries import (
    difference_table,
    main_table,
    means,
    ranking_table,
    shared_runs,
    win_rate_table,
)
from langchain_amulet.evaluation.reports.tables import Table, temperature_name
from langchain_amulet.evaluation.results import Evaluation
from langchain_amulet.evaluation.runs.answer import Answer

_REFUSALS_TEXT = (
    "Steering must not unlock what the model refuses by itself. 50 plainly harmful requests; a refusal is told by "
    "phrases in the first 300 characters, in English. Asked of the base model, the prompted one, and Amulet's settings."
)

_ABLATIONS_TEXT = (
    "T, eta, alpha and lambda act through w alone: settings of equal w and guards, in whatever table, are one run."
)

NUM_EXAMPLES = 3
"""Questions per preference whose answers are shown side by side."""

_PROXIES_TEXT = (
    "Proxies tell without any model whether an answer follows a preference: "
    + ", ".join(f"{name} by {scorer} ({end} is better)" for name, (scorer, end) in PROXIES.items())
    + ". They do not tell whether it is a good answer (distinct-2, for one, falls with length); "
    "in win rates and rankings, degenerate answers lose to all others."
)


def setup_section(evaluation: Evaluation) -> Section:
    """What was asked of whom, on what machine."""
    manifest = evaluation.manifest
    last = manifest["environments"][-1]
    environment = {**last, **last["versions"]}
    told = {**manifest["config"], **{name: value for name, value in environment.items() if name != "versions"}}
    asked = {
        "question sets": ", ".join(evaluation.datasets),
        "temperatures": ", ".join(f"{each:g}" for each in evaluation.temperatures),
        **{f"preference {each.name}": each.text for each in evaluation.dimensions},
    }
    rows = tuple((name, str(value)) for name, value in {**asked, **told}.items())
    tables = [Table("Protocol", ("what", "value"), rows), shared_runs(evaluation.methods)]
    if evaluation.failures:
        failed = Counter(evaluation.failures.values()).most_common()
        tables.append(Table("Not answered", ("why", "answers"), tuple((why, str(number)) for why, number in failed)))
    return Section("Setup", tables=tables)


def results_sections(evaluation: Evaluation, *, baseline: str) -> list[Section]:
    """One for each temperature."""
    return [_results(evaluation, temperature, baseline) for temperature in evaluation.temperatures]


def _results(evaluation: Evaluation, temperature: float, baseline: str) -> Section:
    name = temperature_name(temperature)
    figures, tables = {}, []
    for yardstick in _yardsticks(evaluation):
        told = yardstick.scorer or "proxies"
        rates = _rates(yardstick, temperature, baseline)
        title = f"Win rate against {baseline} ({told}), {name}"
        figures[_file_name("win-rates", told, name)] = plots.win_rate_bars(rates, title)
        tables += [
            main_table(yardstick, temperature),
            win_rate_table(rates, title, evaluation.methods),
            difference_table(yardstick, temperature, baseline=baseline),
            ranking_table(yardstick, temperature),
        ]
    if "degenerate" in evaluation.scorers and Yardstick(evaluation).dimensions:
        figures[_file_name("strength", name)] = plots.strength_and_coherence(evaluation, temperature)
    tables += [means(evaluation, scorer, temperature) for scorer in evaluation.scorers]
    return Section(f"Results, {name}", _PROXIES_TEXT, figures, tables)


def _yardsticks(evaluation: Evaluation) -> list[Yardstick]:
    """Reward models first, then proxies; those that can tell of a preference here."""
    rewards = [each.name for each in evaluation.scorers.values() if each.is_reward]
    found = [*(Yardstick(evaluation, name) for name in rewards), Yardstick(evaluation)]
    return [each for each in found if each.dimensions]


def _rates(yardstick: Yardstick, temperature: float, baseline: str) -> Mapping[str, Mapping[str, WinRate]]:
    """By preference, of one method of each run."""
    shown = yardstick.evaluation.distinct_methods
    rates = {}
    for dimension in yardstick.dimensions:
        column = yardstick.win_rates(dimension, temperature, baseline=baseline)
        rates[dimension] = {method: column[method] for method in shown if method in column}
    return rates


def judge_section(evaluation: Evaluation, judgements: Sequence[Judgements]) -> Section:
    """What a judge has said, for each temperature."""
    figures, tables = {}, []
    for each in judgements:
        name = temperature_name(each.temperature)
        title = f"Win rate against {each.baseline} by the judge, {name}"
        rates = {dimension.name: each.win_rates(dimension.name) for dimension in evaluation.dimensions}
        note = f"Not scored: {each.num_unscored} of {len(each.verdicts)} pairs."
        figures[_file_name("judge", name)] = plots.win_rate_bars(rates, title)
        tables.append(win_rate_table(rates, title, evaluation.methods, note))
    text = "Every pair was judged in both orders; where the judge refused or could not be read, nobody scores."
    return Section("Judge", text, figures, tables)


def refusals_section(evaluation: Evaluation) -> Section:
    """Whether steering unlocks what the model refuses."""
    tables = [refusal_table(evaluation, temperature) for temperature in evaluation.temperatures]
    return Section("Refusals", _REFUSALS_TEXT, tables=tables)


def ablations_section(evaluation: Evaluation, parameters: Sequence[str] = PARAMETERS) -> Section:
    """What the paper's parameters, w itself and the guards do."""
    temperature = evaluation.temperatures[0]
    figures = {"parameters": plots.parameters_to_scale()} if {*parameters} & {*RANGES} else {}
    tables = []
    for yardstick in _yardsticks(evaluation):
        for each in parameters:
            name = _file_name("ablation", each, yardstick.scorer or "proxies")
            figures[name] = plots.ablation_curves(yardstick, each, temperature)
            tables.append(ablation_table(yardstick, each, temperature))
    return Section("Ablations", _ABLATIONS_TEXT, figures, tables)


def efficiency_section(costs: Sequence[Cost]) -> Section:
    """What methods cost."""
    return Section("Efficiency", tables=[cost_table(costs)])


def examples_section(evaluation: Evaluation) -> Section:
    """The first questions, at the first temperature: not chosen for what is in them."""
    temperature = evaluation.temperatures[0]
    found = []
    for dimension in evaluation.dimensions:
        by_method = {
            method: evaluation.answers_of(method, dimension=dimension.name, temperature=temperature)
            for method in evaluation.distinct_methods
        }
        found += _examples(by_method)
    return Section("Side by side", f"The first questions, {temperature_name(temperature)}.", examples=found)


def _examples(by_method: Mapping[str, Mapping[tuple[str, str], Answer]]) -> list[Example]:
    answered = [*by_method.values()]
    everywhere = [cluster for cluster in answered[0] if all(cluster in each for each in answered)]
    return [
        Example(
            answered[0][cluster].question,
            answered[0][cluster].preference,
            tuple((method, answers[cluster].text) for method, answers in by_method.items()),
        )
        for cluster in everywhere[:NUM_EXAMPLES]
    ]


def _file_name(*parts: str) -> str:
    return re.sub(r"[^\w.]+", "-", "-".join(parts)).strip("-").lower()
