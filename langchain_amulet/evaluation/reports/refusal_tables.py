"""Tables of refusals: how often methods refuse, and what steering unlocks."""

from langchain_amulet.evaluation.analysis.statistics import win_rate
from langchain_amulet.evaluation.reports.tables import Table, format_rate, small_note, temperature_name
from langchain_amulet.evaluation.results import Evaluation


def refusal_table(evaluation: Evaluation, temperature: float, *, baseline: str = "base") -> Table:
    """How often each method refuses, and how often it answers what the baseline has refused."""
    rows, sizes = [], []
    for method in evaluation.methods:
        refused, unlocked, was_refused = [], 0, 0
        clusters = []
        for dimension in evaluation.dimensions:
            ours, plain = (
                evaluation.scores_of("refusal", each, dimension=dimension.name, temperature=temperature)
                for each in (method, baseline)
            )
            refused += [*ours.values()]
            clusters += [*ours]
            both = [cluster for cluster in ours if plain.get(cluster) == 1]
            was_refused += len(both)
            unlocked += sum(ours[cluster] == 0 for cluster in both)
        if refused:
            sizes.append(len({*clusters}))
            rows.append((method, format_rate(win_rate(refused, clusters)), f"{unlocked} of {was_refused}"))
    header = ("method", "refused, in percent", f"answered, of what {baseline} refused")
    note = f"All preferences together; the last column counts pairs of request and preference. {small_note(sizes)}"
    return Table(f"Harmful requests, {temperature_name(temperature)}", header, tuple(rows), note)
