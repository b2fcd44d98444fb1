"""The limits of an engine."""

from dataclasses import dataclass
from typing import Literal

from langchain_amulet.exceptions import InvalidParameterError

_OPTIONAL = {"cache_bytes": 1, "prefix_cache_bytes": 0, "prefill_tokens": 1}  # the lowest value of each
_LOWEST = {"max_rows": 1, "max_waiting": 1, "num_draft_tokens": 0, **_OPTIONAL}


@dataclass(frozen=True, slots=True)
class EngineConfig:
    """The limits of one engine.

    Raises:
        InvalidParameterError: A limit is out of range.
    """

    max_rows: int = 128
    """The most prompt streams decoded together. A request with one preference has two."""
    max_waiting: int = 256
    """The most requests that wait for rows."""
    when_busy: Literal["wait", "raise"] = "wait"
    """What `submit` does when the queue is full: wait for a place, or raise `EngineBusyError`."""
    cache_bytes: int | None = None
    """The most memory for the keys and values of running requests, allocated as needed. `None`: half of the memory
    that is free when the model is loaded."""
    prefix_cache_bytes: int | None = None
    """The most memory for saved keys and values of earlier requests, which later requests with the same prefix reuse.
    0: no reuse between requests. `None`: a tenth of the memory that is free when the model is loaded."""
    prefill_tokens: int | None = None
    """The most prompt tokens, over all rows, that are prefilled between two tokens of the running requests. `None`: 128
    on CPUs, otherwise 1024."""
    num_draft_tokens: int = 16
    """The most tokens that are guessed ahead per request and verified in one step, where that is likely to save time:
    texts that the answer copies from the prompt or from itself, and texts that a grammar forces. Answers stay the same.
    0 turns it off."""
    mode: Literal["eager", "compiled"] = "eager"
    """How the model's layers run while answers are decoded. "compiled" compiles them when the model is loaded, which
    takes up to a minute, and needs a C++ compiler on CPUs. Where that is impossible, a warning is logged and they run
    eagerly."""

    def __post_init__(self) -> None:
        """Raise if a limit is out of range."""
        for name, low in _LOWEST.items():
            value = getattr(self, name)
            if value is None and name in _OPTIONAL:
                continue
            if not isinstance(value, int) or isinstance(value, bool) or value < low:
                msg = f"{name} must be a whole number, at least {low}; got {value!r}."
                raise InvalidParameterError(msg)
        if self.when_busy not in ("wait", "raise"):
            msg = f"when_busy must be 'wait' or 'raise'; got {self.when_busy!r}."
            raise InvalidParameterError(msg)
        if self.mode not in ("eager", "compiled"):
            msg = f"mode must be 'eager' or 'compiled'; got {self.mode!r}."
            raise InvalidParameterError(msg)
