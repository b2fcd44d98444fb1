"""Traces: what each token of an answer was drawn from, and what would have been drawn without steering."""

from collections.abc import Callable, Iterable
from typing import NamedTuple

import torch
from torch import Tensor

from langchain_amulet.realignment.comparison import Comparison

NUM_CANDIDATES = 4
"""How many of the most likely tokens of each policy a trace shows."""
NUM_REMOVED = 3
"""How many of the tokens that guards removed a trace shows."""
MIN_REMOVED = 0.01
"""The probability without guards from which a removed token counts."""


class TracedCandidate(NamedTuple):
    """The probabilities of one token at a position, from 0 to 1."""

    token_id: int
    realigned: float
    """Under the policy from which the token was drawn, before penalty and temperature."""
    unguarded: float
    """Under the same policy without guards."""
    base: float
    """Under the caller's prompt."""
    prompted: float
    """Under plain prompting with the preferences."""
    contrast: float | None
    """Under what the answer is steered away from. `None` if that is the caller's prompt."""


class TracedToken(NamedTuple):
    """How one token of an answer was drawn."""

    token_id: int
    kl: float
    """KL(realigned ‖ prompted), in nats."""
    gain: float
    """The gain at which it was drawn: the guidance scale times the weight, after the trust region."""
    base_choice: int
    """The token that the caller's prompt alone would have given, with the same random numbers."""
    prompted_choice: int
    """The token that plain prompting would have given."""
    unguarded_choice: int
    """The token that steering without guards would have given."""
    num_removed: int
    """Tokens that guards removed, of those that had a probability of at least 1 % without them."""
    removed_mass: float
    """The probability without guards of all tokens that they removed."""
    candidates: list[TracedCandidate]
    """The token itself, and then the most likely ones of each policy and those that guards removed, by their realigned
    probability, the most likely first."""


def traced(comparison: Comparison, token_id: int, choose: Callable[[Tensor], list[int]]) -> TracedToken:
    """Return the trace of a token.

    Args:
        comparison: The policies at its position.
        token_id: The token that was drawn.
        choose: Draws a token from each row of log-probabilities, `(N, V)`, as the token was drawn.
    """
    policies = torch.stack([comparison.realigned, comparison.unguarded, comparison.base, comparison.prompted])
    _, unguarded, base, prompted = choose(policies)
    removed = torch.where(comparison.realigned.isneginf(), comparison.unguarded.exp(), 0.0)
    shown = [*_likeliest(policies.exp(), NUM_CANDIDATES, above=0.0), *_likeliest(removed, NUM_REMOVED, MIN_REMOVED)]
    return TracedToken(
        token_id,
        comparison.kl,
        comparison.gain,
        base,
        prompted,
        unguarded,
        int((removed >= MIN_REMOVED).sum()),
        float(removed.sum()),
        _candidates(comparison, policies, token_id, [unguarded, base, prompted, *shown]),
    )


def _candidates(
    comparison: Comparison, policies: Tensor, token_id: int, others: Iterable[int]
) -> list[TracedCandidate]:
    ids = list(dict.fromkeys([token_id, *others]))
    rows = [*policies, *([] if comparison.contrast is None else [comparison.contrast])]
    columns = [row[ids].exp().tolist() for row in rows]
    absent = [None] * len(ids) if comparison.contrast is None else columns.pop()
    first, *rest = (TracedCandidate(*values) for values in zip(ids, *columns, absent, strict=True))
    return [first, *sorted(rest, key=lambda candidate: (candidate.realigned, candidate.unguarded), reverse=True)]


def _likeliest(probabilities: Tensor, number: int, above: float) -> list[int]:
    """Return the ids of the most likely tokens of each row, of those above a probability."""
    top = probabilities.topk(min(number, probabilities.shape[-1]))
    token_ids: list[int] = top.indices[top.values > above].tolist()
    return token_ids
