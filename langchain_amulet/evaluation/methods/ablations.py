"""Ablations: one parameter varies over a range, the others keep their defaults.

The paper's parameters T, η, α and λ determine the guidance scale w, and nothing else (`realignment.guidance_scale`).
So values with equal w give equal answers.

References:
    Zhang et al., Amulet, ICLR 2025: https://arxiv.org/abs/2502.19148
"""

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
"""The paper's ranges."""
PAPER_SCALE = RealignmentConfig.paper().guidance_scale
SCALES = (0.5, 1.0, 1.5, 2.0, 3.0, 4.0, PAPER_SCALE, 8.0)
"""Values of w in the ablation `"guidance_scale"`."""
GUARDS = (
    ("none", RealignmentConfig.paper()),
    ("plausibility 0.1", RealignmentConfig.amulet(plausibility=0.1)),
    ("plausibility 0.3", RealignmentConfig.amulet(plausibility=0.3)),
    ("max_kl 1", RealignmentConfig.amulet(plausibility=0.0, max_kl=1.0)),
    ("max_kl 0.5", RealignmentConfig.amulet(plausibility=0.0, max_kl=0.5)),
    ("plausibility 0.1, max_kl 0.5", RealignmentConfig.amulet(plausibility=0.1, max_kl=0.5)),
)
"""Names and settings of the ablation `"guards"`, all at the paper's w."""
PARAMETERS = (*RANGES, "guidance_scale", "guards")
"""Names of all ablations."""


@dataclass(frozen=True, slots=True)
class Setting:
    """One value of a parameter."""

    parameter: str
    value: float | str
    guidance_scale: float | None
    """The resulting w. `None` if w exceeds `MAX_GUIDANCE_SCALE`."""
    method: Method | None
    """`None` if w exceeds `MAX_GUIDANCE_SCALE`."""

    @property
    def label(self) -> str:
        """The value, as it is shown in tables."""
        return self.value if isinstance(self.value, str) else f"{self.value:.4g}"


def ablation(parameter: str) -> list[Setting]:
    """Return the settings of an ablation.

    Args:
        parameter: One of `PARAMETERS`.

    Raises:
        InvalidParameterError: `parameter` is not the name of an ablation.
    """
    if parameter == "guards":
        return [
            Setting(parameter, name, config.guidance_scale, realigned(f"guards: {name}", config))
            for name, config in GUARDS
        ]
    if parameter == "guidance_scale":
        return [_setting(parameter, w, RealignmentConfig.classifier_free_guidance(w)) for w in SCALES]
    if parameter not in RANGES:
        msg = f"Unknown ablation {parameter!r}. Choose from: {', '.join(PARAMETERS)}."
        raise InvalidParameterError(msg)
    return [_paper_setting(parameter, value) for value in RANGES[parameter]]


def _paper_setting(parameter: str, value: float) -> Setting:
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
    """Return the methods of several ablations. Those with equal w and guards have equal `decoding_key`."""
    return [setting.method for name in parameters for setting in ablation(name) if setting.method is not None]
