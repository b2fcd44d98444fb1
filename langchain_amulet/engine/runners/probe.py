"""Compares a runner's logits with the model's own forward before the model is served."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from transformers import PreTrainedModel

from langchain_amulet.engine.device_memory import is_out_of_memory

_MIN_SIMILARITY = 0.999  # cosine; below it with a wrong mask or position, far above it with float32 rounding only
_MIN_SIMILARITY_HALF = 0.99  # rounding in bfloat16 gives 0.99999 on SmolLM2
# Not shorter: with very few tokens of context, rounding in half precision may change the logits completely.
_LENGTHS = (32, 20)

# Errors of models that do not accept the arguments of a runner.
_FORWARD_ERRORS = (AssertionError, AttributeError, IndexError, RuntimeError, TypeError, ValueError)


@torch.inference_mode()
def explain_mismatch(
    model: PreTrainedModel, prompts: Sequence[Sequence[int]], next_logits: Callable[[], Tensor]
) -> str | None:
    """Compare logits with those of the model's own forward, without a cache.

    Returns the difference in words, or `None` if they agree.

    Args:
        model: Any causal language model.
        prompts: Token ids of each row.
        next_logits: Computes the logits of the token after each prompt, `(prompts, V)`, as the runner does.

    Raises:
        RuntimeError: The device has too little memory; or a `MemoryError`.
    """
    try:
        outputs = [model(torch.tensor([ids], device=model.device), use_cache=False) for ids in prompts]
        expected = torch.stack([output.logits[0, -1] for output in outputs])
        actual = next_logits()
    except _FORWARD_ERRORS as error:
        if is_out_of_memory(error):  # says nothing about the model
            raise
        return f"it raises {type(error).__name__}: {error}"
    return explain_difference(actual, expected)


def explain_difference(actual: Tensor, expected: Tensor) -> str | None:
    """Return in words how logits, `(B, V)`, differ from those expected; `None` if they agree."""
    similarity = torch.cosine_similarity(actual.cpu().double(), expected.cpu().double(), dim=-1).min().item()
    is_exact = actual.dtype in (torch.float32, torch.float64)
    if similarity >= (_MIN_SIMILARITY if is_exact else _MIN_SIMILARITY_HALF):  # false for NaN
        return None
    return f"its logits differ (cosine similarity {similarity:.3f})"


def probe_prompts(vocab_size: int, max_context: int) -> list[list[int]]:
    """Return two prompts of different lengths, with tokens from the whole vocabulary."""
    return [
        [(101 + 37 * i + n) % vocab_size for i in range(min(length, max_context))] for n, length in enumerate(_LENGTHS)
    ]


def warm_up_prompts(vocab_size: int, max_context: int) -> list[tuple[list[list[int]], int]]:
    """Return prompts of several and of one row, of different lengths, each with a capacity of rows in tokens.

    With all of them, each size that changes while requests come and go has changed at least once.
    """
    long, short = probe_prompts(vocab_size, max_context)
    # The first step is traced: it reads 31 positions, which is unlike any size of a model.
    several, more, one, another = [long[:31], short], [short, long, short[:-2]], [short[:-3]], [long[:-3]]
    return [(several, 2 * max(map(len, several))), (more, 100), (one, 100), (another, 40)]
