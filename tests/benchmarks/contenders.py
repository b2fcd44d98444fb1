"""What takes part in a comparison: anything that answers a question and tells when each token arrived."""

import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeAlias

Stamps: TypeAlias = list[list[float]]
"""For each user, when their tokens arrived, in seconds of `time.perf_counter`. At least the last one."""

PLAIN = "plain"
PROMPTED = "preference in the prompt"
ONE_PREFERENCE = "one preference"
TWO_PREFERENCES = "two preferences"
GENERATE = "transformers generate"


class NotAvailableError(Exception):
    """Something cannot take part here; the message says why, and what would help."""


@dataclass(frozen=True, slots=True)
class Contender:
    """One way to answer."""

    engine: str
    """What computes, with its variant: "ours, packed"."""
    prompt: str
    """What the user gets: `PLAIN`, `PROMPTED`, `ONE_PREFERENCE` or `TWO_PREFERENCES`."""
    answer: Callable[[int], Stamps]
    """Answers so many users at once."""
    weight_bytes: int = 0
    """Bytes of weights that one forward reads. 0: not known."""
    num_reads: int = 1
    """Forwards per token."""
    most_users: int | None = None
    """The most users worth measuring; 1 if users wait for one another. `None`: any number."""

    @property
    def name(self) -> str:
        """The name in tables."""
        return f"{self.engine}: {self.prompt}"


def stamped(tokens: Iterable[object]) -> list[float]:
    """Return when each item of a stream arrived."""
    return [time.perf_counter() for _ in tokens]


def at_once(read: Callable[[int], list[float]], num_users: int) -> Stamps:
    """Let all users read at once, each in a thread, by their number."""
    with ThreadPoolExecutor(num_users) as threads:
        return list(threads.map(read, range(num_users)))
