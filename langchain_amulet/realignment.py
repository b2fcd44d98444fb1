"""The mathematics of realignment: pure functions over next-token logits.

Amulet runs T iterations of Follow-the-Regularized-Leader for every token. Each iterate is an affine mix of two
log-policies, so the whole loop is one number, the guidance scale w:

    log π = log π_base + w · (log π_pref − log π_base) − log Z

Linear Alignment (w = 1 + ratio), Context Steering (w = 1 + λ) and classifier-free guidance (w = guidance_scale) are the
same kernel; only how w is chosen differs. All logarithms are natural, so divergences are in nats.

References:
    Zhang et al., Amulet, ICLR 2025: https://arxiv.org/abs/2502.19148
    Gao et al., Linear Alignment, ICML 2024: https://arxiv.org/abs/2401.11458
    Sanchez et al., Classifier-free guidance for language models, ICML 2024: https://arxiv.org/abs/2306.17806
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from langchain_amulet.exceptions import InvalidParameterError, ShapeMismatchError

MAX_GUIDANCE_SCALE = 1e4
"""Beyond this, float32 log-probabilities lose the differences that steering is about."""

_MAX_ITERATIONS = 1_000_000
_PRECISION = 2**20  # parts of one, to which the s of the trust region is found
_FULL_ROUNDS = 20  # over the whole vocabulary: by halves
_FEW = 0.25  # of the vocabulary; above it, gathering tokens costs more than it spares
_FEW_ROUNDS = 4  # over few tokens: by 32nds, since fewer operations count for more than fewer numbers

_LEAST = 1e-6  # of what divides, or has to leave a token
_DEFAULT_GUIDANCE_SCALE = 2.0
_DEFAULT_PLAUSIBILITY = 0.1


def guidance_scale(*, alpha: float, lam: float, eta: float, num_iterations: int) -> float:
    """Collapse Amulet's T-step loop into the one scalar that it amounts to.

        w = 1 + c_T,   c_0 = 0,   c_t = [ (α/t) Σ_{i<t} (1 + c_i) + c_{t−1} / (η t) ] / (λ + 1/(η t))

    Args:
        alpha: α, the scale of the reward log π − log π_base, at least 0.
        lam: λ, the pull towards the prompted policy, at least 0.
        eta: η, the learning rate, above 0.
        num_iterations: T, the number of iterations. 0 is the prompted policy.

    Returns:
        w, dimensionless. 5.648699 at the paper's α = 2, λ = 2, η = 10, T = 60.

    Raises:
        InvalidParameterError: A parameter is out of range, or w is above 1e4 (for α > λ it grows like T^(α/λ − 1)).

    References:
        Zhang et al., Amulet, ICLR 2025: https://arxiv.org/abs/2502.19148
    """
    _check_loop_parameters(alpha, lam, eta, num_iterations)
    c = sum_of_gains = 0.0
    for t in range(1, num_iterations + 1):
        sum_of_gains += 1 + c
        proximal = 1 / (eta * t)
        c = (alpha / t * sum_of_gains + c * proximal) / (lam + proximal)
        if not 1 + c <= MAX_GUIDANCE_SCALE:
            msg = (
                f"The guidance scale exceeds {MAX_GUIDANCE_SCALE:g} after {t} of {num_iterations} iterations with "
                f"alpha={alpha:g}, lam={lam:g}. Above alpha = lam it grows like T^(alpha/lam - 1): "
                f"lower alpha to at most lam, or lower num_iterations."
            )
            raise InvalidParameterError(msg)
    return 1 + c


def _check_loop_parameters(alpha: float, lam: float, eta: float, num_iterations: int) -> None:
    _check_range("alpha", alpha, low=0)
    _check_range("lam", lam, low=0)
    _check_range("eta", eta, low=0)
    if eta == 0:
        msg = "eta is a learning rate and must be above 0, got 0. The paper uses 10."
        raise InvalidParameterError(msg)
    if not isinstance(num_iterations, int) or not 0 <= num_iterations <= _MAX_ITERATIONS:
        msg = f"num_iterations must be a whole number from 0 to {_MAX_ITERATIONS}, got {num_iterations!r}."
        raise InvalidParameterError(msg)


def _check_range(name: str, value: float, *, low: float, high: float = math.inf, remedy: str = "") -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        msg = f"{name} must be a finite number, got {value!r}. {remedy}".rstrip()
        raise InvalidParameterError(msg)
    if not low <= value <= high:
        bounds = f"at least {low:g}" if high == math.inf else f"from {low:g} to {high:g}"
        msg = f"{name} must be {bounds}, got {value!r}. {remedy}".rstrip()
        raise InvalidParameterError(msg)


@dataclass(frozen=True, slots=True)
class RealignmentConfig:
    """How strongly, and how carefully, the next-token policy follows the preference.

    The guards act only where streams are combined: a plain answer, or a preference at gain exactly 1, is the model's
    own policy, untouched.

    Raises:
        InvalidParameterError: A value is out of range.
    """

    guidance_scale: float = _DEFAULT_GUIDANCE_SCALE
    """w, dimensionless. 0 ignores the preference, 1 is plain prompting, above 1 amplifies what the prompt changes."""
    plausibility: float = _DEFAULT_PLAUSIBILITY
    """β in [0, 1]: only tokens with r(x) ≥ β max r under the reference policy may be chosen. 0 turns it off."""
    max_kl: float | None = None
    """Trust region: the largest KL(realigned ‖ reference) per token, in nats. `None` turns it off."""
    nucleus: float | None = None
    """Only the likeliest tokens that together reach this probability under the reference policy may be chosen, as in
    the code of Linear Alignment (0.8). `None` turns it off. Costs a sort of the vocabulary per token."""
    nucleus_temperature: float = 1.0
    """The temperature at which the nucleus is taken (0.5 in the code of Linear Alignment)."""

    def __post_init__(self) -> None:
        """Refuse values that no realignment can use."""
        _check_range(
            "guidance_scale",
            self.guidance_scale,
            low=0,
            high=MAX_GUIDANCE_SCALE,
            remedy="To steer away from something, use a Preference of negative weight.",
        )
        _check_range("plausibility", self.plausibility, low=0, high=1, remedy="Use 0 to turn it off.")
        if self.max_kl is not None:
            _check_range("max_kl", self.max_kl, low=0, remedy="It is in nats; use None to turn it off.")
        if self.nucleus is not None:
            _check_range("nucleus", self.nucleus, low=_LEAST, high=1, remedy="Use None to turn it off.")
        _check_range("nucleus_temperature", self.nucleus_temperature, low=_LEAST)

    @property
    def active_guards(self) -> dict[str, float]:
        """The guards that are on, by name."""
        guards = {"plausibility": self.plausibility} if self.plausibility > 0 else {}
        if self.max_kl is not None:
            guards["max_kl"] = self.max_kl
        if self.nucleus is not None:
            guards |= {"nucleus": self.nucleus, "nucleus_temperature": self.nucleus_temperature}
        return guards

    def without_guards(self, guidance_scale: float | None = None) -> "RealignmentConfig":
        """The same without guards, at another guidance scale if one is given."""
        scale = self.guidance_scale if guidance_scale is None else guidance_scale
        return RealignmentConfig(guidance_scale=scale, plausibility=0.0)

    @classmethod
    def amulet(
        cls,
        *,
        alpha: float = 2.0,
        lam: float = 2.0,
        eta: float = 10.0,
        num_iterations: int = 60,
        plausibility: float = _DEFAULT_PLAUSIBILITY,
        max_kl: float | None = None,
    ) -> "RealignmentConfig":
        """Amulet by the paper's parameters α, λ, η and T, with our guards."""
        w = guidance_scale(alpha=alpha, lam=lam, eta=eta, num_iterations=num_iterations)
        return cls(guidance_scale=w, plausibility=plausibility, max_kl=max_kl)

    @classmethod
    def paper(cls) -> "RealignmentConfig":
        """Amulet exactly as published: w = 5.648699 and no guards."""
        return cls.amulet(plausibility=0.0)

    @classmethod
    def linear_alignment(
        cls, ratio: float, *, nucleus: float | None = None, nucleus_temperature: float = 1.0
    ) -> "RealignmentConfig":
        """Linear Alignment (Gao et al. 2024) at this ratio: w = 1 + ratio, no guards.

        Its authors' code has ratio 5 with a nucleus of 0.8 at temperature 0.5; the Amulet paper runs ratio 2 without.
        """
        return cls(1 + ratio, plausibility=0.0, nucleus=nucleus, nucleus_temperature=nucleus_temperature)

    @classmethod
    def classifier_free_guidance(cls, guidance_scale: float) -> "RealignmentConfig":
        """Classifier-free guidance (Sanchez et al. 2024), as in transformers' `generate`, no guards."""
        return cls(guidance_scale=guidance_scale, plausibility=0.0)


def realign(  # noqa: PLR0913 - a name for each guard
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
) -> Tensor:
    """Move the base policy along the directions in which the preferences point.

        target:     log q = log π_base + Σ_k g_k (log π_k − log π_base) − log Z,   g_k = w v_k
        reference:  log r = log π_base + Σ_k u_k (log π_k − log π_base) − log Z,
                    u_k = max(g_k, 0) / max(1, Σ_j max(g_j, 0))

    Guards keep the result near the reference, the nearest mix of policies that the model really has. Plausibility β
    allows only tokens with r(x) ≥ β max r; the nucleus, the likeliest that together reach its probability. The trust
    region goes from r towards q, both renormalised over those tokens, along log p_s = (1 − s) log r + s log q − log Z,
    to the largest s ≤ 1 with KL(p_s ‖ r) ≤ `max_kl`.

    A token that is −inf in any stream of non-zero gain is −inf, under r too. A row that would lose all allowed tokens
    so falls back to the uniform policy over them.

    Args:
        base_logits: Next-token logits without preferences, `(..., V)`.
        pref_logits: Next-token logits with one preference, `(..., V)`; with K of them, `(..., K, V)`.
        guidance_scale: w, dimensionless, a number or `(...)`. 0 is the base policy, 1 the prompted one.
        weights: v, dimensionless, `(..., K)`; needed with K streams. Negative weights steer away.
        allowed: Tokens that may be chosen, bool `(..., V)`, say by a grammar. `None` allows all.
        plausibility: β in [0, 1], a number or `(...)`. 0 turns the guard off.
        max_kl: The trust region in nats, a number or `(...)`. `None` or infinity turns the guard off.
        nucleus: A probability in (0, 1], a number or `(...)`. `None` or 1 turns the guard off.
        nucleus_temperature: Of the reference policy whose nucleus is taken, above 0, a number or `(...)`.

    Returns:
        Normalised log-probabilities in nats, `(..., V)`, float32, or float64 if a stream is. At least one is finite in
        every row that allows a token; a row that allows none is all −inf.

    Raises:
        ShapeMismatchError: The streams, weights or allowed tokens do not fit together.
        InvalidParameterError: A number is out of range; w may be from −1e4 to 1e4. Tensors are taken as they are, since
            looking at them would wait for the device.

    References:
        Zhang et al., Amulet, ICLR 2025 (the target, for one preference): https://arxiv.org/abs/2502.19148
        Li et al., Contrastive Decoding, ACL 2023, section 3.3 (plausibility): https://arxiv.org/abs/2210.15097
        Gao et al., Linear Alignment, ICML 2024 (nucleus, in their code): https://arxiv.org/abs/2401.11458
    """
    per_row = {
        "guidance_scale": guidance_scale,
        "plausibility": plausibility,
        "max_kl": max_kl,
        "nucleus": nucleus,
        "nucleus_temperature": nucleus_temperature,
    }
    _check_numbers(per_row)
    _check_shapes(base_logits, pref_logits, weights, allowed, per_row)
    dtype = torch.promote_types(torch.promote_types(base_logits.dtype, pref_logits.dtype), torch.float32)
    # Logits serve as log-policies: what they differ by, one constant per stream, goes into log Z.
    log_base = base_logits.to(dtype)
    log_prefs = (pref_logits.unsqueeze(-2) if weights is None else pref_logits).to(dtype)
    v = log_base.new_ones(1) if weights is None else weights.to(log_base)
    gains = _column(guidance_scale, log_base) * v  # (..., K)

    mix = _Mix(log_base, log_prefs, gains, allowed)
    target = mix.policy(gains)
    if not _is_off(plausibility) or max_kl is not None or nucleus is not None:
        reference = mix.policy(_reference_gains(gains))
        threshold = reference.amax(-1, keepdim=True) + _column(plausibility, reference).log()
        if nucleus is not None:
            column = _column(nucleus_temperature, reference)
            threshold = threshold.maximum(_edge_of_nucleus(reference, _column(nucleus, reference), column))
        target = torch.where(reference >= threshold, target, -math.inf)
        if max_kl is not None:
            target = _within_trust_region(target, reference, _column(max_kl, target))
    return target.log_softmax(-1) if allowed is None else _normalise(target)


def _column(value: float | Tensor, like: Tensor) -> Tensor:
    """One number per row, `(..., 1)`, of the dtype and device of `like`."""
    return torch.as_tensor(value, dtype=like.dtype, device=like.device).unsqueeze(-1)


def _is_off(guard: float | Tensor) -> bool:
    """Whether a guard is off for all rows; a tensor is taken as on, since looking would wait for the device."""
    return not isinstance(guard, Tensor) and guard == 0


class _Mix:
    """Policies on the straight lines from the base policy to the prompted ones, for streams that may hold −inf.

    Args:
        log_base: `(..., V)`.
        log_prefs: `(..., K, V)`.
        gains: Of the target, `(..., K)`: a token counts as impossible where it is so in a stream of non-zero gain.
        allowed: Bool `(..., V)`, or `None`.
    """

    def __init__(self, log_base: Tensor, log_prefs: Tensor, gains: Tensor, allowed: Tensor | None) -> None:
        self._barrier: Tensor | None = None  # 0 or −inf, (..., V)
        self._alive: Tensor | None = None  # 1 per row, or 0 where only the allowed tokens count, (..., 1)
        base, prefs = log_base, log_prefs
        if allowed is not None or not _is_surely_finite(log_base, log_prefs):
            # 0 in place of -inf keeps sums finite; the barrier stands where the value was replaced.
            base, prefs = (stream.nan_to_num(nan=math.nan, neginf=0.0) for stream in (log_base, log_prefs))
            barrier = (log_base - base).maximum(_open_at_zero(1 - gains.sum(-1)))
            for k in range(gains.shape[-1]):
                stream = (log_prefs - prefs)[..., k, :]
                barrier = barrier + stream.maximum(_open_at_zero(gains[..., k]))
            self._barrier, self._alive = _allow(barrier, allowed)
        self._base = base
        self._directions = (prefs - base.unsqueeze(-2)).unbind(-2)  # K of (..., V)

    def policy(self, gains: Tensor) -> Tensor:
        """Log π_base + Σ_k g_k d_k, not normalised, `(..., V)`; no matrix product, which autocast and TF32 round."""
        mixed = self._base
        for gain, direction in zip(gains.unsqueeze(-1).unbind(-2), self._directions, strict=True):
            mixed = torch.addcmul(mixed, gain, direction)
        if self._barrier is None or self._alive is None:
            return mixed
        return mixed * self._alive + self._barrier


def _is_surely_finite(*streams: Tensor) -> bool:
    """Whether all logits are finite, where looking costs no wait for the device; if so, most of the work falls away."""
    return all(stream.device.type == "cpu" and math.isfinite(stream.sum().item()) for stream in streams)


def _open_at_zero(gain: Tensor) -> Tensor:
    """0 for a stream that does not count, which lifts its barrier; else −inf, `(..., 1)`."""
    return torch.where(gain == 0, 0.0, -math.inf).unsqueeze(-1)


def _reference_gains(gains: Tensor) -> Tensor:
    """u_k = max(g_k, 0) / max(1, Σ_j max(g_j, 0)): the gains of the nearest mix of policies the model really has."""
    liked = gains.clamp(min=0)
    return liked / liked.sum(-1, keepdim=True).clamp(min=1)


def _allow(barrier: Tensor, allowed: Tensor | None) -> tuple[Tensor, Tensor]:
    """Raise the barrier before tokens that are not allowed, but lift it in rows where it would leave none.

    Returns:
        The barrier, 0 or −inf, `(..., V)`; and 1 per row, or 0 where only the allowed tokens count, `(..., 1)`.
    """
    forbidden = barrier.new_zeros(())
    if allowed is not None:
        forbidden = torch.where(allowed, forbidden, -math.inf)
        barrier = barrier + forbidden
    nothing = barrier.amax(-1, keepdim=True) == -math.inf
    lifted = forbidden + torch.where(nothing, 0.0, -math.inf)
    return barrier.maximum(lifted), (~nothing).to(barrier.dtype)


def _edge_of_nucleus(reference: Tensor, nucleus: Tensor, temperature: Tensor) -> Tensor:
    """The least likely of the likeliest tokens that together reach a probability, `(..., 1)`, as in `reference`."""
    ordered = reference.sort(-1, descending=True).values
    probs = (ordered / temperature).softmax(-1)
    before = probs.cumsum(-1) - probs
    return ordered.masked_fill((before >= nucleus) & (nucleus < 1), math.inf).amin(-1, keepdim=True)


def _within_trust_region(target: Tensor, reference: Tensor, max_kl: Tensor) -> Tensor:
    """The point p_s with the largest s <= 1 within KL(p_s ‖ r) <= max_kl, by bisection: the KL grows with s."""
    places = _possible_places(target)
    log_q, log_r = (target, reference) if places is None else (target.gather(-1, places), reference.gather(-1, places))
    impossible = log_q.isneginf()
    log_r = _normalise(log_r.masked_fill(impossible, -math.inf))
    direction = (_normalise(log_q) - log_r).masked_fill(impossible, 0)

    s = _largest_step(log_r, direction, max_kl, rounds=_FULL_ROUNDS if places is None else _FEW_ROUNDS)
    within = log_r + s * direction
    return within if places is None else torch.full_like(target, -math.inf).scatter(-1, places, within)


def _largest_step(log_r: Tensor, direction: Tensor, max_kl: Tensor, *, rounds: int) -> Tensor:
    """The largest s <= 1 with KL(p_s ‖ r) <= max_kl, `(..., 1)`: each round tries points that divide what is left."""

    def is_within(s: Tensor) -> Tensor:  # (..., P) to bool (..., P)
        unnormalised = log_r.unsqueeze(-2) + s.unsqueeze(-1) * direction.unsqueeze(-2)  # (..., P, V)
        mean_direction = (unnormalised.softmax(-1) * direction.unsqueeze(-2)).sum(-1)
        # KL(p_s ‖ r) = s E_{p_s}[log q − log r] − log Z
        return s * mean_direction - unnormalised.logsumexp(-1) <= max_kl

    num_sections = round(_PRECISION ** (1 / rounds))
    s = torch.zeros_like(log_r[..., :1])
    points = torch.arange(1, num_sections, device=s.device, dtype=s.dtype)
    for step in range(1, rounds + 1):
        width = num_sections**-step
        s = s + width * is_within(s + width * points).sum(-1, keepdim=True)
    return torch.where(is_within(torch.ones_like(s)), 1, s)


def _possible_places(target: Tensor) -> Tensor | None:
    """Where tokens are possible, if they are few, as plausible ones are, and counting costs no wait for the device."""
    if target.device.type != "cpu":
        return None
    num_possible = max(1, int((target > -math.inf).sum(-1).max()))
    return target.topk(num_possible).indices if num_possible <= target.shape[-1] * _FEW else None


def _normalise(log_probs: Tensor) -> Tensor:
    """log_softmax that leaves a row without any token at -inf in place of NaN."""
    nothing = log_probs.amax(-1, keepdim=True) == -math.inf
    return log_probs.log_softmax(-1).where(~nothing, -math.inf)


def _check_numbers(values: Mapping[str, float | Tensor | None]) -> None:
    lowest = {
        "guidance_scale": -MAX_GUIDANCE_SCALE,
        "plausibility": 0.0,
        "max_kl": 0.0,
        "nucleus": _LEAST,
        "nucleus_temperature": _LEAST,
    }
    highest = {"guidance_scale": MAX_GUIDANCE_SCALE, "plausibility": 1.0, "nucleus": 1.0}
    for name, value in values.items():
        is_unlimited = name == "max_kl" and value == math.inf
        if value is not None and not isinstance(value, Tensor) and not is_unlimited:
            _check_range(name, value, low=lowest[name], high=highest.get(name, math.inf))


def _check_shapes(
    base: Tensor,
    pref: Tensor,
    weights: Tensor | None,
    allowed: Tensor | None,
    rows: dict[str, float | Tensor | None],
) -> None:
    *batch, vocab = base.shape
    streams = [] if weights is None else [weights.shape[-1]]
    expected = {"pref_logits": (*batch, *streams, vocab), "weights": (*batch, *streams), "allowed": base.shape}
    given = {"pref_logits": pref, "weights": weights, "allowed": allowed}
    # One number for all rows is fine, be it a float or a tensor without dimensions.
    per_row = {name: value for name, value in rows.items() if isinstance(value, Tensor) and value.dim()}
    for name, tensor in {**given, **per_row}.items():
        shape = expected.get(name, tuple(batch))
        if tensor is not None and tuple(tensor.shape) != tuple(shape):
            msg = (
                f"{name} has shape {tuple(tensor.shape)}; with base_logits {tuple(base.shape)} it must be "
                f"{tuple(shape)}. K preference streams are pref_logits (..., K, V) with weights (..., K)."
            )
            raise ShapeMismatchError(msg)
