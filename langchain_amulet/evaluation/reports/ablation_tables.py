"""Tables of the paper's ablations."""

from langchain_amulet.evaluation.analysis.comparisons import DEGENERATE, Yardstick
from langchain_amulet.evaluation.analysis.statistics import Estimate, estimate
from langchain_amulet.evaluation.methods.ablations import Setting, ablation
from langchain_amulet.evaluation.reports.tables import Table, format_estimate, percent, small_note, temperature_name


def ablation_table(yardstick: Yardstick, parameter: str, temperature: float) -> Table:
    """By value: the w that it comes to, and what it does to answers for every preference."""
    names = yardstick.dimensions
    broken = Yardstick(yardstick.evaluation, DEGENERATE)
    rows, sizes = [], []
    for setting in ablation(parameter):
        found = [_means(each, setting, name, temperature) for name in names for each in (yardstick, broken)]
        sizes += [each.num_clusters for each in found if each is not None]
        effects = ["" if each is None else format_estimate(each) for each in found[::2]]
        costs = ["" if each is None else percent(each.mean) for each in found[1::2]]
        cells = [f"{effect}; {cost}".strip("; ") for effect, cost in zip(effects, costs, strict=True)]
        rows.append((setting.label, _told_scale(setting), *cells))
    header = (parameter, "w", *(f"{name} ({yardstick.scorer_of(name)}; degenerate in %)" for name in names))
    title = f"Ablation of {parameter} ({yardstick.scorer or 'proxies'}), {temperature_name(temperature)}"
    note = f"± is the standard error, clustered by question. {small_note(sizes)} {_shared(parameter)}".strip()
    return Table(title, header, tuple(rows), note)


def _means(yardstick: Yardstick, setting: Setting, dimension: str, temperature: float) -> Estimate | None:
    if setting.method is None or setting.method.name not in yardstick.evaluation.methods:
        return None
    scores = yardstick.scores(setting.method.name, dimension, temperature)
    return estimate([*scores.values()], [*scores]) if scores else None


def _told_scale(setting: Setting) -> str:
    return "no bound" if setting.guidance_scale is None else f"{setting.guidance_scale:.4g}"


def _shared(parameter: str) -> str:
    """Which settings were run once, or not at all."""
    settings = ablation(parameter)
    runs: dict[str, list[str]] = {}
    for setting in settings:
        if setting.method is not None:
            runs.setdefault(setting.method.run, []).append(setting.label)
    equal = [" and ".join(values) for values in runs.values() if len(values) > 1]
    refused = [setting.label for setting in settings if setting.method is None]
    parts = [f"Run once, since w is equal: {'; '.join(equal)}."] if equal else []
    parts += [f"Not run: at {', '.join(refused)} w grows beyond what logits can be multiplied by."] if refused else []
    return " ".join(parts)
