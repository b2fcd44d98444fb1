"""A GGUF file whose conversion yields a tiny model."""

from pathlib import Path

import platformdirs
import pytest
from transformers import AutoTokenizer

from langchain_amulet.models import gguf
from tests.fakes.chat_templates import byte_tokenizer
from tests.fakes.models import tiny_model


@pytest.fixture
def gguf_file(tmp_path, monkeypatch) -> Path:
    """A file whose conversion yields the tiny model: reading real GGUF is tested on the packaged model."""
    monkeypatch.setattr(platformdirs, "user_cache_path", lambda _: tmp_path / "cache")
    monkeypatch.setattr(gguf, "_dequantise", lambda _, dtype: tiny_model(dtype=dtype))
    from_pretrained = AutoTokenizer.from_pretrained

    def tokenizer(source, gguf_file=None, **keywords):
        return byte_tokenizer() if gguf_file else from_pretrained(source, **keywords)

    monkeypatch.setattr(AutoTokenizer, "from_pretrained", tokenizer)
    path = tmp_path / "tiny.gguf"
    path.write_bytes(b"GGUF")
    return path
