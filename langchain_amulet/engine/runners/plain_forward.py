"""Forwards of a model without a cache and without rows."""

import inspect
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

_CHUNK = 64  # tokens; float32 log-probabilities over the vocabulary exist for so many at once


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
    targets = input_ids[0, -num_tokens:].to(logits.device)
    chunks = [
        chunk.float().log_softmax(-1).gather(-1, wanted.unsqueeze(-1)).squeeze(-1)
        for chunk, wanted in zip(torch.split(logits, _CHUNK), torch.split(targets, _CHUNK), strict=True)
    ]
    return torch.cat(chunks).cpu()
