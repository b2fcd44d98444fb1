"""Samples the next token of several requests from logits."""

from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import TypeAlias

import torch
from torch import Tensor

from langchain_amulet.engine.gumbel import pick, pick_from_all
from langchain_amulet.engine.params import SamplingParams

_NUM_CANDIDATES = 256  # top-p first tries the 256 most likely tokens, then sorts the whole vocabulary


def penalise(logits: Tensor, seen_ids: Sequence[Tensor], penalties: Sequence[float]) -> Tensor:
    """Make seen tokens less likely (Keskar et al. 2019, section 4.1); multiply logits below 0, as transformers does.

    Args:
        logits: Logits or log-probabilities, `(B, V)`.
        seen_ids: Token ids of each row, `(S,)` each.
        penalties: One per row, above 0. Above 1 makes seen tokens less likely, below 1 more likely; 1 changes nothing.

    References:
        https://arxiv.org/abs/1909.05858
    """
    seen = {row: seen_ids[row] for row, penalty in enumerate(penalties) if penalty != 1}
    if not seen:
        return logits
    counts, total = torch.tensor([len(ids) for ids in seen.values()]), sum(map(len, seen.values()))
    rows, values = (
        torch.repeat_interleave(each, counts, output_size=total).to(logits.device)
        for each in (torch.tensor([*seen]), torch.tensor([penalties[row] for row in seen], dtype=logits.dtype))
    )
    token_ids = torch.cat([*seen.values()])
    found = logits[rows, token_ids]
    return logits.index_put((rows, token_ids), torch.where(found < 0, found * values, found / values))


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
    if logits.device.type == "cpu":  # numpy is several times as fast
        return torch.from_numpy(logits.numpy().argmax(-1))
    return logits.argmax(-1)


def _draw_from_all(logits: Tensor, sampling: Sequence[SamplingParams], keys: Tensor) -> Tensor:
    return pick_from_all(_tempered(logits, sampling), keys)


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
    return order.gather(-1, pick(kept, order, keys)).squeeze(-1), is_enough.squeeze(-1)
