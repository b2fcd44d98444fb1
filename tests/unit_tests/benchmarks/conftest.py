"""A tiny random model in a folder, and little memory to read."""

from pathlib import Path

import pytest
import torch

from tests.benchmarks import machine
from tests.fakes.chat_templates import byte_tokenizer
from tests.fakes.models import tiny_model


@pytest.fixture(scope="package")
def model_folder(tmp_path_factory) -> Path:
    folder: Path = tmp_path_factory.mktemp("model")
    model = tiny_model("qwen2", dtype=torch.float32)
    model.config.max_position_embeddings = 2048  # long enough for the benchmarks' prompts, byte by byte
    model.save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture(scope="package", autouse=True)
def _short_buffers():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(machine, "MAX_BUFFER_BYTES", 2**24)
        yield
