"""What the paper's parameters do: T, η, α and λ all act through one number, w."""

from collections.abc import Sequence
from dataclasses import dataclass

from langchain_amulet.evaluation.methods.method import Method, realigned
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
