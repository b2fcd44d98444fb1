"""Chat models for the fuzzer: tiny random models of several architectures behind several chat templates."""

import copy
from functools import cache
from typing import Any

import torch
from transformers import AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerFast

from langchain_amulet import ChatAmulet
from langchain_amulet.engine.config import EngineConfig
from tests.fakes.chat_templates import TEMPLATES, byte_tokenizer
from tests.fakes.models import CONFIGS
from tests.fakes.tool_templates import FAMILIES, tool_tokenizer

CONTEXT = 1500  # tokens; the tools of some templates take a thousand
PRESSED_TOKENS = 1800  # over all rows
KINDS = {  # the architecture, and whose chat template
    "llama": "smollm2",
    "qwen2": "qwen2.5",
    "qwen3": "qwen3",
    "mistral": "mistral",
    "gemma3": "gemma2",
    "phi3": "llama3.1",
    "gpt_neox": "thinking",
}
RECURRENT = "mamba"  # its rows cannot be batched


@cache
def weights_of(architecture: str) -> PreTrainedModel:
    """Return a random model of one or two layers, in float64."""
    with torch.random.fork_rng():
        torch.manual_seed(7)
        config = CONFIGS[architecture]() if architecture in CONFIGS else _mamba()
        config.num_hidden_layers = 1 if architecture == "mamba" else 2
        config.max_position_embeddings = CONTEXT
        if architecture != RECURRENT and getattr(config, "layer_types", None):
            config.layer_types = config.layer_types[:2]
        return AutoModelForCausalLM.from_config(config).to(torch.float64).eval()


def _mamba() -> Any:
    from transformers import MambaConfig

    ends = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    return MambaConfig(vocab_size=300, hidden_size=32, state_size=4, initializer_range=0.4, **ends)


@cache
def tokenizer_of(kind: str) -> PreTrainedTokenizerFast:
    """Return the tokenizer with the template of a kind of model."""
    family = KINDS.get(kind, "llama3.1")
    return tool_tokenizer(family) if family in FAMILIES and family != "mistral" else byte_tokenizer(TEMPLATES[family])


def pressed(kind: str, num_tokens: int = PRESSED_TOKENS) -> EngineConfig:
    """Return limits under which requests wait, lose their rows and share a prefix cache of a few rows."""
    row = _bytes_per_token(weights_of(kind).config)
    return EngineConfig(
        max_rows=9,
        max_waiting=2,
        cache_bytes=num_tokens * row,
        prefix_cache_bytes=300 * row,
        prefill_tokens=29,
    )


def _bytes_per_token(config: Any) -> int:
    heads = getattr(config, "num_key_value_heads", None) or getattr(config, "num_attention_heads", 1)
    return int(2 * config.num_hidden_layers * heads * 8 * 8)  # keys and values, heads of size 8, float64


def fuzzed_llm(kind: str, config: EngineConfig | None = None, **fields: Any) -> ChatAmulet:
    """Return a chat model with an engine of its own."""
    weights = copy.deepcopy(weights_of(kind))
    return ChatAmulet(model=weights, tokenizer=tokenizer_of(kind), engine_config=config, **fields)
