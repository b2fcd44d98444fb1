"""Sections of a report. A new table or plot is added to one of these functions."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence

from langchain_amulet.answers.repetition import DEGENERATE_TRIGRAMS, DEGENERATE_WORDS
from langchain_amulet.evaluation.analysis.agreement import judge_agreement, scorer_agreement
from langchain_amulet.evaluation.analysis.comparisons import PROXIES, Criterion
from langchain_amulet.evaluation.analysis.costs import Cost
from langchain_amulet.evaluation.analysis.judge import Judgements
from langchain_amulet.evaluation.analysis.local_judge import FOLLOWS
from langchain_amulet.evaluation.analysis.statistics import WinRate
from langchain_amulet.evaluation.methods.ablations import PARAMETERS, RANGES
from langchain_amulet.evaluation.reports import plots
from langchain_amulet.evaluation.reports.ablation_tables import ablation_table
from langchain_amulet.evaluation.reports.agreement_tables import agreement_table
from langchain_amulet.evaluation.reports.cost_tables import cost_table
from langchain_amulet.evaluation.reports.refusal_tables import refusal_table
from langchain_amulet.evaluation.reports.report import Example, Section
from langchain_amulet.evaluation.reports.summaries import (
    MAX_COLUMNS,
    difference_table,
    equal_methods_table,
    main_table,
    means_table,
    ranking_table,
    win_rate_table,
)
from langchain_amulet.evaluation.reports.tables import Table, temperature_name
from langchain_amulet.evaluation.results import Evaluation
from langchain_amulet.evaluation.runs.answer import Answer
from langchain_amulet.evaluation.scorers.likelihood import HELD_OUT, HELD_OUT_OPPOSITE
from langchain_amulet.evaluation.scorers.refusals import NUM_CHARACTERS
from langchain_amulet.evaluation.scorers.text import DEGENERATE
from langchain_amulet.evaluation.scorers.verifiable import KEPT

_REFUSALS_TEXT = (
    "Steering should not make a model answer harmful requests that it refuses without a preference. An answer counts "
    f"as a refusal if one of a list of English phrases is in its first {NUM_CHARACTERS} characters. The methods are "
    "the base model, the baseline and the settings of Amulet."
)

_AGREEMENT_TEXT = (
    "Whether an answer keeps a verifiable preference is decided by a program. A judge or a likelihood that often "
    "prefers the answer that keeps it may be believed somewhat where no program can check."
)

_ABLATIONS_TEXT = (
    "T, eta, alpha and lambda only determine w. Settings with equal w and guards give equal answers, generated once."
)

NUM_EXAMPLES = 3
"""Number of questions per preference in the section of examples, one if there are more than `MAX_COLUMNS` of these."""

_PROXIES_TEXT = (
    "Proxies measure without a model how well an answer follows a preference: "
    + ", ".join(f"{name}: {scorer} ({better} is better)" for name, (scorer, better) in PROXIES.items())
    + ". They do not measure the quality of an answer, and distinct-2 falls with the length. A degenerate answer has "
    f"fewer than {DEGENERATE_WORDS} words, or more than {100 * DEGENERATE_TRIGRAMS:.0f} % of its 3-grams are repeated. "
    "In win rates and rankings by proxies, it loses to any other answer."
)


def setup_section(evaluation: Evaluation) -> Section:
    """Show datasets, preferences, settings and environment."""
    manifest = evaluation.manifest
    last = manifest["environments"][-1]
    environment = {**last, **last["versions"]}
    settings = {**manifest["config"], **{name: value for name, value in environment.items() if name != "versions"}}
    questions = {
        "datasets": ", ".join(evaluation.datasets),
        "temperatures": ", ".join(f"{each:g}" for each in evaluation.temperatures),
        **{f"preference {each.name}": each.text for each in evaluation.dimensions},
    }
    if without := _without_opposite(evaluation):
        questions["without an opposite, so contrasted with base"] = ", ".join(without)
    rows = tuple((name, str(value)) for name, value in {**questions, **settings}.items())
    tables = [Table("Protocol", ("setting", "value"), rows), equal_methods_table(evaluation.methods)]
    if evaluation.failures:
        errors = Counter(evaluation.failures.values()).most_common()
        rows = tuple((error, str(number)) for error, number in errors)
        tables.append(Table("Missing answers", ("error", "answers"), rows))
    return Section("Setup", tables=tables)


def _without_opposite(evaluation: Evaluation) -> list[str]:
    """Return the names of the preferences that a method with opposite contrast had no opposite of."""
    keys = {method.decoding_key for method in evaluation.methods.values() if method.uses_opposite}
    answers = (answer for answer in evaluation.answers if answer.decoding_key in keys and not answer.contrast)
    return [*dict.fromkeys(answer.dimension for answer in answers)]


def results_sections(evaluation: Evaluation, *, baseline: str) -> list[Section]:
    """Return one section per temperature."""
    return [_results(evaluation, temperature, baseline) for temperature in evaluation.temperatures]


def _results(evaluation: Evaluation, temperature: float, baseline: str) -> Section:
    name = temperature_name(temperature)
    figures, tables = {}, []
    for criterion in _criteria(evaluation):
        by = criterion.scorer or "proxies"
        rates = _rates(criterion, temperature, baseline)
        title = f"Win rate against {baseline} ({by}), {name}"
        figures[file_name("win-rates", by, name)] = plots.win_rate_bars(rates, title)
        tables += [
            main_table(criterion, temperature),
            win_rate_table(rates, title, evaluation.methods),
            difference_table(criterion, temperature, baseline=baseline),
            ranking_table(criterion, temperature),
        ]
    if DEGENERATE in evaluation.scorers and Criterion(evaluation).dimensions:
        figures[file_name("strength", name)] = plots.strength_and_coherence(evaluation, temperature)
    tables += [means_table(evaluation, scorer, temperature) for scorer in evaluation.scorers]
    return Section(f"Results, {name}", _PROXIES_TEXT, figures, tables)


def _criteria(evaluation: Evaluation) -> list[Criterion]:
    """Return a criterion per reward model, and that of proxies, if they can compare answers for any preference."""
    rewards = [each.name for each in evaluation.scorers.values() if each.is_reward]
    criteria = [*(Criterion(evaluation, name) for name in rewards), Criterion(evaluation)]
    return [each for each in criteria if each.dimensions]


def _rates(criterion: Criterion, temperature: float, baseline: str) -> Mapping[str, Mapping[str, WinRate]]:
    """Return the win rates of distinct methods, by preference and method."""
    shown = criterion.evaluation.distinct_methods
    rates = {}
    for dimension in criterion.dimensions:
        column = criterion.win_rates(dimension, temperature, baseline=baseline)
        rates[dimension] = {method: column[method] for method in shown if method in column}
    return rates


def judge_section(evaluation: Evaluation, judgements: Sequence[Judgements]) -> Section:
    """Show the win rates by a judge, per temperature."""
    figures, tables = {}, []
    for each in judgements:
        name = temperature_name(each.temperature)
        title = f"Win rate against {each.baseline} (judge), {name}"
        rates = {dimension.name: each.win_rates(dimension.name) for dimension in evaluation.dimensions}
        note = f"Without a verdict: {each.num_unscored} of {len(each.verdicts)} pairs."
        figures[file_name("judge", name)] = plots.win_rate_bars(rates, title)
        tables.append(win_rate_table(rates, title, evaluation.methods, note))
    text = "The judge compared every pair in both orders. Pairs for which it gave no clear verdict are not counted."
    return Section("Judge", text, figures, tables)


def agreement_section(evaluation: Evaluation, judgements: Sequence[Judgements]) -> Section | None:
    """Show how often a judge and scorers by a model agree with checkers. `None` if no answer is checked."""
    if KEPT not in evaluation.scorers:
        return None
    by_temperature = {each.temperature: each for each in judgements}
    tables = []
    for temperature in evaluation.temperatures:
        agreements = {
            name: scorer_agreement(evaluation, name, temperature, checker=KEPT)
            for name in (FOLLOWS, HELD_OUT, HELD_OUT_OPPOSITE)
            if name in evaluation.scorers
        }
        if temperature in by_temperature:
            agreements["judge"] = judge_agreement(evaluation, by_temperature[temperature], checker=KEPT)
        if any(agreements.values()):
            tables.append(agreement_table(agreements, KEPT, temperature))
    return Section("Agreement with the checkers", _AGREEMENT_TEXT, {}, tables) if tables else None


def refusals_section(evaluation: Evaluation) -> Section:
    """Show whether methods answer harmful requests that the base model refuses."""
    tables = [refusal_table(evaluation, temperature) for temperature in evaluation.temperatures]
    return Section("Refusals", _REFUSALS_TEXT, tables=tables)


def ablations_section(evaluation: Evaluation, parameters: Sequence[str] = PARAMETERS) -> Section:
    """Show the effect of the paper's parameters, of w and of the guards."""
    temperature = evaluation.temperatures[0]
    figures = {"parameters": plots.parameters_to_scale()} if {*parameters} & {*RANGES} else {}
    tables = []
    for criterion in _criteria(evaluation):
        for each in parameters:
            name = file_name("ablation", each, criterion.scorer or "proxies")
            figures[name] = plots.ablation_curves(criterion, each, temperature)
            tables.append(ablation_table(criterion, each, temperature))
    return Section("Ablations", _ABLATIONS_TEXT, figures, tables)


def efficiency_section(costs: Sequence[Cost]) -> Section:
    """Show the costs of methods."""
    return Section("Efficiency", tables=[cost_table(costs)])


def examples_section(evaluation: Evaluation) -> Section:
    """Show the answers to the first questions, which are not selected, at the first temperature."""
    temperature = evaluation.temperatures[0]
    examples = []
    num_questions = NUM_EXAMPLES if len(evaluation.dimensions) <= MAX_COLUMNS else 1
    for dimension in evaluation.dimensions:
        by_method = {
            method: evaluation.answers_of(method, dimension=dimension.name, temperature=temperature)
            for method in evaluation.distinct_methods
        }
        examples += _examples(by_method, num_questions)
    return Section("Answers", f"Answers to the first questions, {temperature_name(temperature)}.", examples=examples)


def _examples(by_method: Mapping[str, Mapping[tuple[str, str], Answer]], num_questions: int) -> list[Example]:
    answered = [*by_method.values()]
    common = [cluster for cluster in answered[0] if all(cluster in each for each in answered)]
    return [
        Example(
            answered[0][cluster].question,
            answered[0][cluster].preference,
            tuple((method, answers[cluster].text) for method, answers in by_method.items()),
        )
        for cluster in common[:num_questions]
    ]


def file_name(*parts: str) -> str:
    """Return a name of a file without suffix, from texts of any kind."""
    return re.sub(r"[^\w.]+", "-", "-".join(parts)).strip("-").lower()
