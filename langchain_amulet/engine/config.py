"""How an engine shares its model among requests."""

from dataclasses import dataclass
from typing import Literal

from langchain_amulet.exceptions import InvalidParameterError


@dataclass(frozen=True, slots=True)
class EngineConfig:
    """Limits of one engine.

    Raises:
        InvalidParameterError: A limit is out of range.
    """

    max_rows: int = 128
    """Prompt streams decoded together; a user with one preference takes two."""
    max_waiting: int = 256
    """Requests that may wait for rows."""
    when_busy: Literal["wait", "raise"] = "wait"
    """What a request does when as many wait: wait for a place in the queue, or raise `EngineBusyError`."""
    cache_bytes: int | None = None
    """Most memory for the keys and values of requests under way, taken as it is needed. `None`: half of what is free
    when the model is loaded."""
    prefix_cache_bytes: int | None = None
    """Most memory for the keys and values of earlier requests, kept for those that begin alike. 0: nothing is reused
    between requests. `None`: a tenth of what is free when the model is loaded."""
    prefill_tokens: int | None = None
    """Most prompt tokens, over all rows, that are read between two tokens of the requests under way. `None`: 128 on
    CPUs, else 1024."""

    def __post_init__(self) -> None:
        """Refuse limits under which nothing could run."""
        lowest = {"max_rows": 1, "max_waiting": 1, "cache_bytes": 1, "prefix_cache_bytes": 0, "prefill_tokens": 1}
        for name, low in lowest.items():
            value = getattr(self, name)
            if value is None and name not in ("max_rows", "max_waiting"):
                continue
            if not isinstance(value, int) or isinstance(value, bool) or value < low:
                msg = f"{name} must be a whole number, at least {low}; got {value!r}."
                raise InvalidParameterError(msg)
        if self.when_busy not in ("wait", "raise"):
            msg = f"when_busy must be 'wait' or 'raise'; got {self.when_busy!r}."
            raise InvalidParameterError(msg)
