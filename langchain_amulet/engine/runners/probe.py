"""What is tried on a model before it is served."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from transformers import PreTrainedModel

_MIN_SIMILARITY = 0.999  # cosine; a wrong mask or position gives less, rounding in float32 far more
_MIN_SIMILARITY_HALF = 0.99  # rounding in bfloat16 gives 0.99999 on SmolLM2
# Of a few tokens, the first alone, models make so much that rounding in half precision may turn their logits around.
_LENGTHS = (32, 20)

# What models raise that do not take what they are given.
_MISFITS = (AssertionError, AttributeError, IndexError, RuntimeError, TypeError, ValueError)


@torch.inference_mode()
def explain_mismatch(
    model: PreTrainedModel, prompts: Sequence[Sequence[int]], next_logits: Callable[[], Tensor]
) -> str | None:
    """Compare logits with those of the model's own forward, without a cache; `None` if they agree.

    Args:
        model: Any causal language model.
        prompts: Token ids, each of a row.
        next_logits: Computes logits of the token after each, `(prompts, V)`, in the way that is to be tried.
    """
    try:
        outputs = [model(torch.tensor([ids], device=model.device), use_cache=False) for ids in prompts]
        theirs = torch.stack([output.logits[0, -1] for output in outputs])
        ours = next_logits()
    except torch.OutOfMemoryError:
        raise
    except _MISFITS as error:
        return f"it raises {type(error).__name__}: {error}"
    similarity = torch.cosine_similarity(ours.cpu().double(), theirs.cpu().double(), dim=-1).min().item()
    is_exact = ours.dtype in (torch.float32, torch.float64)
    if similarity >= (_MIN_SIMILARITY if is_exact else _MIN_SIMILARITY_HALF):  # which NaN is not
        return None
    return f"its logits differ (cosine similarity {similarity:.3f})"


def probe_prompts(vocab_size: int, max_context: int) -> list[list[int]]:
    """Two prompts of different length, of tokens from all over the vocabulary."""
    return [
        [(101 + 37 * i + n) % vocab_size for i in range(min(length, max_context))] for n, length in enumerate(_LENGTHS)
    ]
