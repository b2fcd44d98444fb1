"""Decodes one request the plain, slow way: no batch, no cache, one forward of the whole text per token and stream.

It shares nothing with `langchain_amulet/engine/` except the description of the request, and the equation
`realignment.kernel.realign_streams` without its searches, the entropy floor and the trust region. The random numbers
follow the published constants of SplitMix64.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import PreTrainedModel

from langchain_amulet.engine.params import Request, SamplingParams
from langchain_amulet.exceptions import ContextLengthError
from langchain_amulet.realignment import realign_streams

MAX_SEED = 2**63 - 1
SECOND_DRAW = 0x5DEECE66D
_FULL = 2**64
_HALVINGS = 20  # as fine as the search of the package
_ENTROPY_TOLERANCE = 1e-5  # nats


class Drawn(NamedTuple):
    """The tokens of one answer, including its stop token, and the distribution `(V,)` from which each was drawn."""

    token_ids: list[int]
    finish_reason: str
    log_probs: list[Tensor]


def decode(model: PreTrainedModel, request: Request, max_cached: int | None = None) -> Drawn:
    """Decode a request to its end.

    Args:
        model: The model.
        request: The request.
        max_cached: The most tokens that an engine may cache for all streams together.

    Raises:
        ContextLengthError: The longest prompt leaves no room for an answer.
        AmuletError: The guide cannot begin or go on.
    """
    limit = model.config.max_position_embeddings
    if max_cached is not None:
        limit = min(limit, max_cached // len(request.prompts))
    room = limit - max(map(len, request.prompts))
    if room < 1:
        msg = "no room"
        raise ContextLengthError(msg)
    sampling = request.sampling
    max_tokens = min(sampling.max_tokens, room)
    guide = request.guide(max_tokens) if request.guide else None
    keys = torch.Generator().manual_seed(sampling.seed or 0)
    drawn = Drawn([], "", [])
    while len(drawn.token_ids) < max_tokens:
        streams = [next_logits(model, [*prompt, *drawn.token_ids]) for prompt in request.prompts]
        key = int(torch.randint(MAX_SEED, (), generator=keys).item()) if sampling.temperature else 0
        seen = [*(request.prompts[0] if request.penalised_ids is None else request.penalised_ids), *drawn.token_ids]
        combined, key = _guided(streams, request, guide, key, seen, max_tokens - len(drawn.token_ids))
        token_id = _draw(_penalised(combined, seen, sampling.repetition_penalty), sampling, key)
        if guide is not None:
            token_id = guide.accept(token_id, max_tokens - len(drawn.token_ids))
        drawn.token_ids.append(token_id)
        drawn.log_probs.append(combined.log_softmax(-1))
        if token_id in sampling.stop_token_ids or (guide is not None and guide.is_complete):
            return drawn._replace(finish_reason="stop")
    return drawn._replace(finish_reason="length")


@torch.inference_mode()
def next_logits(model: PreTrainedModel, input_ids: list[int]) -> Tensor:
    """Return the next-token logits `(V,)` after a text, from a forward of all of it."""
    logits: Tensor = model(input_ids=torch.tensor([input_ids]), use_cache=False).logits[0, -1]
    return logits


def _guided(streams, request: Request, guide, key: int, seen: list[int], num_left: int) -> tuple[Tensor, int]:
    """Return the distribution of the next token within the guide, and the key of its draw."""
    if guide is None:
        return combine(streams, request, None, is_steered=True), key
    allowed, opening, is_steered = guide.allowed(num_left), guide.opening(), guide.is_steered
    if opening is not None and len(streams) > 1:  # whether a structure begins is drawn without steering
        unsteered = combine(streams, request, allowed, is_steered=False)
        penalised = _penalised(unsteered, seen, request.sampling.repetition_penalty)
        if opening[_draw(penalised, request.sampling, key)]:
            return unsteered, key
        allowed = ~opening if allowed is None else ~opening & allowed
        key ^= SECOND_DRAW
    return combine(streams, request, allowed, is_steered=is_steered), key


def combine(streams: list[Tensor], request: Request, allowed: Tensor | None, *, is_steered: bool) -> Tensor:
    """Return the realigned distribution, or the logits of a single stream; forbidden tokens are −inf."""
    if len(streams) == 1:
        return streams[0] if allowed is None else streams[0].masked_fill(~allowed, -torch.inf)
    logits, mixture = torch.stack(streams), request.mixture
    target = logits.new_tensor(mixture.target if is_steered else mixture.unsteered)
    guards = request.realignment.active_guards if is_steered else {}
    masks = {name: value for name, value in guards.items() if name not in ("entropy_floor", "max_kl")}
    near = logits.new_tensor(mixture.reference)
    log_q = realign_streams(logits, target, near, allowed=allowed, guards=masks)
    if masks == guards:
        return log_q
    possible = log_q.isfinite()
    q, r = log_q[possible].double(), realign_streams(logits, near, near, allowed=allowed)[possible].double()
    searched = _searched(q, r.log_softmax(-1), guards.get("entropy_floor", 0.0), guards.get("max_kl", torch.inf))
    return log_q.masked_scatter(possible, searched.to(log_q.dtype))


def _searched(log_q: Tensor, log_r: Tensor, share: float, max_kl: float) -> Tensor:
    """Flatten q to the entropy floor, and mix it with r until the divergence is small, over possible tokens in float64."""
    floor = share * _entropy(log_r) - _ENTROPY_TOLERANCE
    flat = _largest(lambda tau: (tau * log_q).log_softmax(-1), lambda log_p: _entropy(log_p) >= floor)
    return _largest(
        lambda s: ((1 - s) * log_r + s * flat).log_softmax(-1),
        lambda log_p: float((log_p.exp() * (log_p - log_r)).sum()) <= max_kl,
    )


def _entropy(log_p: Tensor) -> float:
    return float(-(log_p.exp() * log_p).sum())


def _largest(policy_at: Callable[[float], Tensor], holds: Callable[[Tensor], bool]) -> Tensor:
    """Return the policy at the largest step up to 1 at which a condition holds, by bisection; 0 counts as one."""
    low, high = (1.0, 1.0) if holds(policy_at(1.0)) else (0.0, 1.0)
    for _ in range(_HALVINGS if low < high else 0):
        middle = (low + high) / 2
        low, high = (middle, high) if holds(policy_at(middle)) else (low, middle)
    return policy_at(low)


def _penalised(logits: Tensor, seen: list[int], penalty: float) -> Tensor:
    """Divide what is above 0 and multiply what is below, once per seen token."""
    logits = logits.clone()
    for token_id in set(seen) if penalty != 1 else ():
        logits[token_id] = logits[token_id] * penalty if logits[token_id] < 0 else logits[token_id] / penalty
    return logits


def _draw(logits: Tensor, sampling: SamplingParams, key: int) -> int:
    """Draw by temperature, top-k, top-p and the Gumbel-max trick, over the whole sorted vocabulary."""
    if sampling.temperature == 0:
        return int(logits.argmax())
    values = logits.double().numpy() / sampling.temperature
    order = np.argsort(-values, kind="stable")[: sampling.top_k or None]
    kept = order[np.isfinite(values[order])]
    probs = np.exp(values[kept] - np.logaddexp.reduce(values[kept]))
    if sampling.top_p < 1:
        kept = kept[np.cumsum(probs) - probs < sampling.top_p]
    return int(kept[np.argmax(values[kept] + _gumbel(kept, key))])


def _gumbel(token_ids: NDArray[np.int64], key: int) -> NDArray[np.float64]:
    """Standard Gumbel noise of each token, by SplitMix64 in Python's integers."""
    noise = []
    for token_id in token_ids.tolist():
        z = (token_id * 0x9E3779B97F4A7C15 + key) % _FULL
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) % _FULL
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) % _FULL
        z ^= z >> 31
        noise.append(-np.log(-np.log((z % 2**52 + 0.5) / 2**52)))
    return np.array(noise)
