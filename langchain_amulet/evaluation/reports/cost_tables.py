"""Tables of what methods cost in time and memory."""

from collections.abc import Sequence

from langchain_amulet.evaluation.analysis.costs import Cost
from langchain_amulet.evaluation.reports.tables import Table


def cost_table(costs: Sequence[Cost]) -> Table:
    """Side by side; the first is what others are compared with."""
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
    header = ("method", "first token, ms", "per token, ms", f"time against {costs[0].method}", "peak memory, MiB")
    note = (
        "One user at a time; medians of few answers; the ratio is of neighbours in time. Methods without a first token "
        "give an answer only as a whole. Memory, weights included: of the GPU, or of the process on a CPU, which keeps "
        "what earlier answers took."
    )
    return Table("Cost", header, rows, note)
