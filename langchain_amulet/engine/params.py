"""What one request asks of the engine."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from langchain_amulet.exceptions import InvalidParameterError
from langchain_amulet.realignment import RealignmentConfig

MAX_SEED = 2**63 - 1


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How the next token is drawn, and when to stop.

    Raises:
        InvalidParameterError: A value is out of range.
    """

    temperature: float = 0.0
    """0 is greedy."""
    top_p: float = 1.0
    """Only the likeliest tokens that together reach this probability may be drawn. 1 turns it off."""
    top_k: int = 0
    """Only this many of the likeliest tokens may be drawn. 0 turns it off."""
    repetition_penalty: float = 1.0
    """Above 1, tokens of the base prompt and of the answer so far become less likely (Keskar et al. 2019)."""
    max_tokens: int = 512
    seed: int | None = None
    """Equal seeds give equal draws. `None` takes one from torch's default generator."""
    stop_token_ids: frozenset[int] = frozenset()
    """Tokens that end the answer; they are not part of it."""

    def __post_init__(self) -> None:
        """Refuse values that no sampler can use."""
        _require(0 <= self.temperature < math.inf, "temperature", self.temperature, "at least 0, where 0 is greedy")
        _require(0 < self.top_p <= 1, "top_p", self.top_p, "in (0, 1], where 1 turns it off")
        _require(self.top_k >= 0, "top_k", self.top_k, "at least 0, where 0 turns it off")
        _require(
            0 < self.repetition_penalty < math.inf,
            "repetition_penalty",
            self.repetition_penalty,
            "above 0, where 1 turns it off",
        )
        _require(self.max_tokens >= 1, "max_tokens", self.max_tokens, "at least 1")
        _require(self.seed is None or 0 <= self.seed <= MAX_SEED, "seed", self.seed, f"None or from 0 to {MAX_SEED}")


def _require(valid: bool, name: str, value: object, bounds: str) -> None:  # noqa: FBT001 - reads as a sentence
    if not valid:
        msg = f"{name} must be {bounds}; got {value!r}."
        raise InvalidParameterError(msg)


@dataclass(frozen=True, slots=True)
class Request:
    """One answer to generate: token ids in, no text.

    Raises:
        InvalidParameterError: There is no stream, a stream is empty, or the weights do not match the streams.
    """

    prompts: Sequence[Sequence[int]]
    """Token ids of each stream, the base stream first. One stream alone is plain decoding."""
    weights: Sequence[float] = ()
    """v, the weight of each stream after the first."""
    realignment: RealignmentConfig = field(default_factory=RealignmentConfig)
    sampling: SamplingParams = field(default_factory=SamplingParams)

    def __post_init__(self) -> None:
        """Refuse streams that cannot be decoded together."""
        if not self.prompts or not all(len(prompt) for prompt in self.prompts):
            msg = f"Every stream needs at least one token; got lengths {[len(prompt) for prompt in self.prompts]}."
            raise InvalidParameterError(msg)
        if len(self.weights) != len(self.prompts) - 1:
            msg = f"{len(self.prompts)} streams take {len(self.prompts) - 1} weights; got {len(self.weights)}."
            raise InvalidParameterError(msg)
