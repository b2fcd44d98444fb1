"""Amulet's loop of T iterations, reduced to one scalar."""

from langchain_amulet.exceptions import InvalidParameterError
from langchain_amulet.realignment.ranges import MAX_GUIDANCE_SCALE, check_range

_MAX_ITERATIONS = 1_000_000


def guidance_scale(*, alpha: float, lam: float, eta: float, num_iterations: int) -> float:
    """Return the guidance scale that is equivalent to Amulet's T-step loop.

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
    check_range("alpha", alpha, low=0)
    check_range("lam", lam, low=0)
    check_range("eta", eta, low=0)
    if eta == 0:
        msg = "eta is a learning rate and must be above 0, got 0. The paper uses 10."
        raise InvalidParameterError(msg)
    if not isinstance(num_iterations, int) or not 0 <= num_iterations <= _MAX_ITERATIONS:
        msg = f"num_iterations must be a whole number from 0 to {_MAX_ITERATIONS}, got {num_iterations!r}."
        raise InvalidParameterError(msg)
