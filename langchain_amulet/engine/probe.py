"""What is tried on a model before it is served."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from transformers import PreTrainedModel

_MIN_SIMILARITY = 0.999  # cosine; a wrong mask or position gives less, rounding in float32 far more

# What models raise that do not take what they are given.
_MISFITS = (TypeError, ValueError, RuntimeError, AttributeError, IndexError)


@torch.inference_mode()
def explain_mismatch(
    model: PreTrainedModel, prompts: Sequence[Sequence[int]], next_logits: Callable[[], Tensor]
) -> str | None:
    """Compare logits with those of the model's own forward, without a cache; `None` if they agree.

    They are compared in float32 and float64 alone: in half precision, rounding moves those of a short prompt as far as
    a wrong mask does.

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
    if ours.dtype not in (torch.float32, torch.float64):
        return None
    similarity = torch.cosine_similarity(ours.double(), theirs.double(), dim=-1).min().item()
    # Not `<`, which NaN would pass.
    return None if similarity >= _MIN_SIMILARITY else f"its logits differ (cosine similarity {similarity:.3f})"
