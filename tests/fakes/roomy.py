"""A ChatAmulet with a tiny random model whose context is long enough for descriptions of tools."""

import copy
from functools import cache
from itertools import pairwise
from typing import Any

import torch
from langchain_core.messages import AIMessage
from torch import nn
from transformers import AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerFast, Qwen2Config

from langchain_amulet import ChatAmulet, RealignmentConfig
from tests.fakes.chat_templates import byte_tokenizer
from tests.fakes.models import GROUPED
from tests.fakes.tool_templates import FAMILIES, tool_tokenizer

PREFERENCE = "Be brief."


@cache
def roomy_model() -> PreTrainedModel:
    """One layer, for speed."""
    with torch.random.fork_rng():
        torch.manual_seed(5)
        config = Qwen2Config(**{**GROUPED, "max_position_embeddings": 4096, "num_hidden_layers": 1})
        return AutoModelForCausalLM.from_config(config).to(torch.float64).eval()


@cache
def tokenizer_of(family: str) -> PreTrainedTokenizerFast:
    """Return the tokenizer of a family that supports tools; for any other name, SmolLM2's, which does not."""
    return tool_tokenizer(family) if family in FAMILIES else byte_tokenizer()


def roomy_chat(family: str = "smollm2", **fields: Any) -> ChatAmulet:
    """Return a chat model with a preference and a guidance scale of 3."""
    settings = {"max_tokens": 90, "preference": PREFERENCE, "realignment": RealignmentConfig(guidance_scale=3.0)}
    return ChatAmulet(model=roomy_model(), tokenizer=tokenizer_of(family), **{**settings, **fields})


def without_ids(message: AIMessage) -> tuple:
    """Return the content of a message without ids, which differ between calls."""
    calls = [(call["name"], call["args"]) for call in message.tool_calls]
    invalid = [(call["name"], call["args"]) for call in message.invalid_tool_calls]
    reasoning = message.additional_kwargs.get("reasoning_content")
    return message.text, reasoning, calls, invalid, message.response_metadata, message.usage_metadata


def saying(tokens: list[int], *, after: int) -> PreTrainedModel:
    """Return a model that generates these tokens, which all differ, after the token `after`."""
    model = copy.deepcopy(roomy_model())
    follows = dict(pairwise([after, *tokens]))
    input_ids: list[torch.Tensor] = []

    def record(_module: nn.Module, arguments: tuple[torch.Tensor]) -> None:
        input_ids[:] = arguments

    def force(_module: nn.Module, _arguments: object, logits: torch.Tensor) -> torch.Tensor:
        logits = logits.clone()
        last = input_ids[0][:, -logits.shape[1] :]
        for row, column in torch.cartesian_prod(*map(torch.arange, last.shape)).tolist():
            if (token_id := follows.get(int(last[row, column]))) is not None:
                logits[row, column, token_id] = 1000.0
        return logits

    model.get_input_embeddings().register_forward_pre_hook(record)
    model.lm_head.register_forward_hook(force)
    return model
