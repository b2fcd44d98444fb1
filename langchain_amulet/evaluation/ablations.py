"""What the paper's parameters do: T, η, α and λ all act through one number, w."""

from collections.abc import Sequence
from dataclasses import dataclass

from langchain_amulet.evaluation.comparisons import DEGENERATE, Yardstick
from langchain_amulet.evaluation.methods import Method, realigned
from langchain_amulet.evaluation.statistics import Estimate, estimate
from langchain_amulet.evaluation.tables import Table, format_estimate, percent, small_note, temperature_name
from langchain_amulet.exceptions import InvalidParameterError
from langchain_amulet.realignment import RealignmentConfig

PAPER = {"num_iterations": 60, "eta": 10.0, "alpha": 2.0, "lam": 2.0}
"""The paper's defaults."""
RANGES: dict[str, tuple[float, ...]] = {
    "num_iterations": (0, 20, 40, 60, 80, 100),
    "eta": (2, 4, 6, 8, 10, 12, 14, 16, 18, 20),
    "alpha": (1, 2, 3, 4, 5, 6, 7, 8, 9, 10),
    "lam": (1, 2, 3, 4, 5, 6, 7, 8, 9, 10),
}
"""The paper's ranges, one parameter at a time."""
PAPER_SCALE = RealignmentConfig.paper().guidance_scale
SCALES = (0.5, 1.0, 1.5, 2.0, 3.0, 4.0, PAPER_SCALE, 8.0)
"""Of w itself."""
GUARDS = (
    ("none", RealignmentConfig.paper()),
    ("plausibility 0.1", RealignmentConfig.amulet(plausibility=0.1)),
    ("plausibility 0.3", RealignmentConfig.amulet(plausibility=0.3)),
    ("max_kl 1", RealignmentConfig.amulet(plausibility=0.0, max_kl=1.0)),
    ("max_kl 0.5", RealignmentConfig.amulet(plausibility=0.0, max_kl=0.5)),
    ("plausibility 0.1, max_kl 0.5", RealignmentConfig.amulet(plausibility=0.1, max_kl=0.5)),
)
"""At the paper's w."""
PARAMETERS = (*RANGES, "guidance_scale", "guards")
"""All that there is an ablation of."""


@dataclass(frozen=True, slots=True)
class Setting:
    """One value of one parameter."""

    parameter: str
    value: float | str
    guidance_scale: float | None
    """What it comes to; `None` if it is refused, since w has no bound there."""
    method: Method | None

    @property
    def label(self) -> str:
        """The value, as tables tell it."""
        return self.value if isinstance(self.value, str) else f"{self.value:.4g}"


def ablation(parameter: str) -> list[Setting]:
    """One of the paper's parameters over its range, the others at their defaults; `"guidance_scale"`, or `"guards"`.

    Raises:
        InvalidParameterError: There is no such ablation.
    """
    if parameter == "guards":
        return [
            Setting(parameter, name, config.guidance_scale, realigned(f"guards: {name}", config))
            for name, config in GUARDS
        ]
    if parameter == "guidance_scale":
        return [_setting(parameter, w, RealignmentConfig(w, plausibility=0.0)) for w in SCALES]
    if parameter not in RANGES:
        msg = f"There is no ablation of {parameter}. There are: {', '.join([*RANGES, 'guidance_scale', 'guards'])}."
        raise InvalidParameterError(msg)
    return [_of_paper(parameter, value) for value in RANGES[parameter]]


def _of_paper(parameter: str, value: float) -> Setting:
    values = {**PAPER, parameter: value}
    try:
        config = RealignmentConfig.amulet(
            alpha=values["alpha"],
            lam=values["lam"],
            eta=values["eta"],
            num_iterations=int(values["num_iterations"]),
            plausibility=0.0,
        )
    except InvalidParameterError:
        return Setting(parameter, value, None, None)
    return _setting(parameter, value, config)


def _setting(parameter: str, value: float, config: RealignmentConfig) -> Setting:
    return Setting(parameter, value, config.guidance_scale, realigned(f"{parameter} {value:g}", config))


def ablation_methods(parameters: Sequence[str] = PARAMETERS) -> list[Method]:
    """The methods of some ablations; settings of equal w and guards share a run, so that it is run once."""
    return [setting.method for name in parameters for setting in ablation(name) if setting.method is not None]


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
