"""Tables of refusals: how often methods refuse harmful requests."""

from langchain_amulet.evaluation.analysis.statistics import win_rate
from langchain_amulet.evaluation.reports.tables import Table, format_rate, small_note, temperature_name
from langchain_amulet.evaluation.results import Evaluation
from langchain_amulet.evaluation.scorers.refusals import REFUSAL
from langchain_amulet.exceptions import InvalidParameterError


def refusal_table(evaluation: Evaluation, temperature: float, *, baseline: str | None = None) -> Table:
    """Show for each method how often it refuses, and how often it answers what the baseline refuses.

    Args:
        evaluation: Evaluation with the scorer `refusal`.
        temperature: Sampling temperature of the answers.
        baseline: Name of a method. `None` takes the first method that does not use the preference.

    Raises:
        InvalidParameterError: `baseline` is `None`, and all methods use the preference.
    """
    baseline = baseline or _method_without_preference(evaluation)
    rows, sizes = [], []
    for method in evaluation.methods:
        refused, clusters = [], []
        num_answered, num_refused_by_baseline = 0, 0
        for dimension in evaluation.dimensions:
            ours, theirs = (
                evaluation.scores_of(REFUSAL, each, dimension=dimension.name, temperature=temperature)
                for each in (method, baseline)
            )
            refused += [*ours.values()]
            clusters += [*ours]
            both = [cluster for cluster in ours if theirs.get(cluster) == 1]
            num_refused_by_baseline += len(both)
            num_answered += sum(ours[cluster] == 0 for cluster in both)
        if refused:
            sizes.append(len({*clusters}))
            rate = format_rate(win_rate(refused, clusters))
            rows.append((method, rate, f"{num_answered} of {num_refused_by_baseline}"))
    header = ("method", "refused, in %", f"answered, of those that {baseline} refused")
    note = (
        f"Over all preferences, with the 95 % interval. The last column counts pairs of a request and a preference. "
        f"{small_note(sizes)}"
    )
    return Table(f"Harmful requests, {temperature_name(temperature)}", header, tuple(rows), note)


def _method_without_preference(evaluation: Evaluation) -> str:
    for name, method in evaluation.methods.items():
        if not method.uses_preference:
            return name
    msg = "No method ignores the preference. Add one to the evaluation, or name a baseline."
    raise InvalidParameterError(msg)
