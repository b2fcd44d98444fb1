"""Steering methods by guidance scale, contrast and guards, under names that say which, and what they have to beat.

A name such as `opposite contrast, w=3, plausibility 0.1` determines a method, so that names are enough to repeat an
evaluation.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import product
from typing import Any, cast, get_args

from langchain_amulet.evaluation.methods.method import Method, distinct_methods, realigned
from langchain_amulet.exceptions import InvalidParameterError
from langchain_amulet.realignment import RealignmentConfig
from langchain_amulet.realignment.config import Contrast
from langchain_amulet.realignment.guard_specs import guard_specs

REPEATED = "repeated preference"
"""Name of the method of `repeated_preference`."""
NO_GUARDS = "no guards"
DEFAULT_GUARDS = "plausibility 0.1"

_NAME = re.compile(r"(?P<repeated>repeated, )?(?P<contrast>\w+) contrast, w=(?P<scale>[^,]+)(?:, (?P<guards>.+))?")


def repeated_preference() -> Method:
    """Return prompting with the preference given twice: as the renderer places it, and at the end of the user's turn.

    It is a stronger prompt than the usual one, and costs a few tokens of prefill. Steering should beat it.
    """
    return realigned(REPEATED, RealignmentConfig(1.0, plausibility=0.0, contrast="base", repeat_preference=True))


def steering_grid(
    scales: Iterable[float],
    contrasts: Sequence[str] = ("base",),
    guards: Sequence[str] = (DEFAULT_GUARDS,),
    *,
    repeat: bool = False,
) -> list[Method]:
    """Return a method per combination of guidance scale, contrast and guards, without those of equal answers.

    Args:
        scales: Guidance scales w.
        contrasts: What answers are steered away from: `"base"`, `"neutral"` or `"opposite"`.
        guards: Settings of guards, such as `"plausibility 0.1"`, `"plausibility 0.3, max_kl 0.5"` or `"no guards"`.
        repeat: Whether prompts contain the preference twice; see `RealignmentConfig.repeat_preference`.

    Raises:
        InvalidParameterError: A contrast or a guard is unknown, or a value is out of range.
    """
    combinations = product(contrasts, guards, [*scales])
    beginning = "repeated, " if repeat else ""
    return distinct_methods(
        steering_method(f"{beginning}{contrast} contrast, w={w:g}, {each}") for contrast, each, w in combinations
    )


def steering_method(name: str) -> Method:
    """Return the method of a name such as `"opposite contrast, w=3, plausibility 0.1"`.

    Raises:
        InvalidParameterError: The name has another form, a contrast or a guard is unknown, or a value is out of range.
    """
    match = _NAME.fullmatch(name.strip())
    scale = _number(match["scale"]) if match else None
    if match is None or scale is None:
        msg = f"Unknown method {name!r}. A steering method is named like 'opposite contrast, w=3, plausibility 0.1'."
        raise InvalidParameterError(msg)
    contrast, is_repeated = _contrast(match["contrast"]), match["repeated"] is not None
    unguarded = RealignmentConfig(scale, contrast=contrast, repeat_preference=is_repeated).without_guards()
    config = replace(unguarded, **_guards(match["guards"] or NO_GUARDS))
    return realigned(steering_name(config), config)


def steering_name(config: RealignmentConfig) -> str:
    """Return the name of a config, from which `steering_method` makes the same method."""
    return f"{contrast_name(config)}, w={config.guidance_scale:g}, {guards_name(config)}"


def contrast_name(config: RealignmentConfig) -> str:
    """Return the part of a steering method's name that says what its prompts contain, before w and guards."""
    return f"{'repeated, ' if config.repeat_preference else ''}{config.contrast} contrast"


def guards_name(config: RealignmentConfig) -> str:
    """Return the last part of a steering method's name, its guards and their values."""
    return ", ".join(f"{name} {value:g}" for name, value in config.active_guards.items()) or NO_GUARDS


def _contrast(name: str) -> Contrast:
    if name not in get_args(Contrast):
        msg = f"Unknown contrast {name!r}. Choose from: {', '.join(get_args(Contrast))}."
        raise InvalidParameterError(msg)
    return cast("Contrast", name)


def _guards(text: str) -> dict[str, Any]:
    """Read guards and their values, such as `plausibility 0.1, max_kl 0.5`."""
    if text.strip() == NO_GUARDS:
        return {}
    guards = {}
    for part in text.split(","):
        name, _, value = part.strip().rpartition(" ")
        number = _number(value)
        if name not in guard_specs(RealignmentConfig) or number is None:
            known = ", ".join(guard_specs(RealignmentConfig))
            msg = f"Unknown guard {part.strip()!r}. Write '{NO_GUARDS}', or names and numbers: {known}."
            raise InvalidParameterError(msg)
        guards[name] = number
    return guards


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None
