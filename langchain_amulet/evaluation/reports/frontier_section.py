"""The section of a report that compares adherence with coherence."""

from collections.abc import Sequence

from langchain_amulet.answers.repetition import DEGENERATE_WORDS, STRICT_TRIGRAMS
from langchain_amulet.evaluation.analysis.frontier import CHOOSE, REPORT, Frontier, frontiers, is_steering
from langchain_amulet.evaluation.analysis.local_judge import FOLLOWS
from langchain_amulet.evaluation.methods.steering import REPEATED
from langchain_amulet.evaluation.reports.frontier_plots import frontier_plot
from langchain_amulet.evaluation.reports.frontier_tables import (
    adherence_table,
    chosen_table,
    coherence_table,
    preferences_table,
)
from langchain_amulet.evaluation.reports.report import Section
from langchain_amulet.evaluation.reports.sections import file_name
from langchain_amulet.evaluation.reports.tables import temperature_name
from langchain_amulet.evaluation.results import Evaluation
from langchain_amulet.evaluation.scorers.likelihood import HELD_OUT, HELD_OUT_OPPOSITE, PREFERENCE_NLL
from langchain_amulet.evaluation.scorers.text import STRICTLY_DEGENERATE
from langchain_amulet.evaluation.scorers.verifiable import KEPT

_FRONTIER_TEXT = (
    "How well answers follow their preferences, against how coherent they are. Kept: a program checks whether an "
    "answer keeps a verifiable preference; a degenerate answer keeps none. Held-out likelihood: how much more likely "
    "another model finds the answer if it is asked for the preference in other words, in nats per token, than without "
    "it, or than under the opposite. P(follows the preference): by a local judge. Strictly degenerate: more than "
    f"{100 * STRICT_TRIGRAMS:.0f} % of the 3-grams of words are repeated, or there are fewer than {DEGENERATE_WORDS} "
    "words. NLL: in nats per token, by the other model under the preference."
)

ADHERENCE = (KEPT, HELD_OUT, HELD_OUT_OPPOSITE, FOLLOWS)
"""Names of scorers of adherence, for the frontier."""


def found_frontiers(evaluation: Evaluation, temperature: float, *, baseline: str) -> list[Frontier]:
    """Return the frontiers of an evaluation by the package's scorers; by the checkers first, if there are any."""
    return frontiers(
        evaluation,
        temperature,
        adherence=ADHERENCE,
        degenerate=STRICTLY_DEGENERATE,
        nll=PREFERENCE_NLL,
        prompted=baseline,
        repeated=REPEATED,
    )


def chosen_methods(evaluation: Evaluation, num: int, *, baseline: str) -> set[str]:
    """Return the names of the methods that may run on the other half of the questions.

    These are the methods without steering, and at each temperature the `num` best coherent ones by the first scorer of
    adherence.
    """
    chosen = {name for name in evaluation.methods if not is_steering(evaluation, name)}
    for temperature in evaluation.temperatures:
        if found := found_frontiers(evaluation, temperature, baseline=baseline):
            chosen |= {*found[0].best(num)}
    return chosen


def frontier_section(evaluations: Sequence[Evaluation], temperature: float, *, baseline: str) -> Section | None:
    """Show adherence against coherence, or return `None` if no scorer of adherence was run."""
    found = [each for one in evaluations for each in found_frontiers(one, temperature, baseline=baseline)]
    if not found:
        return None
    name = temperature_name(temperature)
    figures, tables = {}, [chosen_table(*halves) for halves in _halves(found)]
    for datasets in dict.fromkeys(each.datasets for each in found):
        group = [each for each in found if each.datasets == datasets]
        for each in group:
            figures[file_name("frontier", *datasets, each.adherence, name)] = frontier_plot(each)
            tables.append(adherence_table(each))
        tables += [coherence_table(group[0]), *(preferences_table(each) for each in group)]
    return Section(f"Frontier, {name}", _FRONTIER_TEXT, figures, tables)


def _halves(found: Sequence[Frontier]) -> list[tuple[Frontier, Frontier]]:
    """Return the pairs of halves by the same scorer."""
    pairs = []
    for choose in found:
        [name, *_] = choose.datasets
        report = [
            each
            for each in found
            if name.endswith(CHOOSE)
            and each.datasets == (name.removesuffix(CHOOSE) + REPORT,)
            and each.adherence == choose.adherence
        ]
        pairs += [(choose, each) for each in report]
    return pairs
