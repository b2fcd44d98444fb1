"""`Method`: a way to answer a question for a preference.

A new method is a function from an `Ask` to a message, wrapped in a `Method`.

Linear Alignment, Context Steering, classifier-free guidance, contrastive decoding and Amulet are one formula,
log π = log π_base + w (log π_pref − log π_base) − log Z, with different guidance scales w and guards (see
`langchain_amulet.realignment`). Methods with equal w, guards and contrast give equal answers. `Method.decoding_key` is
equal for such methods: their answers are generated once, and reports list them together.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from langchain_core.messages import AIMessage, BaseMessage

from langchain_amulet.chat_models import ChatAmulet
from langchain_amulet.exceptions import InvalidParameterError
from langchain_amulet.preferences import Preference
from langchain_amulet.realignment import RealignmentConfig


class Ask(NamedTuple):
    """Input of a method: the prompt, the preference and the sampling settings, the same for all methods."""

    llm: ChatAmulet
    messages: Sequence[BaseMessage]
    preference: str
    """Text of the preference. Empty for methods that do not use it."""
    sampling: Mapping[str, Any]
    """`temperature`, `top_p`, `max_tokens` and `seed`: keyword arguments of `ChatAmulet.invoke`."""
    opposite: str | None = None
    """The opposite of the preference, as in `Preference.opposite`."""


@dataclass(frozen=True, slots=True)
class Method:
    """A way to answer questions.

    Example:
        >>> def shout(ask: Ask) -> AIMessage:
        ...     return ask.llm.invoke(ask.messages, preference=f"{ask.preference} SHOUT!", **ask.sampling)
        >>> Method("shouting", shout).decoding_key
        'shouting'
    """

    name: str
    generate: Callable[[Ask], AIMessage]
    decoding_key: str = ""
    """Methods with equal keys give equal answers, which are generated once. Default: the name."""
    uses_preference: bool = True
    """Whether answers depend on the preference. If not, each question is answered once for all preferences."""
    uses_engine: bool = True
    """Whether the engine generates the answers, so that many concurrent questions cost little more than one."""
    config: RealignmentConfig | None = None
    """Realignment settings, if the method is determined by them."""
    is_search: bool = False
    """Whether the method generates several candidates per answer. See `Protocol.search_limit`."""

    @property
    def uses_opposite(self) -> bool:
        """Whether answers depend on the opposite of the preference."""
        return self.config is not None and self.config.contrast == "opposite" and self.config.guidance_scale > 1

    def __post_init__(self) -> None:
        """Set the default of `decoding_key`."""
        if not self.decoding_key:
            object.__setattr__(self, "decoding_key", self.name)


def realigned(name: str, config: RealignmentConfig) -> Method:
    """Create a method from realignment settings."""

    def generate(ask: Ask) -> AIMessage:
        preference = Preference(ask.preference, opposite=ask.opposite) if config.guidance_scale else None
        return ask.llm.invoke(ask.messages, preference=preference, realignment=config, **ask.sampling)

    return Method(
        name,
        generate,
        decoding_key=_decoding_key(config),
        uses_preference=config.guidance_scale != 0,
        config=config,
    )


def _decoding_key(config: RealignmentConfig) -> str:
    """Return a text that is equal for settings with equal answers, as stored folders spell it.

    Guards have no effect at w = 0 and w = 1, and the contrast only above w = 1.
    """
    w = config.guidance_scale
    repeated = ["repeated"] if config.repeat_preference and w else []
    if w in (0, 1):
        return " ".join([f"w={w:g}", *repeated])
    guards: dict[str, object] = {**config.active_guards}
    if "nucleus_temperature" in guards:  # as stored folders spell it
        guards["nucleus"] = f"{guards['nucleus']:g}/{guards.pop('nucleus_temperature'):g}"
    contrast = [f"contrast={config.contrast}"] if config.contrast != "base" and w > 1 else []
    return " ".join([f"w={w:.6g}", *(f"{name}={value}" for name, value in guards.items()), *contrast, *repeated])


def paper_methods() -> list[Method]:
    """Return the methods of the paper's tables, and those that its reviewers asked for, under the names of reports."""
    return [
        realigned("base", RealignmentConfig(0.0, plausibility=0.0)),
        realigned("pref", RealignmentConfig.classifier_free_guidance(1.0)),
        realigned("linear alignment 2", RealignmentConfig.linear_alignment(2.0)),
        realigned(
            "linear alignment 5, nucleus",
            RealignmentConfig.linear_alignment(5.0, nucleus=0.8, nucleus_temperature=0.5),
        ),
        realigned("context steering 1", RealignmentConfig.classifier_free_guidance(2.0)),
        realigned("context steering 3", RealignmentConfig.classifier_free_guidance(4.0)),
        realigned("classifier-free guidance 3", RealignmentConfig.classifier_free_guidance(3.0)),
        realigned(
            "contrastive decoding", RealignmentConfig(1.5, plausibility=0.1, contrast="base", repeat_preference=False)
        ),
        *amulet_methods(),
    ]


def amulet_methods() -> list[Method]:
    """Return Amulet as published, Amulet with guards, and the default settings of `ChatAmulet`."""
    return [
        realigned("amulet (paper)", RealignmentConfig.paper()),
        realigned("amulet (guarded)", RealignmentConfig.amulet()),
        realigned("default (guarded)", RealignmentConfig()),
    ]


def distinct_methods(methods: Iterable[Method]) -> list[Method]:
    """Return the first method of each `decoding_key`."""
    first: dict[str, Method] = {}
    for method in methods:
        first.setdefault(method.decoding_key, method)
    return [*first.values()]


def by_name(methods: Sequence[Method]) -> dict[str, Method]:
    """Return methods by name.

    Raises:
        InvalidParameterError: Two methods have the same name.
    """
    named = {method.name: method for method in methods}
    if len(named) < len(methods):
        msg = f"Two methods have the same name. Rename one of them: {sorted(method.name for method in methods)}."
        raise InvalidParameterError(msg)
    return named
