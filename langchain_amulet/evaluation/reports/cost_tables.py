"""Tables of the time and memory that methods need."""

from collections.abc import Sequence

from langchain_amulet.evaluation.analysis.costs import Cost
from langchain_amulet.evaluation.reports.tables import Table


def cost_table(costs: Sequence[Cost]) -> Table:
    """Show the costs of methods. Times are relative to the first method."""
    rows = tuple(
        (
            cost.method,
            "" if cost.first_token_s is None else f"{1000 * cost.first_token_s:.0f}",
            f"{1000 * cost.token_s:.0f}",
            f"{cost.relative:.2f}",
            f"{cost.peak_bytes / 2**20:.0f}",
        )
        for cost in costs
    )
    header = (
        "method",
        "first token, ms",
        "per token, ms",
        f"time per token relative to {costs[0].method}",
        "peak memory, MiB",
    )
    note = (
        "One request at a time; medians of a few answers. Relative times compare answers to the same question, "
        "measured one after the other. Methods without a time to the first token do not stream. Memory includes the "
        "weights. On a GPU it is the memory allocated there; on a CPU it is the memory of the process, which includes "
        "memory that earlier answers used."
    )
    return Table("Cost", header, rows, note)
