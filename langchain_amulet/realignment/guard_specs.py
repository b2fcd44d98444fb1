"""`GuardSpec`: the properties that make a field of `RealignmentConfig` a guard."""

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

from langchain_amulet.realignment.ranges import check_range

_METADATA_KEY = "guard"


@dataclass(frozen=True, slots=True)
class GuardSpec:
    """The properties of a guard, or of a parameter of a guard.

    Everything outside this package that acts on "all guards" reads them from here: grouping in the engine, the metadata
    of an answer, and the config without guards.
    """

    off: float | None
    """The value in a config that turns the guard off. For a parameter of another guard, its default."""
    neutral: float | None
    """The value at which `realign()` gives a row the same result as without the guard. `None` for a parameter of
    another guard."""
    low: float
    high: float = math.inf
    remedy: str = ""
    """The end of the error message for a value out of range."""
    parameter_of: str | None = None
    """The guard to which this parameter belongs. A parameter is on exactly when its guard is on."""

    def check(self, name: str, value: float | None) -> None:
        """Raise `InvalidParameterError` if a value is out of range. `None` is in range if it turns the guard off."""
        if value is None and self.off is None:
            return
        check_range(name, value, low=self.low, high=self.high, remedy=self.remedy)  # type: ignore[arg-type]


def guard_metadata(spec: GuardSpec) -> dict[str, GuardSpec]:
    """Return the `metadata` of a dataclass field that is a guard."""
    return {_METADATA_KEY: spec}


def guard_specs(config: Any) -> dict[str, GuardSpec]:
    """Return the guards that a config, or its class, declares, by the name of the field."""
    return {
        field.name: field.metadata[_METADATA_KEY]
        for field in dataclasses.fields(config)
        if _METADATA_KEY in field.metadata
    }
