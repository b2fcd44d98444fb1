"""What is the same for all methods of an evaluation."""

from dataclasses import dataclass

from langchain_amulet.exceptions import InvalidParameterError

PAPER_TABLE = ("creative", "verbose", "concise", "uplifting")
"""The preferences of the paper's main table."""
SYSTEM = "You are a helpful assistant."
"""The system prompt of all methods, unless another is asked for."""


@dataclass(frozen=True, slots=True)
class Protocol:
    """What is the same for all methods.

    Raises:
        InvalidParameterError: There is no temperature, or a number is out of range.
    """

    temperatures: tuple[float, ...] = (0.0,)
    """0 is greedy."""
    top_p: float = 0.95
    """At temperatures above 0."""
    max_tokens: int = 128
    system: str = SYSTEM
    """The system prompt; empty leaves it to the model's template."""
    seed: int = 0
    """Each question has a seed of its own that follows from this one, the same for all methods."""
    limit: int | None = None
    """Only so many questions of each dataset."""
    search_limit: int | None = None
    """Only so many of each for methods that look at several answers before they give one."""
    num_at_once: int = 64
    """Answers under way at once."""

    def __post_init__(self) -> None:
        """Refuse what answers nothing."""
        if not self.temperatures or min(self.temperatures) < 0 or len({*self.temperatures}) < len(self.temperatures):
            msg = f"temperatures must be different numbers of at least 0, got {self.temperatures}."
            raise InvalidParameterError(msg)
        for name in ("max_tokens", "limit", "search_limit", "num_at_once"):
            value = getattr(self, name)
            if value is not None and value < 1:
                msg = f"{name} must be at least 1, got {value}."
                raise InvalidParameterError(msg)
