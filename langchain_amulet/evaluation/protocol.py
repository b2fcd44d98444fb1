"""Settings that are the same for all methods of an evaluation."""

from dataclasses import dataclass

from langchain_amulet.exceptions import InvalidParameterError

PAPER_TABLE = ("creative", "verbose", "concise", "uplifting")
"""Names of the preferences in the paper's main table."""
SYSTEM = "You are a helpful assistant."
"""Default system prompt of all methods."""


@dataclass(frozen=True, slots=True)
class Protocol:
    """Settings that are the same for all methods.

    Raises:
        InvalidParameterError: `temperatures` is empty or has duplicates, or a number is out of range.
    """

    temperatures: tuple[float, ...] = (0.0,)
    """Every question is answered at each of these temperatures. 0 is greedy decoding."""
    top_p: float = 0.95
    """Applies at temperatures above 0."""
    max_tokens: int = 128
    """Largest length of an answer, in tokens."""
    system: str = SYSTEM
    """System prompt. The empty string sends no system message, so that the model's chat template decides."""
    seed: int = 0
    """Each question gets its own seed, derived from this one. All methods use the same seed for a question."""
    num_seeds: int = 1
    """Number of answers per question and method at temperatures above 0, with the seeds `seed`, `seed + 1`, ... The
    score of a question is the mean over them. Judges compare the answers with the first one."""
    limit: int | None = None
    """Use only the first `limit` questions of each dataset. `None` uses all."""
    search_limit: int | None = None
    """Same as `limit`, for methods with `is_search`, which generate several candidates per answer."""
    num_at_once: int = 64
    """Number of answers that are generated concurrently."""

    def __post_init__(self) -> None:
        """Check the ranges of all settings."""
        if not self.temperatures or min(self.temperatures) < 0 or len({*self.temperatures}) < len(self.temperatures):
            msg = f"temperatures must be different numbers of at least 0, got {self.temperatures}."
            raise InvalidParameterError(msg)
        for name in ("num_seeds", "max_tokens", "limit", "search_limit", "num_at_once"):
            value = getattr(self, name)
            if value is not None and value < 1:
                msg = f"{name} must be at least 1, got {value}."
                raise InvalidParameterError(msg)
