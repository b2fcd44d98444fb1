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

    They have to be equal in float32 and float64 alone. In half precision, rounding moves those of a short prompt as far
    as a wrong mask does; there they only have to be nearer to them than to those of the last token by itself, which is
    what a model gives that takes no notice of its cache.

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
    similarity = _similarity(ours, theirs)
    least = torch.full_like(similarity, _MIN_SIMILARITY)
    if ours.dtype not in (torch.float32, torch.float64):
        alone = [model(torch.tensor([ids[-1:]], device=model.device), use_cache=False) for ids in prompts]
        least = _similarity(ours, torch.stack([output.logits[0, -1] for output in alone]))
    if bool((similarity >= least).all()):  # which NaN is not
        return None
    return f"its logits differ (cosine similarity {similarity.min().item():.3f})"


def _similarity(a: Tensor, b: Tensor) -> Tensor:
    return torch.cosine_similarity(a.cpu().double(), b.cpu().double(), dim=-1)
