"""Gumbel noise that depends on a key and a token id only, and draws with it (the Gumbel-max trick)."""

from functools import lru_cache
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

# The constants of SplitMix64
_GOLDEN_GAMMA = 0x9E3779B97F4A7C15
_MIX_1 = 0xBF58476D1CE4E5B9
_MIX_2 = 0x94D049BB133111EB
_NUM_BITS = 52  # of a uniform number
_MANY = 4096  # tokens; for fewer, the noise costs less than ruling tokens out
_CHUNK = 8192  # tokens whose numbers fit into the cache of a core
_MAX_NOISE = 37.0  # noise from so many bits is at most log(2^53) = 36.74
_SLACK = 1.001  # for rounding in float32 when tokens are ruled out

_Bits = npt.NDArray[np.uint64]
_Logits: TypeAlias = npt.NDArray[np.floating[Any]]


def pick(logits: Tensor, token_ids: Tensor, keys: Tensor) -> Tensor:
    """Return the index of the largest logit plus Gumbel noise, a draw from softmax(logits), `(B, 1)`.

    Args:
        logits: `(B, S)`.
        token_ids: The tokens of the logits, `(S,)` or `(B, S)`.
        keys: One random number of 64 bits per row, `(B, 1)`.
    """
    noise = gumbel(token_ids, keys)
    return (logits.to(noise.dtype) + noise).argmax(-1, keepdim=True)


def pick_from_all(logits: Tensor, keys: Tensor) -> Tensor:
    """Return the token with the largest logit plus Gumbel noise of each row, `(B,)`.

    Args:
        logits: Logits of the whole vocabulary, `(B, V)`.
        keys: As for `pick`.
    """
    if logits.device.type == "cpu" and logits.shape[-1] >= _MANY:
        return torch.tensor([_pick_on_cpu(row, key) for row, key in zip(logits, keys.flatten().tolist(), strict=True)])
    return pick(logits, torch.arange(logits.shape[-1], device=logits.device), keys).squeeze(-1)


def _pick_on_cpu(logits: Tensor, key: int) -> int:
    """Return the token that `pick` chooses, without taking the logarithms for tokens that cannot be chosen.

    The sum of logit and noise of the likeliest token is a bound that the chosen token reaches. A token needs the noise
    d = bound − logit for that, so its uniform number u has 1 − u ≤ 1 − exp(−exp(−d)) ≤ exp(−d). And no token with a
    logit that lies more than the largest noise below the bound is chosen.
    """
    values = logits.numpy()  # its operations are several times as fast as those of torch on 64-bit integers
    likeliest = int(values.argmax())
    noise = gumbel(torch.tensor([likeliest]), torch.tensor([key])).item()
    if not np.isfinite(values[likeliest]):  # NaN or infinity, which the caller finds
        return likeliest
    starts = range(0, len(values), _CHUNK)
    possible = torch.from_numpy(np.concatenate([_possible(values, likeliest, noise, key, start) for start in starts]))
    return int(possible[pick(logits[possible], possible, torch.tensor([key]))])


def _possible(values: _Logits, likeliest: int, noise: float, key: int, start: int) -> npt.NDArray[np.int64]:
    """Return the tokens of a chunk of the vocabulary that may reach the likeliest one, with its noise."""
    # Not minus the sum, whose rounding matters for the large logits of low temperatures.
    lead = values[start : start + _CHUNK] - values[likeliest] - values.dtype.type(noise)
    token_ids = np.flatnonzero(lead > -_MAX_NOISE)
    lead, token_ids = lead[token_ids], token_ids + start
    bits = _random_bits(_multiples(len(values))[token_ids], key) & np.uint64(2**_NUM_BITS - 1)
    odd = np.uint64(2 ** (_NUM_BITS + 1) - 1) - bits - bits
    complement = odd.view(np.int64).astype(values.dtype)  # (1 − u) 2^53; converting uint64 takes 9 times as long
    possible = np.flatnonzero(complement <= _SLACK * 2 ** (_NUM_BITS + 1) * np.exp(lead))
    return token_ids[possible]


@lru_cache(maxsize=8)
def _multiples(vocab_size: int) -> _Bits:
    with np.errstate(over="ignore"):
        multiples = np.arange(vocab_size, dtype=np.uint64) * np.uint64(_GOLDEN_GAMMA)
    multiples.setflags(write=False)
    return multiples


def _random_bits(multiples: _Bits, key: int) -> _Bits:
    """Return the numbers from which `gumbel` makes its noise, `(S,)`."""
    z = multiples + np.uint64(key % 2**64)  # a sum too large wraps around, as SplitMix64 requires
    for num_bits, factor in ((30, _MIX_1), (27, _MIX_2), (31, 1)):
        z ^= z >> np.uint64(num_bits)
        z *= np.uint64(factor)
    return z


def gumbel(token_ids: Tensor, keys: Tensor) -> Tensor:
    """Return standard Gumbel noise, `(B, S)`, by the mixing function of SplitMix64 (Steele et al. 2014).

    https://doi.org/10.1145/2660193.2660195
    """
    z = token_ids * _signed(_GOLDEN_GAMMA) + keys  # int64 overflow wraps around, as SplitMix64 requires
    z = (z ^ _shift_right(z, 30)) * _signed(_MIX_1)
    z = (z ^ _shift_right(z, 27)) * _signed(_MIX_2)
    z = z ^ _shift_right(z, 31)
    # Adding 0.5 keeps the uniform numbers away from 0 and 1. MPS has no float64, and float32 has room for 23 bits.
    num_bits, dtype = (23, torch.float32) if z.device.type == "mps" else (_NUM_BITS, torch.float64)
    uniform = ((z & (2**num_bits - 1)).to(dtype) + 0.5) / 2**num_bits
    noise: Tensor = -(-uniform.log()).log()
    return noise


def _signed(number: int) -> int:
    return number - 2**64


def _shift_right(z: Tensor, num_bits: int) -> Tensor:
    """Shift right and fill with zeros; `>>` would copy the sign bit."""
    shifted: Tensor = (z >> num_bits) & (2 ** (64 - num_bits) - 1)
    return shifted
