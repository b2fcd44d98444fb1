"""Forwards of a model without a cache and without rows."""

import inspect
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

_CHUNK = 64  # tokens; float32 logits over the vocabulary exist for so many at once
_CPU_CHUNK = 1  # fits into the cache of a CPU: 4 times as fast as 64


def logits_to_keep(model: PreTrainedModel, positions: int | Tensor) -> dict[str, Any]:
    """Return the keyword argument that limits the logits to some positions; empty if the model does not accept it.

    Args:
        model: Any causal language model.
        positions: The number of last positions, or the indices of positions.
    """
    is_supported = "logits_to_keep" in inspect.signature(model.forward).parameters
    return {"logits_to_keep": positions} if is_supported else {}


@torch.inference_mode()
def token_log_probs(model: PreTrainedModel, prompt: Sequence[int], token_ids: Sequence[int]) -> Tensor:
    """Return the log-probability of each token of a text after a prompt, in one forward.

    Args:
        model: Any causal language model.
        prompt: Token ids, at least one.
        token_ids: Token ids of the text, at least one.

    Returns:
        Log-probabilities in nats, `(tokens,)`, float32 on the CPU.
    """
    num_tokens = len(token_ids)
    input_ids = torch.tensor([[*prompt, *token_ids]], device=model.device)
    output = model(input_ids, use_cache=False, **logits_to_keep(model, num_tokens + 1))
    logits = output.logits[0, -num_tokens - 1 : -1]  # (tokens, V); the last logits predict the token after the text
    return log_probs_of(logits, input_ids[0, -num_tokens:].to(logits.device)).cpu()


def log_probs_of(logits: Tensor, targets: Tensor) -> Tensor:
    """Return the log-probabilities of tokens in nats, `(tokens,)`, float32, a few at a time to save memory.

    Args:
        logits: `(tokens, V)`.
        targets: Token ids, `(tokens,)`, on the same device.
    """
    size = _CPU_CHUNK if logits.device.type == "cpu" else _CHUNK
    parts = zip(torch.split(logits, size), torch.split(targets, size), strict=True)
    return torch.cat([_log_probs_of(part.float(), wanted) for part, wanted in parts])


def _log_probs_of(logits: Tensor, targets: Tensor) -> Tensor:
    return logits.gather(-1, targets.unsqueeze(-1)).squeeze(-1) - logits.logsumexp(-1)
