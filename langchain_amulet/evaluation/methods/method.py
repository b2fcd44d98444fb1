"""Ways to answer a question as somebody prefers it. A new one is a function.

Linear Alignment, Context Steering, classifier-free guidance, contrastive decoding and Amulet are one kernel,
log π = log π_base + w (log π_pref − log π_base), at different w and with different guards. So methods of equal w and
guards give equal answers: they are run once, and reports say so.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from langchain_core.messages import AIMessage, BaseMessage

from langchain_amulet.chat_models import ChatAmulet
from langchain_amulet.exceptions import InvalidParameterError
from langchain_amulet.realignment import RealignmentConfig


class Ask(NamedTuple):
    """What is to be answered, and how tokens are drawn: the same for all methods."""

    llm: ChatAmulet
    messages: Sequence[BaseMessage]
    preference: str
    sampling: Mapping[str, Any]
    """`temperature`, `top_p`, `max_tokens` and `seed`, as `ChatAmulet` takes them."""


@dataclass(frozen=True, slots=True)
class Method:
    """One way to answer.

    Example:
        >>> def shout(ask: Ask) -> AIMessage:
        ...     return ask.llm.invoke(ask.messages, preference=f"{ask.preference} SHOUT!", **ask.sampling)
        >>> Method("shouting", shout).run
        'shouting'
    """

    name: str
    answer: Callable[[Ask], AIMessage]
    run: str = ""
    """What its answers follow from: methods of equal runs give equal answers. Its own name, if there is no other."""
    uses_preference: bool = True
    """Whether answers depend on the preference; if not, each question is answered once for all preferences."""
    is_engine: bool = True
    """Whether the engine answers, so that many questions at once cost little more than one."""
    config: RealignmentConfig | None = None
    """The setting of the kernel, where that is all there is to it."""
    is_search: bool = False
    """Whether it looks at several answers before it gives one: evaluations may ask it fewer questions."""

    def __post_init__(self) -> None:
        """By default nobody shares its run."""
        if not self.run:
            object.__setattr__(self, "run", self.name)


def realigned(name: str, config: RealignmentConfig) -> Method:
    """The kernel at one setting."""

    def answer(ask: Ask) -> AIMessage:
        preference = ask.preference if config.guidance_scale else []
        return ask.llm.invoke(ask.messages, preference=preference, realignment=config, **ask.sampling)

    return Method(name, answer, run=_run_of(config), uses_preference=config.guidance_scale != 0, config=config)


def _run_of(config: RealignmentConfig) -> str:
    """Equal for settings that give equal answers: the guards do not act on the base policy, nor on the prompted one."""
    w = config.guidance_scale
    if w in (0, 1):
        return f"w={w:g}"
    guards = {
        "plausibility": config.plausibility or None,
        "max_kl": config.max_kl,
        "nucleus": None if config.nucleus is None else f"{config.nucleus:g}/{config.nucleus_temperature:g}",
    }
    return " ".join([f"w={w:.6g}", *(f"{name}={value}" for name, value in guards.items() if value is not None)])


def paper_methods() -> list[Method]:
    """Those of the paper's tables, and what its reviewers asked for, under the names that reports show."""
    return [
        realigned("base", RealignmentConfig(guidance_scale=0.0, plausibility=0.0)),
        realigned("pref", RealignmentConfig(guidance_scale=1.0, plausibility=0.0)),
        realigned("linear alignment 2", RealignmentConfig.linear_alignment(2.0)),
        realigned(
            "linear alignment 5, nucleus",
            RealignmentConfig.linear_alignment(5.0, nucleus=0.8, nucleus_temperature=0.5),
        ),
        realigned("context steering 1", RealignmentConfig(2.0, plausibility=0.0)),
        realigned("context steering 3", RealignmentConfig(4.0, plausibility=0.0)),
        realigned("classifier-free guidance 3", RealignmentConfig.classifier_free_guidance(3.0)),
        realigned("contrastive decoding", RealignmentConfig(1.5, plausibility=0.1)),
        realigned("amulet (paper)", RealignmentConfig.paper()),
        realigned("amulet (guarded)", RealignmentConfig.amulet()),
        realigned("default (guarded)", RealignmentConfig()),
    ]


def distinct_runs(methods: Iterable[Method]) -> list[Method]:
    """The first method of each run."""
    first: dict[str, Method] = {}
    for method in methods:
        first.setdefault(method.run, method)
    return [*first.values()]


def by_name(methods: Sequence[Method]) -> dict[str, Method]:
    """Methods by their names.

    Raises:
        InvalidParameterError: Two have the same name.
    """
    found = {method.name: method for method in methods}
    if len(found) < len(methods):
        msg = f"Two methods have the same name. Rename one of them: {sorted(method.name for method in methods)}."
        raise InvalidParameterError(msg)
    return found
