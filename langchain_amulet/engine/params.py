"""The parameters of one request."""

import math
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from langchain_amulet.engine.guide import GuideFactory
from langchain_amulet.exceptions import InvalidParameterError
from langchain_amulet.realignment import RealignmentConfig, StreamCoefficients
from langchain_amulet.realignment.comparison import ComparedPolicies

MAX_SEED = 2**63 - 1
_MIN_POSITIVE = 1e-6  # float32 logits divided by a smaller number may overflow


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How tokens are drawn, and when the answer ends.

    Raises:
        InvalidParameterError: A value is out of range.
    """

    temperature: float = 0.0
    """0 is greedy."""
    top_p: float = 1.0
    """Only the most likely tokens that together reach this probability may be drawn. 1 turns it off."""
    top_k: int = 0
    """Only this many of the most likely tokens may be drawn. 0 turns it off."""
    repetition_penalty: float = 1.0
    """Above 1, tokens of the caller's prompt and of the answer so far become less likely (Keskar et al. 2019)."""
    max_tokens: int = 512
    """The most tokens of the answer, including its stop token."""
    seed: int | None = None
    """Equal seeds give equal draws. `None` draws a seed from torch's default generator."""
    stop_token_ids: frozenset[int] = frozenset()
    """Tokens that end the answer. They are not part of its text."""

    def __post_init__(self) -> None:
        """Raise if a value is out of range."""
        _require(
            "temperature",
            self.temperature,
            float,
            lambda x: x == 0 or _MIN_POSITIVE <= x < math.inf,
            f"at least 0, where 0 is greedy; else at least {_MIN_POSITIVE}",
        )
        _require(
            "top_p",
            self.top_p,
            float,
            lambda x: _MIN_POSITIVE <= x <= 1,
            f"from {_MIN_POSITIVE} to 1, where 1 turns it off",
        )
        _require("top_k", self.top_k, int, lambda x: x >= 0, "at least 0, where 0 turns it off")
        _require(
            "repetition_penalty",
            self.repetition_penalty,
            float,
            lambda x: 0 < x < math.inf,
            "above 0, where 1 turns it off",
        )
        _require("max_tokens", self.max_tokens, int, lambda x: x >= 1, "at least 1")
        if self.seed is not None:
            _require("seed", self.seed, int, lambda x: 0 <= x <= MAX_SEED, f"None or from 0 to {MAX_SEED}")


def _require(name: str, value: object, kind: type, is_valid: Callable[[Any], bool], bounds: str) -> None:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or (kind is int and not isinstance(value, int)) or not is_valid(value):
        msg = f"{name} must be {'a whole number, ' if kind is int else ''}{bounds}; got {value!r}."
        raise InvalidParameterError(msg)


class PrefixKeys(NamedTuple):
    """Which requests may reuse the keys and values of a stream: those with the same tokens under the same keys."""

    parts: tuple[tuple[int, Hashable], ...] = ()
    """`(end, key)` in ascending order of `end`, a position in the prompt. `key` is the key of the tokens from the end
    of the previous part to `end`."""
    rest: Hashable | None = None
    """The key of the rest of the prompt. `None`: no request may reuse the rest. If all streams have the same `rest`, it
    is the key of the answer too, which depends on all of them; otherwise no request may reuse the answer."""
    is_private: bool = False
    """Whether the rest of the prompt depends on preferences, so that `Engine.forget_private` drops the row."""


@dataclass(frozen=True, slots=True)
class Request:
    """One answer to generate. The engine works on token ids, not on text.

    Raises:
        InvalidParameterError: There is no stream, a stream is empty, or the number of weights or keys is wrong.
    """

    prompts: Sequence[Sequence[int]] = field(repr=False)  # token ids reveal preferences as their text does
    """Token ids of each stream. One stream means decoding without realignment."""
    weights: Sequence[float] = ()
    """v, the weight of each stream after the first, if the first is the base stream with which the others are
    contrasted, as `realign` takes them. Not needed with `coefficients`."""
    realignment: RealignmentConfig = field(default_factory=RealignmentConfig)
    """Its guards apply; its scale only with `weights`."""
    sampling: SamplingParams = field(default_factory=SamplingParams)
    logprobs: int | None = None
    """Report the log-probability of each token, and of this many of the most likely tokens at its position. They are
    those of the realigned policy, before penalty and temperature. `None` turns the report off."""
    prefix_keys: Sequence[PrefixKeys | str | None] = field(default=(), repr=False)
    """One per stream, which says what other requests may reuse its keys and values. A text stands for a stream with
    that key, private unless the text is empty; `None` for a stream that no other request may reuse. Empty: all requests
    may reuse the prompt of the base stream, and the answer if there is no other stream; with `coefficients`, no other
    request may reuse anything of several streams."""
    penalised_ids: Sequence[int] | None = field(default=None, repr=False)
    """The tokens that the repetition penalty counts, besides those of the answer. `None`: those of the first stream."""
    is_forgotten: Callable[[], bool] | None = field(default=None, repr=False)
    """Returns whether a preference that it depends on was forgotten; its private rows are then not kept."""
    guide: GuideFactory | None = None
    """Creates the guide that constrains the answer, for example to a grammar. `None` allows any answer."""
    timeout_s: float | None = None
    """Seconds from submission, after which the request ends with an error. `None` means no limit."""
    coefficients: StreamCoefficients | None = None
    """How much each stream counts. `None`: as the scale of `realignment` and the weights say."""
    trace: ComparedPolicies | None = None
    """Report for each token how it was drawn, and compare with these policies. Streams that run for the trace only come
    last and have no coefficients but 0. `None` turns the report off."""

    @property
    def num_mixed(self) -> int:
        """The number of streams without those at the end that run for the trace only."""
        number = len(self.prompts)
        if self.trace is not None:
            mixture = self.mixture
            columns = [*zip(mixture.target, mixture.reference, mixture.unsteered, strict=True)]
            while not any(columns[number - 1]):
                number -= 1
        return number

    @property
    def mixture(self) -> StreamCoefficients:
        """How much each stream counts."""
        assert self.coefficients is not None, "set when the request was checked"
        return self.coefficients

    def keys_of(self, stream: int) -> PrefixKeys:
        """Return the prefix keys of one stream."""
        if self.prefix_keys:
            keys = self.prefix_keys[stream]
            return keys if isinstance(keys, PrefixKeys) else PrefixKeys((), keys, is_private=bool(keys))
        is_alone = len(self.prompts) == 1
        if stream > 0 or not (is_alone or self.weights):  # with coefficients, the first stream may be a preference's
            return PrefixKeys()
        return PrefixKeys(((len(self.prompts[0]), ""),), "" if is_alone else None)

    @property
    def shares_answer(self) -> bool:
        """Whether other requests may reuse the keys and values of the answer: all streams have the same last key."""
        return len({self.keys_of(stream).rest for stream in range(len(self.prompts))}) == 1

    def __post_init__(self) -> None:
        """Raise if a value is invalid. Copy the lists, so that callers cannot change them later."""
        object.__setattr__(self, "prompts", tuple(tuple(prompt) for prompt in self.prompts))
        for name in ("weights", "prefix_keys"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        if self.penalised_ids is not None:
            object.__setattr__(self, "penalised_ids", tuple(self.penalised_ids))
        self._check_streams()
        if self.timeout_s is not None:
            _require("timeout_s", self.timeout_s, float, lambda x: x > 0, "None or above 0")
        if self.logprobs is not None:
            _require("logprobs", self.logprobs, int, lambda x: x >= 0, "None or at least 0")

    def _check_coefficients(self) -> None:
        number = len(self.prompts)
        if self.coefficients is None:
            if len(self.weights) != number - 1:
                msg = f"{number} streams need {number - 1} weights, or coefficients; got {len(self.weights)}."
                raise InvalidParameterError(msg)
            for weight in self.weights:
                _require("weight", weight, float, math.isfinite, "a finite number")
            scale = self.realignment.guidance_scale
            object.__setattr__(self, "coefficients", StreamCoefficients.of_weights(scale, self.weights))
        elif self.weights or len(self.coefficients.target) != number:
            msg = f"{number} streams need {number} coefficients and no weights; got {len(self.coefficients.target)}."
            raise InvalidParameterError(msg)
        if self.trace is not None and len(self.trace.base) != number:
            msg = f"A trace of {number} streams needs policies of {number} coefficients; got {len(self.trace.base)}."
            raise InvalidParameterError(msg)

    def _check_streams(self) -> None:
        if not self.prompts or not all(len(prompt) for prompt in self.prompts):
            msg = f"Every stream needs at least one token; got lengths {[len(prompt) for prompt in self.prompts]}."
            raise InvalidParameterError(msg)
        self._check_coefficients()
        if len(self.prefix_keys) not in (0, len(self.prompts)):
            msg = f"{len(self.prompts)} streams need as many prefix_keys, or none; got {len(self.prefix_keys)}."
            raise InvalidParameterError(msg)
        for keys in self.prefix_keys:
            ends = [0, *(end for end, _ in keys.parts)] if isinstance(keys, PrefixKeys) else []
            if ends != sorted(ends):
                msg = f"The parts of prefix keys must be in the order of their ends; got the ends {ends[1:]}."
                raise InvalidParameterError(msg)
