"""From the scores of the next token to the token, for several requests at once."""

from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import TypeAlias

import torch
from torch import Tensor

from langchain_amulet.engine.params import SamplingParams

# The constants of SplitMix64, as signed numbers.
_GOLDEN_GAMMA = 0x9E3779B97F4A7C15 - 2**64
_MIX_1 = 0xBF58476D1CE4E5B9 - 2**64
_MIX_2 = 0x94D049BB133111EB - 2**64
_NUM_CANDIDATES = 256  # top-p looks at so many of the likeliest tokens before it sorts the whole vocabulary


def penalise(scores: Tensor, seen_ids: Tensor, penalty: float) -> Tensor:
    """Make seen tokens less likely (Keskar et al. 2019, section 4.1), as transformers does for scores below 0 too.

    Args:
        scores: Log-probabilities or logits, `(V,)`.
        seen_ids: Tokens that become less likely, `(S,)`.
        penalty: Above 1; 1 changes nothing.

    References:
        https://arxiv.org/abs/1909.05858
    """
    seen = scores[seen_ids]
    return scores.scatter(0, seen_ids, torch.where(seen < 0, seen * penalty, seen / penalty))


def sample(scores: Tensor, sampling: Sequence[SamplingParams], keys: Sequence[int]) -> Tensor:
    """Draw one token per row: temperature, top-k, top-p, then the Gumbel-max trick.

    The noise of a token follows from the row's key and the token id alone. So a seed gives the same answer whatever
    else is in the batch; and rounding, which differs with the batch, changes a draw only where the two best tokens
    nearly tie, whereas inverting a distribution function would let it move every border between two tokens.

    Args:
        scores: Log-probabilities or logits, `(B, V)`.
        sampling: How to draw in each row.
        keys: One random number per row, 64 bits; greedy rows do not use theirs.

    Returns:
        Token ids, `(B,)`.
    """
    drawn = torch.empty(len(scores), dtype=torch.long, device=scores.device)
    alike: dict[tuple[_Draw, int], list[int]] = defaultdict(list)
    for row, each in enumerate(sampling):
        alike[_draw_of(each), max(_NUM_CANDIDATES, each.top_k)].append(row)
    for (draw, _), rows in alike.items():
        some = scores if len(rows) == len(scores) else scores[rows]
        some_keys = torch.tensor([[keys[row]] for row in rows], device=scores.device)
        drawn[rows] = draw(some, [sampling[row] for row in rows], some_keys)
    return drawn


_Draw: TypeAlias = Callable[[Tensor, Sequence[SamplingParams], Tensor], Tensor]


def _draw_of(sampling: SamplingParams) -> _Draw:
    if sampling.temperature == 0:
        return _argmax
    return _draw_from_likeliest if sampling.top_k or sampling.top_p < 1 else _draw_from_all


def _column(values: Sequence[float], like: Tensor) -> Tensor:
    return torch.tensor(values, dtype=like.dtype, device=like.device).unsqueeze(-1)


def _argmax(scores: Tensor, _sampling: Sequence[SamplingParams], _keys: Tensor) -> Tensor:
    return scores.argmax(-1)


def _draw_from_all(scores: Tensor, sampling: Sequence[SamplingParams], keys: Tensor) -> Tensor:
    token_ids = torch.arange(scores.shape[-1], device=scores.device)
    return _pick(_tempered(scores, sampling), token_ids, keys).squeeze(-1)


def _tempered(scores: Tensor, sampling: Sequence[SamplingParams]) -> Tensor:
    return scores / _column([each.temperature for each in sampling], scores)


def _draw_from_likeliest(scores: Tensor, sampling: Sequence[SamplingParams], keys: Tensor) -> Tensor:
    """Draw from the top-k tokens, or the nucleus of top-p, looking at few of the vocabulary where they suffice."""
    scores, vocab_size = _tempered(scores, sampling), scores.shape[-1]
    top_k = [min(each.top_k, vocab_size) or vocab_size for each in sampling]
    if scores.device.type != "cpu":  # sorting is quick there, and looking whether candidates suffice is not
        return _draw_from_first(scores, vocab_size, top_k, sampling, keys)[0]
    # One number for all rows here: where tokens tie, which of them come first depends on how many are asked for.
    num_candidates = min(vocab_size, max(_NUM_CANDIDATES, *(each.top_k for each in sampling)))
    tokens, is_enough = _draw_from_first(scores, num_candidates, top_k, sampling, keys)
    short = (~is_enough).nonzero().flatten().tolist() if num_candidates < vocab_size else []
    if short:
        chosen = [sampling[row] for row in short]
        all_k = [top_k[row] for row in short]
        tokens[short] = _draw_from_first(scores[short], vocab_size, all_k, chosen, keys[short])[0]
    return tokens


def _draw_from_first(
    scores: Tensor, num_candidates: int, top_k: Sequence[int], sampling: Sequence[SamplingParams], keys: Tensor
) -> tuple[Tensor, Tensor]:
    """Draw from the likeliest tokens, and tell in which rows these hold all that may be drawn."""
    likeliest, order = scores.topk(num_candidates)
    ranks = torch.arange(num_candidates, device=scores.device)
    k = torch.tensor(top_k, device=scores.device).unsqueeze(-1)
    likeliest = likeliest.masked_fill(ranks >= k, -torch.inf)
    is_cut = k <= num_candidates
    # Of what top-k leaves, top-p keeps the smallest set that reaches its probability (Holtzman et al. 2020).
    log_z = torch.where(is_cut, likeliest.logsumexp(-1, keepdim=True), scores.logsumexp(-1, keepdim=True))
    probs = (likeliest - log_z).exp()
    before = probs.cumsum(-1) - probs  # the mass ahead of each token
    top_p = _column([each.top_p for each in sampling], scores)
    kept = likeliest.masked_fill((before >= top_p) & (top_p < 1), -torch.inf)
    is_enough = is_cut | ((probs.sum(-1, keepdim=True) >= top_p) & (top_p < 1))
    return order.gather(-1, _pick(kept, order, keys)).squeeze(-1), is_enough.squeeze(-1)


def _pick(scores: Tensor, token_ids: Tensor, keys: Tensor) -> Tensor:
    """Where scores plus Gumbel noise are largest, which draws from softmax(scores), `(B, 1)`."""
    noise = _gumbel(token_ids, keys)
    return (scores.to(noise.dtype) + noise).argmax(-1, keepdim=True)


def _gumbel(token_ids: Tensor, keys: Tensor) -> Tensor:
    """Standard Gumbel noise, `(B, S)`, by the mixing function of SplitMix64 (Steele et al. 2014).

    https://doi.org/10.1145/2660193.2660195
    """
    z = token_ids * _GOLDEN_GAMMA + keys  # int64 wraps around, as the function wants it
    z = (z ^ _shift_right(z, 30)) * _MIX_1
    z = (z ^ _shift_right(z, 27)) * _MIX_2
    z = z ^ _shift_right(z, 31)
    # Half a step above whole numbers, and so never 0 or 1. float32, which is all that MPS has, holds 23 bits so.
    num_bits, dtype = (23, torch.float32) if z.device.type == "mps" else (52, torch.float64)
    uniform = ((z & (2**num_bits - 1)).to(dtype) + 0.5) / 2**num_bits
    noise: Tensor = -(-uniform.log()).log()
    return noise


def _shift_right(z: Tensor, num_bits: int) -> Tensor:
    """Filling up with zeros, where `>>` copies the sign."""
    shifted: Tensor = (z >> num_bits) & (2 ** (64 - num_bits) - 1)
    return shifted
