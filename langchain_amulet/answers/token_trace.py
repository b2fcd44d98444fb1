"""`Trace`: how each token of an answer was drawn, as `response_metadata["amulet"]["trace"]` reports it."""

import codecs
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from langchain_core.messages import BaseMessage

from langchain_amulet.answers.repetition import is_degenerate
from langchain_amulet.engine.tracing import MIN_REMOVED, TracedToken
from langchain_amulet.exceptions import InvalidParameterError

_MAX_NUMBER = 9999.0  # JSON has no infinity


@dataclass(frozen=True, slots=True)
class Candidate:
    """A token that could have been drawn at a position, and its probabilities from 0 to 1."""

    token_id: int
    text: str
    """Its text; of a part of a character, its bytes, such as "\\xf0"."""
    realigned: float
    """Under the policy from which the token was drawn, before penalty and temperature."""
    unguarded: float
    """Under the same policy without guards."""
    base: float
    """Under the caller's prompt alone."""
    prompted: float
    """Under the prompt with the preferences."""
    contrast: float | None
    """Under the prompt from which the answer is steered away. `None` if that is the caller's own, or there is none."""


@dataclass(frozen=True, slots=True)
class TokenTrace:
    """How one token of an answer was drawn."""

    text: str
    """Its text; for a control token, its name. Of the tokens that spell one character, the last has it. Empty for the
    token that ends the answer."""
    candidates: tuple[Candidate, ...]
    """The token itself, and then the most likely ones under each policy and those that guards removed, by their
    realigned probability."""
    kl: float
    """How far steering moved the policy: KL(realigned ‖ prompted), in nats."""
    gain: float
    """The gain at which it was drawn, after the trust region: 0 is the caller's prompt, 1 plain prompting."""
    base_choice: Candidate
    """What the caller's prompt alone would have given here, with the same random numbers."""
    prompted_choice: Candidate
    """What plain prompting would have given here."""
    unguarded_choice: Candidate
    """What steering without guards would have given here."""
    num_removed: int
    """How many tokens guards removed, of those with a probability of at least 1 % without guards."""
    removed_mass: float
    """The probability without guards of all tokens that guards removed."""

    @property
    def token(self) -> Candidate:
        """The token, with its probabilities."""
        return self.candidates[0]

    @property
    def is_changed(self) -> bool:
        """Whether plain prompting would have given another token here."""
        return self.prompted_choice.token_id != self.token.token_id

    @property
    def is_guarded(self) -> bool:
        """Whether steering without guards would have given another token here."""
        return self.unguarded_choice.token_id != self.token.token_id

    @property
    def removed(self) -> tuple[Candidate, ...]:
        """The most likely ones of the tokens that guards removed."""
        gone = [each for each in self.candidates if each.realigned == 0 and each.unguarded >= MIN_REMOVED]
        return tuple(sorted(gone, key=lambda candidate: -candidate.unguarded))


@dataclass(frozen=True, slots=True)
class Trace:
    """How each token of an answer was drawn. It contains texts of tokens, but none of preferences or prompts.

    Examples:
        ```python
        from langchain_amulet import ChatAmulet
        from langchain_amulet.trace import Trace

        answer = ChatAmulet(max_tokens=8).invoke("Why?", preference="Be brief.", trace=True)
        for token in Trace.of(answer).tokens:
            print(repr(token.text), f"moved by {token.kl:.2f} nats; prompting gives {token.prompted_choice.text!r}")
        ```
    """

    tokens: tuple[TokenTrace, ...]

    @classmethod
    def of(cls, message: BaseMessage) -> "Trace":
        """Return the trace of an answer that was asked for with `trace=True`.

        Raises:
            InvalidParameterError: The message has no trace.
        """
        entries = message.response_metadata.get("amulet", {}).get("trace")
        if entries is None:
            msg = 'This message has no trace. Ask for one: llm.invoke("...", trace=True).'
            raise InvalidParameterError(msg)
        return cls.from_entries(entries)

    @classmethod
    def from_entries(cls, entries: Iterable[Mapping[str, Any]]) -> "Trace":
        """Return the trace that `response_metadata["amulet"]["trace"]` holds."""
        return cls(tuple(map(_from_entry, entries)))

    def entries(self) -> list[dict[str, Any]]:
        """Return one dict per token, as in `response_metadata["amulet"]["trace"]`."""
        return [_entry(token) for token in self.tokens]

    @property
    def text(self) -> str:
        """The generated text, including reasoning, tool calls and the names of control tokens."""
        return "".join(token.text for token in self.tokens)

    def summary(self) -> dict[str, Any]:
        """Return `mean_kl` and `max_kl` in nats, `share_changed`, `share_guarded` and `is_degenerate`.

        The shares are those of tokens that differ from what plain prompting and what steering without guards would
        have given. An answer without tokens has only zeros.
        """
        number = max(1, len(self.tokens))
        return {
            "mean_kl": _number(math.fsum(token.kl for token in self.tokens) / number),
            "max_kl": max((token.kl for token in self.tokens), default=0.0),
            "share_changed": _number(sum(token.is_changed for token in self.tokens) / number),
            "share_guarded": _number(sum(token.is_guarded for token in self.tokens) / number),
            "is_degenerate": is_degenerate(self.text),
        }


class TraceWriter:
    """Adds texts to the traced tokens of one answer.

    Args:
        spell: Returns the bytes of one token.
    """

    def __init__(self, spell: Callable[[int], bytes]) -> None:
        self._spell = spell
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._tokens: list[TokenTrace] = []

    def write(self, traced: Sequence[TracedToken], *, has_end: bool = False) -> list[dict[str, Any]]:
        """Return the entries of the next tokens.

        Args:
            traced: The next tokens.
            has_end: Whether the last of them ended the answer and is not part of its text.
        """
        new = [self._traced(token, is_end=has_end and index == len(traced) - 1) for index, token in enumerate(traced)]
        self._tokens += new
        return Trace(tuple(new)).entries()

    def summary(self) -> dict[str, Any]:
        """Return the summary of all tokens so far."""
        return Trace(tuple(self._tokens)).summary()

    def _traced(self, token: TracedToken, *, is_end: bool) -> TokenTrace:
        candidates = {each.token_id: self._candidate(each) for each in token.candidates}
        return TokenTrace(
            "" if is_end else self._decoder.decode(self._spell(token.token_id)),
            tuple(candidates.values()),
            _number(token.kl),
            _number(token.gain),
            candidates[token.base_choice],
            candidates[token.prompted_choice],
            candidates[token.unguarded_choice],
            token.num_removed,
            _number(token.removed_mass),
        )

    def _candidate(self, candidate: Any) -> Candidate:
        token_id, *probabilities = candidate
        text = self._spell(token_id).decode(errors="backslashreplace")  # the token may be part of a character
        return Candidate(token_id, text, *(None if each is None else _number(each) for each in probabilities))


def _number(value: float) -> float:
    """Return a number with six digits that JSON can hold."""
    return 0.0 if math.isnan(value) else float(f"{max(-_MAX_NUMBER, min(value, _MAX_NUMBER)):.6g}")


_CHOICES = ("base_choice", "prompted_choice", "unguarded_choice")


def _entry(token: TokenTrace) -> dict[str, Any]:
    """Return a token as a dict. The choices are ids, since all of them are among the candidates."""
    return {**asdict(token), **{name: getattr(token, name).token_id for name in _CHOICES}}


def _from_entry(entry: Mapping[str, Any]) -> TokenTrace:
    candidates = {each["token_id"]: Candidate(**each) for each in entry["candidates"]}
    choices = {name: candidates[entry[name]] for name in _CHOICES}
    return TokenTrace(**{**entry, "candidates": tuple(candidates.values()), **choices})
