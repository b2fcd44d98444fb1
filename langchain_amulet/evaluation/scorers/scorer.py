"""The type of scorers, and the prompt that they share with methods."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from langchain_core.messages import HumanMessage, SystemMessage

from langchain_amulet.evaluation.runs.answer import Answer


@dataclass(frozen=True, slots=True)
class Scorer:
    """A function from an answer to a number, with a name.

    Example:
        >>> Scorer("exclamations", lambda answer: answer.text.count("!"), better="higher").name
        'exclamations'
    """

    name: str
    score: Callable[[Answer], float | None]
    """Return the score, or `None` if the answer has none. NaN and infinity count as `None`."""
    better: Literal["higher", "lower"] | None = None
    """Which scores are better for all preferences. `None`: it depends on the preference, or neither is better."""
    is_stored: bool = False
    """Whether scores are stored in the folder of the evaluation, since they are expensive."""
    limit: int | None = None
    """Score only the answers to the first `limit` questions of each dataset. `None` scores all."""
    identity: str = ""
    """Distinguishes scorers with the same name, for example by the model that they use. Their scores are stored in
    different files."""
    num_at_once: int = 1
    """How many answers are scored at once, in threads, if scores are stored. Above 1, `score` must be thread-safe."""
    is_reward: bool = False
    """Whether the score alone decides which answer is better for any preference, as that of a reward model does."""


def messages_of(system: str, question: str) -> Sequence[SystemMessage | HumanMessage]:
    """Return the messages that all methods answer. An empty `system` gives no system message."""
    return [SystemMessage(system), HumanMessage(question)] if system else [HumanMessage(question)]
