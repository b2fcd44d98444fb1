"""Tables of ablations."""

from langchain_amulet.evaluation.analysis.comparisons import Criterion
from langchain_amulet.evaluation.analysis.statistics import Estimate, estimate
from langchain_amulet.evaluation.methods.ablations import Setting, ablation
from langchain_amulet.evaluation.reports.tables import Table, format_estimate, percent, small_note, temperature_name
from langchain_amulet.evaluation.scorers.text import DEGENERATE
from langchain_amulet.realignment import MAX_GUIDANCE_SCALE


def ablation_table(criterion: Criterion, parameter: str, temperature: float) -> Table:
    """Show w, and by preference the mean score and the degenerate answers, for each value of a parameter."""
    names = criterion.dimensions
    degenerate = Criterion(criterion.evaluation, DEGENERATE)
    rows, sizes = [], []
    for setting in ablation(parameter):
        means = [_mean(each, setting, name, temperature) for name in names for each in (criterion, degenerate)]
        sizes += [each.num_clusters for each in means if each is not None]
        effects = ["" if each is None else format_estimate(each) for each in means[::2]]
        costs = ["" if each is None else percent(each.mean) for each in means[1::2]]
        cells = [f"{effect}; {cost}".strip("; ") for effect, cost in zip(effects, costs, strict=True)]
        rows.append((setting.label, _format_scale(setting), *cells))
    header = (parameter, "w", *(f"{name} ({criterion.scorer_of(name)}; degenerate in %)" for name in names))
    title = f"Ablation of {parameter} ({criterion.scorer or 'proxies'}), {temperature_name(temperature)}"
    note = f"± is the standard error, clustered by question. {small_note(sizes)} {_merged_settings(parameter)}".strip()
    return Table(title, header, tuple(rows), note)


def _mean(criterion: Criterion, setting: Setting, dimension: str, temperature: float) -> Estimate | None:
    if setting.method is None or setting.method.name not in criterion.evaluation.methods:
        return None
    scores = criterion.scores(setting.method.name, dimension, temperature)
    return estimate([*scores.values()], [*scores]) if scores else None


def _format_scale(setting: Setting) -> str:
    return f"above {MAX_GUIDANCE_SCALE:g}" if setting.guidance_scale is None else f"{setting.guidance_scale:.4g}"


def _merged_settings(parameter: str) -> str:
    """List the settings that were run once, or not at all."""
    settings = ablation(parameter)
    labels: dict[str, list[str]] = {}
    for setting in settings:
        if setting.method is not None:
            labels.setdefault(setting.method.decoding_key, []).append(setting.label)
    equal = [" and ".join(values) for values in labels.values() if len(values) > 1]
    refused = [setting.label for setting in settings if setting.method is None]
    parts = [f"Equal w, so equal answers: {'; '.join(equal)}."] if equal else []
    parts += (
        [f"Not run, since w is above the limit of {MAX_GUIDANCE_SCALE:g}: {', '.join(refused)}."] if refused else []
    )
    return " ".join(parts)
