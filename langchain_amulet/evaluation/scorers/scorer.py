"""A scorer: a function from an answer to a number."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from langchain_core.messages import HumanMessage, SystemMessage

from langchain_amulet.evaluation.runs.answer import Answer


@dataclass(frozen=True, slots=True)
class Scorer:
    """One number per answer.

    Example:
        >>> Scorer("exclamations", lambda answer: answer.text.count("!"), better="higher").name
        'exclamations'
    """

    name: str
    score: Callable[[Answer], float | None]
    """`None` where nothing can be said of an answer, which is then left out."""
    better: Literal["higher", "lower"] | None = None
    """Which end is good for any preference; `None`: it depends on the preference, or is only told."""
    is_kept: bool = False
    """Whether scores are kept with the answers, since they cost more than counting."""
    limit: int | None = None
    """Only the answers to so many questions of each dataset are scored, where a score costs much."""
    identity: str = ""
    """Tells it from others of its name, such as the model that it asks; scores are kept apart by it."""
    is_reward: bool = False
    """Whether it tells by itself which answer is better for any preference, as reward models do."""


def messages_of(system: str, question: str) -> Sequence[SystemMessage | HumanMessage]:
    """The prompt of all methods."""
    return [SystemMessage(system), HumanMessage(question)] if system else [HumanMessage(question)]
