"""Converts GGUF files to safetensors, and caches the result in the user's cache directory."""

import copy
import hashlib
import importlib.util
import logging
import shutil
import tempfile
from pathlib import Path

import platformdirs
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from langchain_amulet.exceptions import ModelLoadError

logger = logging.getLogger(__name__)

MAX_CONVERTED_BYTES = 2**31
"""Larger files are dequantised on every load, because their converted weights would take too much disk space."""


def check_gguf_installed() -> None:
    """Raise a `ModelLoadError` if the packages that read GGUF files are not installed."""
    missing = [name for name in ("gguf", "accelerate") if importlib.util.find_spec(name) is None]
    if missing:
        msg = f"Reading a GGUF file requires {' and '.join(missing)}: pip install 'langchain-amulet[gguf]'."
        raise ModelLoadError(msg)


def converted_folder(path: Path, dtype: torch.dtype) -> Path | None:
    """Return the folder with the converted weights and tokenizer of a GGUF file; convert them on first use.

    Args:
        path: A GGUF file.
        dtype: The dtype of the converted weights.

    Returns:
        The folder, or `None` if the file is larger than `MAX_CONVERTED_BYTES` or the cache directory is not writable.
    """
    if path.stat().st_size > MAX_CONVERTED_BYTES:
        return None
    folder = Path(platformdirs.user_cache_path("langchain-amulet")) / "gguf" / _folder_name(path, dtype)
    if not folder.is_dir():
        try:
            _convert(path, dtype, folder)
        except OSError as error:
            logger.warning(
                "Cannot cache the converted weights of %s, so each load converts them again: %s", path, error
            )
            return None
    return folder


def _folder_name(path: Path, dtype: torch.dtype) -> str:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return f"{digest[:32]}-{str(dtype).removeprefix('torch.')}"


def _convert(path: Path, dtype: torch.dtype, folder: Path) -> None:
    """Convert into a temporary folder and rename it, so that other processes never see an incomplete folder."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(prefix=f"{folder.name}.", dir=folder.parent))
    try:
        _without_quantization(_dequantise(path, dtype)).save_pretrained(draft)
        AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name).save_pretrained(draft)
        draft.rename(folder)
    except OSError:
        if not folder.is_dir():  # otherwise another process has written the same content
            raise
    finally:
        shutil.rmtree(draft, ignore_errors=True)


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
