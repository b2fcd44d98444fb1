"""`realign()` and `realign_streams()`: the realignment of one batch of next-token logits."""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from langchain_amulet.exceptions import ShapeMismatchError
from langchain_amulet.realignment.config import RealignmentConfig
from langchain_amulet.realignment.entropy_floor import above_entropy_floor
from langchain_amulet.realignment.guard_specs import GuardSpec, guard_specs
from langchain_amulet.realignment.guards import nucleus_threshold, plausibility_threshold
from langchain_amulet.realignment.mixture import Mixture, normalise, reference_gains
from langchain_amulet.realignment.ranges import MAX_GUIDANCE_SCALE, check_range
from langchain_amulet.realignment.trust_region import within_trust_region

_GUARD_SPECS = guard_specs(RealignmentConfig)


def realign(  # noqa: PLR0913 - one argument per guard
    base_logits: Tensor,
    pref_logits: Tensor,
    guidance_scale: float | Tensor,
    *,
    weights: Tensor | None = None,
    allowed: Tensor | None = None,
    plausibility: float | Tensor = 0.0,
    max_kl: float | Tensor | None = None,
    nucleus: float | Tensor | None = None,
    nucleus_temperature: float | Tensor = 1.0,
    entropy_floor: float | Tensor = 0.0,
) -> Tensor:
    """Move the base policy along the directions in which the preferences point.

        target:     log q = log π_base + Σ_k g_k (log π_k − log π_base) − log Z,   g_k = w v_k
        reference:  log r = log π_base + Σ_k u_k (log π_k − log π_base) − log Z,
                    u_k = max(g_k, 0) / max(1, Σ_j max(g_j, 0))

    Guards keep the result near the reference, which is the nearest mixture that does not extrapolate. Plausibility β
    allows only tokens with r(x) ≥ β max r. The nucleus allows only the most likely tokens that together reach its
    probability. The entropy floor ρ replaces q by q^τ / Z, with the largest τ ≤ 1 for which H(q^τ / Z) ≥ ρ H(r), both
    renormalised over those tokens. The trust region then moves from r towards q, along
    log p_s = (1 − s) log r + s log q − log Z, to the largest s ≤ 1 with KL(p_s ‖ r) ≤ `max_kl`. It comes last, so that
    its bound always holds; on this path the entropy may fall below the floor.

    A token that is −inf in any stream of non-zero gain is −inf in the target and in the reference. If this leaves no
    allowed token in a row, the row falls back to the uniform policy over its allowed tokens.

    Args:
        base_logits: Next-token logits without preferences, `(..., V)`.
        pref_logits: Next-token logits with one preference, `(..., V)`; with K of them, `(..., K, V)`.
        guidance_scale: w, dimensionless, a number or `(...)`. 0 is the base policy, 1 the prompted one.
        weights: v, dimensionless, `(..., K)`; required with K streams. Negative weights steer away.
        allowed: Tokens that may be chosen, bool `(..., V)`, for example by a grammar. `None` allows all.
        plausibility: β in [0, 1], a number or `(...)`. 0 turns the guard off.
        max_kl: The trust region in nats, a number or `(...)`. `None` or infinity turns the guard off.
        nucleus: A probability in (0, 1], a number or `(...)`. `None` or 1 turns the guard off.
        nucleus_temperature: The temperature of the reference policy for the nucleus, above 0, a number or `(...)`.
        entropy_floor: ρ in [0, 1], dimensionless, a number or `(...)`. 0 turns the guard off.

    Returns:
        Normalised log-probabilities in nats, `(..., V)`, float32, or float64 if a stream is. At least one is finite in
        every row with an allowed token; a row without one is all −inf.

    Raises:
        ShapeMismatchError: The shapes of the streams, weights, allowed tokens or guards do not match.
        InvalidParameterError: A number is out of range; w may be from −1e4 to 1e4. Tensors are not checked, since that
            would synchronise with the device.

    References:
        Zhang et al., Amulet, ICLR 2025 (the target, for one preference): https://arxiv.org/abs/2502.19148
        Li et al., Contrastive Decoding, ACL 2023, section 3.3 (plausibility): https://arxiv.org/abs/2210.15097
        Gao et al., Linear Alignment, ICML 2024 (nucleus, in their code): https://arxiv.org/abs/2401.11458
    """
    guards = _guards(plausibility, max_kl, nucleus, nucleus_temperature, entropy_floor)
    _check_numbers(guidance_scale, guards)
    _check_shapes(base_logits, pref_logits, weights, allowed, {"guidance_scale": guidance_scale, **guards})
    dtype = torch.promote_types(torch.promote_types(base_logits.dtype, pref_logits.dtype), torch.float32)
    # Logits serve as log-policies: they differ by one constant per stream, which log Z absorbs.
    log_base = base_logits.to(dtype)
    log_prefs = (pref_logits.unsqueeze(-2) if weights is None else pref_logits).to(dtype)
    v = log_base.new_ones(1) if weights is None else weights.to(log_base)
    gains = _column(guidance_scale, log_base) * v  # (..., K)
    mixture = Mixture(log_base, log_prefs, 1 - gains.sum(-1), gains, allowed)
    return _guarded(mixture, gains, reference_gains(gains), guards, is_normal=allowed is None)


def realign_streams(
    logits: Tensor,
    target: Tensor,
    reference: Tensor,
    *,
    allowed: Tensor | None = None,
    guards: Mapping[str, float | Tensor] | None = None,
) -> Tensor:
    """Mix the policies of S streams by their coefficients, with the guards of `realign`.

        target: log q = Σ_s a_s log π_s − log Z,   reference: log r = Σ_s b_s log π_s − log Z

    Args:
        logits: Next-token logits of the streams, `(..., S, V)`.
        target: a, the coefficients of `StreamCoefficients.target`, `(..., S)`.
        reference: b, those of `StreamCoefficients.reference`, `(..., S)`.
        allowed: As for `realign`.
        guards: The arguments of `realign` that are guards, by name. `None`: no guards.

    Returns:
        Normalised log-probabilities in nats, `(..., V)`, as `realign` does.
    """
    streams = logits.to(torch.promote_types(logits.dtype, torch.float32))
    first, others = streams[..., 0, :], streams[..., 1:, :]
    mixture = Mixture(first, others, target[..., 0], target[..., 1:], allowed)
    values = _guards(**(guards or {}))
    return _guarded(mixture, target[..., 1:], reference[..., 1:], values, is_normal=allowed is None)


def _guards(
    plausibility: float | Tensor = 0.0,
    max_kl: float | Tensor | None = None,
    nucleus: float | Tensor | None = None,
    nucleus_temperature: float | Tensor = 1.0,
    entropy_floor: float | Tensor = 0.0,
) -> dict[str, float | Tensor | None]:
    """Return the values of all guards by name."""
    return {
        "plausibility": plausibility,
        "max_kl": max_kl,
        "nucleus": nucleus,
        "nucleus_temperature": nucleus_temperature,
        "entropy_floor": entropy_floor,
    }


def _guarded(mixture: Mixture, gains: Tensor, near: Tensor, guards: Mapping[str, Any], *, is_normal: bool) -> Tensor:
    """Return the log-probabilities of the mixture at `gains`, kept near the one at `near` by the guards.

    Args:
        mixture: The streams.
        gains: Gains of the target, `(..., K)`.
        near: Gains of the reference, `(..., K)`.
        guards: The values of all guards, as from `_guards`.
        is_normal: Whether every row has a possible token.
    """
    max_kl, nucleus, entropy_floor = guards["max_kl"], guards["nucleus"], guards["entropy_floor"]
    target = mixture.policy(gains)
    if not all(_is_off(guards[name], spec) for name, spec in _GUARD_SPECS.items() if spec.parameter_of is None):
        reference = mixture.policy(near)
        threshold = plausibility_threshold(reference, _column(guards["plausibility"], reference))
        if nucleus is not None:
            temperature = _column(guards["nucleus_temperature"], reference)
            threshold = threshold.maximum(nucleus_threshold(reference, _column(nucleus, reference), temperature))
        target = torch.where(reference >= threshold, target, -math.inf)
        if not _is_off(entropy_floor, _GUARD_SPECS["entropy_floor"]):
            target = above_entropy_floor(target, reference, _column(entropy_floor, target))
        if max_kl is not None:  # last, so that its bound always holds
            target = within_trust_region(target, reference, _column(max_kl, target))
    return target.log_softmax(-1) if is_normal else normalise(target)


def _column(value: float | Tensor, like: Tensor) -> Tensor:
    """Return one number per row, `(..., 1)`, with the dtype and device of `like`."""
    return torch.as_tensor(value, dtype=like.dtype, device=like.device).unsqueeze(-1)


def _is_off(value: float | Tensor | None, spec: GuardSpec) -> bool:
    """Whether a guard is off for all rows. A tensor counts as on, since reading it would synchronise."""
    return not isinstance(value, Tensor) and value == spec.off


def _check_numbers(guidance_scale: float | Tensor, guards: Mapping[str, float | Tensor | None]) -> None:
    if not isinstance(guidance_scale, Tensor):
        check_range("guidance_scale", guidance_scale, low=-MAX_GUIDANCE_SCALE, high=MAX_GUIDANCE_SCALE)
    for name, value in guards.items():
        spec = _GUARD_SPECS[name]
        if not isinstance(value, Tensor) and value != spec.neutral:
            spec.check(name, value)


def _check_shapes(
    base: Tensor,
    pref: Tensor,
    weights: Tensor | None,
    allowed: Tensor | None,
    rows: Mapping[str, float | Tensor | None],
) -> None:
    *batch, vocab = base.shape
    streams = [] if weights is None else [weights.shape[-1]]
    expected = {"pref_logits": (*batch, *streams, vocab), "weights": (*batch, *streams), "allowed": base.shape}
    tensors = {"pref_logits": pref, "weights": weights, "allowed": allowed}
    # One number may hold for all rows: a float, or a tensor without dimensions.
    per_row = {name: value for name, value in rows.items() if isinstance(value, Tensor) and value.dim()}
    for name, tensor in {**tensors, **per_row}.items():
        shape = expected.get(name, tuple(batch))
        if tensor is not None and tuple(tensor.shape) != tuple(shape):
            msg = (
                f"{name} has shape {tuple(tensor.shape)}; with base_logits {tuple(base.shape)} it must be "
                f"{tuple(shape)}. K preference streams are pref_logits (..., K, V) with weights (..., K)."
            )
            raise ShapeMismatchError(msg)
