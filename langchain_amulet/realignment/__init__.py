"""The mathematics of realignment: pure functions over next-token logits.

Amulet runs T iterations of Follow-the-Regularized-Leader for every token. Each iterate is an affine mixture of two
log-policies, so the whole loop reduces to one number, the guidance scale w:

    log π = log π_base + w · (log π_pref − log π_base) − log Z

Linear Alignment (w = 1 + ratio), Context Steering (w = 1 + λ) and classifier-free guidance (w = guidance_scale) use the
same equation; they differ only in how they choose w. All logarithms are natural, so divergences are in nats.

| Module | Contents |
|---|---|
| `config` | `RealignmentConfig`; each field that is a guard declares its own properties |
| `guard_specs` | what a field of the config declares to be a guard |
| `amulet_loop` | Amulet's loop as the scalar w |
| `coefficients` | `StreamCoefficients`: how much each stream counts, for any contrast |
| `kernel` | `realign()` and `realign_streams()`: the equation and its guards for one batch of logits |
| `mixture` | mixtures of the policies of several streams, with hard zeros |
| `guards` | plausibility and nucleus: which tokens may be chosen |
| `entropy_floor` | the bound on how peaked the realigned policy may be |
| `trust_region` | the bound on the KL divergence from the reference policy |
| `line_search` | the largest step at which a condition holds, for both of them |
| `batched` | the parameters of several configs as tensors, for the engine |
| `comparison` | the realigned policy beside those of single prompts, for traces |
| `ranges` | range checks |

To add a guard: declare its field in `config`, put its mathematics beside the others, and in `kernel` give `realign()`
and `_guards()` a keyword of the same name, which `_guarded()` applies. The engine and the chat model need no change.

References:
    Zhang et al., Amulet, ICLR 2025: https://arxiv.org/abs/2502.19148
    Gao et al., Linear Alignment, ICML 2024: https://arxiv.org/abs/2401.11458
    Sanchez et al., Classifier-free guidance for language models, ICML 2024: https://arxiv.org/abs/2306.17806
"""

from langchain_amulet.realignment.amulet_loop import guidance_scale
from langchain_amulet.realignment.coefficients import StreamCoefficients
from langchain_amulet.realignment.config import RealignmentConfig
from langchain_amulet.realignment.kernel import realign, realign_streams
from langchain_amulet.realignment.ranges import MAX_GUIDANCE_SCALE

__all__ = [
    "MAX_GUIDANCE_SCALE",
    "RealignmentConfig",
    "StreamCoefficients",
    "guidance_scale",
    "realign",
    "realign_streams",
]
