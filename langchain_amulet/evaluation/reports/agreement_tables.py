"""Tables of the agreement of judges and scorers with checkers."""

from collections.abc import Mapping

from langchain_amulet.evaluation.analysis.agreement import Agreement
from langchain_amulet.evaluation.reports.tables import Table, format_rate, small_note, temperature_name

ALL = "all"
"""The row of all preferences."""

_NOTE = (
    "In %, with the 95 % interval: how often the judge prefers the answer that keeps its preference, of the pairs of "
    "answers in which a checker says that one does and the other does not. 50 is chance, and a tie is half a success. "
    "The judges have different pairs: a judge of pairs compares each method with the baseline, a scorer all methods."
)


def agreement_table(agreements: Mapping[str, Agreement | None], checker: str, temperature: float) -> Table:
    """Show the agreement of each judge with a checker, over all preferences and by preference.

    Args:
        agreements: By the name of a judge or scorer. Those without pairs to compare are left out.
        checker: Name of the scorer that they are compared with.
        temperature: Sampling temperature of the answers.
    """
    columns = {name: each for name, each in agreements.items() if each is not None}
    names = dict.fromkeys(name for each in columns.values() for name in each.by_dimension)
    rows = [
        (ALL, *(format_rate(each.overall) for each in columns.values())),
        *((name, *(_cell(each, name) for each in columns.values())) for name in names),
        ("pairs", *(f"{each.num_pairs}" for each in columns.values())),
    ]
    sizes = [each.overall.num_clusters for each in columns.values()]
    title = f"Agreement with {checker}, {temperature_name(temperature)}"
    return Table(title, ("preference", *columns), tuple(rows), f"{_NOTE} {small_note(sizes)}".strip())


def _cell(agreement: Agreement, dimension: str) -> str:
    rate = agreement.by_dimension.get(dimension)
    return "" if rate is None else format_rate(rate)
