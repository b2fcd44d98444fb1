"""Converts GGUF files to safetensors, and caches the result in the user's cache directory."""

import copy
import hashlib
import importlib.util
import logging
from contextlib import ExitStack
from pathlib import Path

import platformdirs
import torch
from safetensors import SafetensorError
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from langchain_amulet.exceptions import ModelLoadError
from langchain_amulet.models import conversion_cache

logger = logging.getLogger(__name__)

_NOT_CACHED = "Cannot cache the converted weights of %s, so each load converts them again: %s"

MAX_CONVERTED_BYTES = 2**31
"""Larger files are dequantised on every load, because their converted weights would take too much disk space."""


def check_gguf_installed() -> None:
    """Raise a `ModelLoadError` if the packages that read GGUF files are not installed."""
    missing = [name for name in ("gguf", "accelerate") if importlib.util.find_spec(name) is None]
    if missing:
        msg = f"Reading a GGUF file requires {' and '.join(missing)}: pip install 'langchain-amulet[gguf]'."
        raise ModelLoadError(msg)


def converted_folder(path: Path, dtype: torch.dtype, *, reads_all: bool = False) -> Path | None:
    """Return the folder with the converted weights and tokenizer of a GGUF file; convert them on first use.

    A folder whose files have changed since they were written is removed, and the file is converted anew.

    Args:
        path: A GGUF file.
        dtype: The dtype of the converted weights.
        reads_all: Whether to read the files for the check, even those whose size and time of change are as noted.

    Returns:
        The folder, or `None` if the file is larger than `MAX_CONVERTED_BYTES` or the cache directory is not writable.
    """
    if path.stat().st_size > MAX_CONVERTED_BYTES:
        return None
    folder = Path(platformdirs.user_cache_path("langchain-amulet")) / "gguf" / _folder_name(path, dtype)
    if conversion_cache.is_intact(folder, reads_all=reads_all):
        return folder
    with ExitStack() as stack:
        try:
            stack.enter_context(conversion_cache.locked(folder.parent))
            if conversion_cache.is_intact(folder, reads_all=reads_all):  # another process has converted it meanwhile
                return folder
            conversion_cache.remove(folder)
            draft = stack.enter_context(conversion_cache.draft_of(folder))
        except OSError as error:
            logger.warning(_NOT_CACHED, path, error)
            return None
        model, tokenizer = _without_quantization(_dequantise(path, dtype)), _tokenizer(path)
        try:
            model.save_pretrained(draft)
            tokenizer.save_pretrained(draft)
            conversion_cache.publish(draft, folder)
        except (OSError, SafetensorError) as error:  # a full disk is a SafetensorError
            logger.warning(_NOT_CACHED, path, error)
            return None
    return folder


def _folder_name(path: Path, dtype: torch.dtype) -> str:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return f"{digest[:32]}-{str(dtype).removeprefix('torch.')}"


def _tokenizer(path: Path) -> PreTrainedTokenizerBase:
    tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    return tokenizer


def _dequantise(path: Path, dtype: torch.dtype) -> PreTrainedModel:
    model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=dtype)
    return model


def _without_quantization(model: PreTrainedModel) -> PreTrainedModel:
    """Return a model with the same weights but no quantization config, with which transformers refuses to save it."""
    config = copy.deepcopy(model.config)
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    with torch.device("meta"):
        plain: PreTrainedModel = AutoModelForCausalLM.from_config(config, dtype=model.dtype)
    plain.load_state_dict(model.state_dict(), assign=True)
    plain.tie_weights()
    plain.generation_config = model.generation_config
    return plain
