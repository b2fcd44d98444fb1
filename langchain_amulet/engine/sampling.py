"""Samples the next token of several requests from logits."""

from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import TypeAlias

import torch
from torch import Tensor

from langchain_amulet.engine.params import SamplingParams

# The constants of SplitMix64, as signed numbers
_GOLDEN_GAMMA = 0x9E3779B97F4A7C15 - 2**64
_MIX_1 = 0xBF58476D1CE4E5B9 - 2**64
_MIX_2 = 0x94D049BB133111EB - 2**64
_NUM_CANDIDATES = 256  # top-p first tries the 256 most likely tokens, then sorts the whole vocabulary


def penalise(logits: Tensor, seen_ids: Tensor, penalty: float) -> Tensor:
    """Make seen tokens less likely (Keskar et al. 2019, section 4.1); multiply logits below 0, as transformers does.

    Args:
        logits: Logits or log-probabilities, `(V,)`.
        seen_ids: Token ids, `(S,)`.
        penalty: Above 0. Above 1 makes seen tokens less likely, below 1 more likely; 1 changes nothing.

    References:
        https://arxiv.org/abs/1909.05858
    """
    seen = logits[seen_ids]
    return logits.scatter(0, seen_ids, torch.where(seen < 0, seen * penalty, seen / penalty))


def sample(logits: Tensor, sampling: Sequence[SamplingParams], keys: Sequence[int]) -> Tensor:
    """Draw one token per row: temperature, top-k, top-p, then the Gumbel-max trick.

    The noise of a token depends only on the key of the row and on the token id. So a seed gives the same answer
    whatever else is in the batch. Rounding errors, which depend on the batch, change a draw only if the two best tokens
    nearly tie. Inverse transform sampling is more sensitive: there, rounding shifts the boundaries of all tokens.

    Args:
        logits: Logits or log-probabilities, `(B, V)`.
        sampling: The parameters of each row.
        keys: One random number of 64 bits per row; greedy rows ignore it.

    Returns:
        Token ids, `(B,)`.
    """
    drawn = torch.empty(len(logits), dtype=torch.long, device=logits.device)
    groups: dict[tuple[_Draw, int], list[int]] = defaultdict(list)
    for row, params in enumerate(sampling):
        groups[_draw_of(params), max(_NUM_CANDIDATES, params.top_k)].append(row)
    for (draw, _), rows in groups.items():
        some = logits if len(rows) == len(logits) else logits[rows]
        some_keys = torch.tensor([[keys[row]] for row in rows], device=logits.device)
        drawn[rows] = draw(some, [sampling[row] for row in rows], some_keys)
    return drawn


_Draw: TypeAlias = Callable[[Tensor, Sequence[SamplingParams], Tensor], Tensor]


def _draw_of(sampling: SamplingParams) -> _Draw:
    if sampling.temperature == 0:
        return _argmax
    return _draw_filtered if sampling.top_k or sampling.top_p < 1 else _draw_from_all


def _column(values: Sequence[float], like: Tensor) -> Tensor:
    return torch.tensor(values, dtype=like.dtype, device=like.device).unsqueeze(-1)


def _argmax(logits: Tensor, _sampling: Sequence[SamplingParams], _keys: Tensor) -> Tensor:
    return logits.argmax(-1)


def _draw_from_all(logits: Tensor, sampling: Sequence[SamplingParams], keys: Tensor) -> Tensor:
    token_ids = torch.arange(logits.shape[-1], device=logits.device)
    return _pick(_tempered(logits, sampling), token_ids, keys).squeeze(-1)


def _tempered(logits: Tensor, sampling: Sequence[SamplingParams]) -> Tensor:
    return logits / _column([params.temperature for params in sampling], logits)


def _draw_filtered(logits: Tensor, sampling: Sequence[SamplingParams], keys: Tensor) -> Tensor:
    """Draw from the top-k tokens or the nucleus of top-p. On CPUs, sort only part of the vocabulary where possible."""
    logits, vocab_size = _tempered(logits, sampling), logits.shape[-1]
    top_k = [min(params.top_k, vocab_size) or vocab_size for params in sampling]
    if logits.device.type != "cpu":  # sorting is fast there; checking whether the candidates suffice would synchronise
        return _draw_from_top(logits, vocab_size, top_k, sampling, keys)[0]
    # The same number for all rows of the call, since the order of tied tokens depends on it.
    num_candidates = min(vocab_size, max(_NUM_CANDIDATES, *(params.top_k for params in sampling)))
    tokens, is_enough = _draw_from_top(logits, num_candidates, top_k, sampling, keys)
    short = (~is_enough).nonzero().flatten().tolist() if num_candidates < vocab_size else []
    if short:
        chosen = [sampling[row] for row in short]
        all_k = [top_k[row] for row in short]
        tokens[short] = _draw_from_top(logits[short], vocab_size, all_k, chosen, keys[short])[0]
    return tokens


def _draw_from_top(
    logits: Tensor, num_candidates: int, top_k: Sequence[int], sampling: Sequence[SamplingParams], keys: Tensor
) -> tuple[Tensor, Tensor]:
    """Draw from the most likely tokens.

    Returns:
        Token ids, `(B,)`; and whether the candidates include all tokens that top-k and top-p allow, bool `(B,)`.
    """
    top_logits, order = logits.topk(num_candidates)
    ranks = torch.arange(num_candidates, device=logits.device)
    k = torch.tensor(top_k, device=logits.device).unsqueeze(-1)
    top_logits = top_logits.masked_fill(ranks >= k, -torch.inf)
    is_cut = k <= num_candidates
    # Top-p keeps the smallest subset of the top-k tokens that reaches its probability (Holtzman et al. 2020).
    log_z = torch.where(is_cut, top_logits.logsumexp(-1, keepdim=True), logits.logsumexp(-1, keepdim=True))
    probs = (top_logits - log_z).exp()
    mass_before = probs.cumsum(-1) - probs  # the mass of all more likely tokens
    top_p = _column([params.top_p for params in sampling], logits)
    kept = top_logits.masked_fill((mass_before >= top_p) & (top_p < 1), -torch.inf)
    is_enough = is_cut | ((probs.sum(-1, keepdim=True) >= top_p) & (top_p < 1))
    return order.gather(-1, _pick(kept, order, keys)).squeeze(-1), is_enough.squeeze(-1)


def _pick(logits: Tensor, token_ids: Tensor, keys: Tensor) -> Tensor:
    """Return the index of the largest logit plus Gumbel noise, a draw from softmax(logits), `(B, 1)`."""
    noise = _gumbel(token_ids, keys)
    return (logits.to(noise.dtype) + noise).argmax(-1, keepdim=True)


def _gumbel(token_ids: Tensor, keys: Tensor) -> Tensor:
    """Return standard Gumbel noise, `(B, S)`, by the mixing function of SplitMix64 (Steele et al. 2014).

    https://doi.org/10.1145/2660193.2660195
    """
    z = token_ids * _GOLDEN_GAMMA + keys  # int64 overflow wraps around, as SplitMix64 requires
    z = (z ^ _shift_right(z, 30)) * _MIX_1
    z = (z ^ _shift_right(z, 27)) * _MIX_2
    z = z ^ _shift_right(z, 31)
    # Adding 0.5 keeps the uniform numbers away from 0 and 1. MPS has no float64, and float32 has room for 23 bits.
    num_bits, dtype = (23, torch.float32) if z.device.type == "mps" else (52, torch.float64)
    uniform = ((z & (2**num_bits - 1)).to(dtype) + 0.5) / 2**num_bits
    noise: Tensor = -(-uniform.log()).log()
    return noise


def _shift_right(z: Tensor, num_bits: int) -> Tensor:
    """Shift right and fill with zeros; `>>` would copy the sign bit."""
    shifted: Tensor = (z >> num_bits) & (2 ** (64 - num_bits) - 1)
    return shifted
