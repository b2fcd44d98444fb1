"""`RealignmentConfig`: the strength of realignment and its guards."""

import math
from dataclasses import dataclass, field, replace
from typing import Any, Literal, TypeAlias, get_args

from langchain_amulet.exceptions import InvalidParameterError
from langchain_amulet.realignment.amulet_loop import guidance_scale
from langchain_amulet.realignment.guard_specs import GuardSpec, guard_metadata, guard_specs
from langchain_amulet.realignment.ranges import MAX_GUIDANCE_SCALE, MIN_POSITIVE, check_range

_DEFAULT_GUIDANCE_SCALE = 8.0
_DEFAULT_PLAUSIBILITY = 0.1

Contrast: TypeAlias = Literal["base", "neutral", "opposite"]
"""What answers are steered away from; see `RealignmentConfig.contrast`."""


@dataclass(frozen=True, slots=True)
class RealignmentConfig:
    """How strongly the next-token policy follows the preference, and the guards that limit it.

    The guards act only where streams are combined. An answer without a preference, or with one preference at gain
    exactly 1, comes from the model's own policy, without guards.

    A field with guard metadata is a guard; `active_guards` and `without_guards` cover all of them, and so does the
    engine.

    Raises:
        InvalidParameterError: A value is out of range.
    """

    guidance_scale: float = _DEFAULT_GUIDANCE_SCALE
    """w, dimensionless. 0 ignores the preference, 1 is plain prompting, above 1 amplifies what the prompt changes."""
    plausibility: float = field(
        default=_DEFAULT_PLAUSIBILITY,
        metadata=guard_metadata(GuardSpec(off=0.0, neutral=0.0, low=0, high=1, remedy="Use 0 to turn it off.")),
    )
    """β in [0, 1]: only tokens with r(x) ≥ β max r under the reference policy r may be chosen. 0 turns it off."""
    max_kl: float | None = field(
        default=None,
        metadata=guard_metadata(
            GuardSpec(off=None, neutral=math.inf, low=0, remedy="It is in nats; use None to turn it off.")
        ),
    )
    """Trust region: the largest KL(realigned ‖ reference) per token, in nats. `None` turns it off."""
    nucleus: float | None = field(
        default=None,
        metadata=guard_metadata(
            GuardSpec(off=None, neutral=1.0, low=MIN_POSITIVE, high=1, remedy="Use None to turn it off.")
        ),
    )
    """Only the most likely tokens that together reach this probability under the reference policy may be chosen, as in
    the code of Linear Alignment (0.8). `None` turns it off. It sorts the vocabulary once per token."""
    nucleus_temperature: float = field(
        default=1.0,
        metadata=guard_metadata(GuardSpec(off=1.0, neutral=None, low=MIN_POSITIVE, parameter_of="nucleus")),
    )
    """The temperature of the reference policy for the nucleus (0.5 in the code of Linear Alignment)."""
    entropy_floor: float = field(
        default=0.0,
        metadata=guard_metadata(GuardSpec(off=0.0, neutral=0.0, low=0, high=1, remedy="Use 0 to turn it off.")),
    )
    """In [0, 1]: the realigned policy is flattened until its entropy is at least this share of the reference policy's.
    The order of tokens stays, so greedy answers do. `max_kl` acts after it. 0 turns it off."""
    contrast: Contrast = "base"
    """What an answer is steered away from, beyond gain 1: the caller's prompt (`"base"`, as in the paper), the same
    prompt with a neutral instruction (`"neutral"`), or with the opposite of the preference (`"opposite"`; a preference
    that has none is contrasted with the caller's prompt). See `plan_streams`."""
    repeat_preference: bool = False
    """Whether prompts contain the preference twice: after the system text, and at the end of the user's last turn. So
    does what it is contrasted with. It is a stronger prompt for a few more tokens of prefill."""

    def __post_init__(self) -> None:
        """Raise if a value is out of range."""
        check_range(
            "guidance_scale",
            self.guidance_scale,
            low=0,
            high=MAX_GUIDANCE_SCALE,
            remedy="To steer away from something, use a Preference of negative weight.",
        )
        for name, spec in guard_specs(self).items():
            spec.check(name, getattr(self, name))
        if self.contrast not in get_args(Contrast):
            msg = f"contrast must be one of {', '.join(map(repr, get_args(Contrast)))}; got {self.contrast!r}."
            raise InvalidParameterError(msg)
        if not isinstance(self.repeat_preference, bool):
            msg = f"repeat_preference must be True or False, got {self.repeat_preference!r}."
            raise InvalidParameterError(msg)

    @property
    def active_guards(self) -> dict[str, float]:
        """The guards that are on, and their parameters, by name."""
        specs = guard_specs(self)
        on = {name for name, spec in specs.items() if spec.parameter_of is None and getattr(self, name) != spec.off}
        return {name: getattr(self, name) for name, spec in specs.items() if (spec.parameter_of or name) in on}

    @property
    def has_guards(self) -> bool:
        """Whether any guard is on."""
        return bool(self.active_guards)

    def without_guards(self, guidance_scale: float | None = None) -> "RealignmentConfig":
        """Return this config with all guards off, and with `guidance_scale` if it is not `None`."""
        changes: dict[str, Any] = {name: spec.off for name, spec in guard_specs(self).items()}
        if guidance_scale is not None:
            changes["guidance_scale"] = guidance_scale
        return replace(self, **changes)

    @classmethod
    def amulet(
        cls,
        *,
        alpha: float = 2.0,
        lam: float = 2.0,
        eta: float = 10.0,
        num_iterations: int = 60,
        plausibility: float = _DEFAULT_PLAUSIBILITY,
        max_kl: float | None = None,
    ) -> "RealignmentConfig":
        """Return Amulet with the paper's parameters α, λ, η and T, and with guards, which the paper does not have."""
        w = guidance_scale(alpha=alpha, lam=lam, eta=eta, num_iterations=num_iterations)
        return cls(
            w, plausibility=plausibility, max_kl=max_kl, entropy_floor=0.0, contrast="base", repeat_preference=False
        )

    @classmethod
    def paper(cls) -> "RealignmentConfig":
        """Return Amulet exactly as published: w = 5.648699 and no guards."""
        return cls.amulet(plausibility=0.0)

    @classmethod
    def linear_alignment(
        cls, ratio: float, *, nucleus: float | None = None, nucleus_temperature: float = 1.0
    ) -> "RealignmentConfig":
        """Return Linear Alignment (Gao et al. 2024): w = 1 + ratio, without guards except the nucleus.

        Its authors' code uses ratio 5 with a nucleus of 0.8 at temperature 0.5; the Amulet paper runs it with ratio 2
        and without a nucleus.
        """
        return cls(
            1 + ratio,
            plausibility=0.0,
            nucleus=nucleus,
            nucleus_temperature=nucleus_temperature,
            entropy_floor=0.0,
            contrast="base",
            repeat_preference=False,
        )

    @classmethod
    def classifier_free_guidance(cls, guidance_scale: float) -> "RealignmentConfig":
        """Return classifier-free guidance (Sanchez et al. 2024) as in transformers' `generate`: no guards."""
        return cls(guidance_scale, plausibility=0.0, entropy_floor=0.0, contrast="base", repeat_preference=False)
