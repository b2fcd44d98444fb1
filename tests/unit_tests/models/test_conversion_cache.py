"""The cache of converted weights: damaged, half written, full, not writable, and in use by others."""

import errno
import logging
import os
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from filelock import FileLock
from safetensors import SafetensorError
from transformers import AutoTokenizer, PreTrainedModel

from langchain_amulet import ChatAmulet
from langchain_amulet.exceptions import ModelLoadError
from langchain_amulet.models import conversion_cache, gguf
from langchain_amulet.models.registry import load
from tests.fakes.models import tiny_model

WEIGHTS = "model.safetensors"


@pytest.fixture
def cache(tmp_path) -> Path:
    return tmp_path / "cache" / "gguf"


@pytest.fixture
def conversions(gguf_file, monkeypatch) -> list[Path]:  # noqa: ARG001 - after its patches
    """The files that were converted."""
    paths: list[Path] = []
    convert = gguf._dequantise
    monkeypatch.setattr(gguf, "_dequantise", lambda path, dtype: (paths.append(path), convert(path, dtype))[1])
    return paths


def convert(path: Path) -> Path:
    folder = gguf.converted_folder(path, torch.float32)
    assert folder is not None
    return folder


def truncate(file: Path) -> None:
    os.truncate(file, file.stat().st_size // 2)


def zero_the_end(file: Path) -> None:
    data = file.read_bytes()
    file.write_bytes(data[:-100] + bytes(100))


def flip_a_bit_unnoticed(file: Path) -> None:
    """As a failing disk does: size and time of change stay."""
    before = file.stat()
    data = bytearray(file.read_bytes())
    data[20] ^= 1
    file.write_bytes(data)
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))


@pytest.mark.parametrize("name", [WEIGHTS, "config.json", "tokenizer.json", "amulet.json"])
@pytest.mark.parametrize("damage", [truncate, zero_the_end, flip_a_bit_unnoticed, Path.unlink])
def test_damaged_file_is_named_and_converted_anew(gguf_file, conversions, caplog, name, damage):
    folder = convert(gguf_file)
    damage(folder / name)
    again = load(gguf_file, None, {"dtype": torch.float32}, pack_weights=False).model
    sound = tiny_model(dtype=torch.float32)
    assert all(torch.equal(a, b) for a, b in zip(again.parameters(), sound.parameters(), strict=True))
    assert len(conversions) == 2
    assert f"in {folder} are damaged" in caplog.text
    assert conversion_cache.is_intact(folder, reads_all=True)


def test_copied_folder_is_used_as_it_is(gguf_file, conversions):
    folder = convert(gguf_file)
    for file in folder.iterdir():
        os.utime(file)
    assert convert(gguf_file) == folder
    assert len(conversions) == 1


def test_wrong_argument_removes_nothing(gguf_file, conversions):
    folder = convert(gguf_file)
    with pytest.raises(ModelLoadError, match="no_such_attention"):
        load(gguf_file, None, {"dtype": torch.float32, "attn_implementation": "no_such_attention"})
    assert conversion_cache.is_intact(folder)
    assert len(conversions) == 1


def test_damaged_gguf_is_named_and_not_the_cache(gguf_file, monkeypatch, caplog):
    def fail(*_args):
        raise OSError("not a GGUF file")  # noqa: EM101, TRY003 - as the gguf package says it

    monkeypatch.setattr(gguf, "_dequantise", fail)
    with pytest.raises(ModelLoadError, match="tiny.gguf.*not a GGUF file"):
        load(gguf_file)
    assert "Cannot cache" not in caplog.text


@pytest.mark.parametrize("error", [SafetensorError("I/O error: No space left"), OSError(errno.ENOSPC, "No space left")])
def test_without_room_on_the_disk_the_model_answers_and_one_line_is_logged(
    gguf_file, cache, monkeypatch, caplog, error
):
    def fail(*_args, **_keywords):
        raise error

    monkeypatch.setattr(PreTrainedModel, "save_pretrained", fail)
    direct = []
    monkeypatch.setattr(
        "langchain_amulet.models.sources.AutoModelForCausalLM.from_pretrained",
        lambda location, **keywords: direct.append((location, keywords["gguf_file"])) or tiny_model(),
    )
    assert ChatAmulet(model=gguf_file, max_tokens=2).invoke("Hi").usage_metadata["output_tokens"] <= 2
    assert direct == [(str(gguf_file.parent), "tiny.gguf")]
    lines = [record for record in caplog.records if record.name.startswith("langchain_amulet.models.g")]
    assert ["No space left" in record.getMessage() for record in lines] == [True]
    assert list(cache.iterdir()) == []


@pytest.mark.parametrize("blocked", ["cache", "cache/gguf", "cache/gguf.lock"])
def test_cache_that_cannot_be_written_is_not_used(gguf_file, tmp_path, caplog, blocked):
    path = tmp_path / blocked
    path.parent.mkdir(exist_ok=True)
    path.mkdir() if blocked.endswith("lock") else path.touch()
    assert gguf.converted_folder(gguf_file, torch.float32) is None
    assert [record.levelno for record in caplog.records] == [logging.WARNING]


def test_conversion_that_is_there_is_used_although_the_cache_cannot_be_written(gguf_file, cache, conversions):
    folder = convert(gguf_file)
    lock = cache.with_suffix(".lock")
    lock.unlink(missing_ok=True)
    lock.mkdir()
    assert convert(gguf_file) == folder
    assert len(conversions) == 1


def test_damaged_folder_that_cannot_be_removed_is_not_used(gguf_file, monkeypatch):
    truncate(convert(gguf_file) / WEIGHTS)

    def fail(*_args, **_keywords):
        raise PermissionError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(shutil, "rmtree", fail)
    assert gguf.converted_folder(gguf_file, torch.float32) is None


def test_interrupted_conversion_leaves_no_files(gguf_file, cache, monkeypatch):
    def fail(*_args, **_keywords):
        raise KeyboardInterrupt

    monkeypatch.setattr(AutoTokenizer, "from_pretrained", fail)
    with pytest.raises(KeyboardInterrupt):
        gguf.converted_folder(gguf_file, torch.float32)
    assert list(cache.iterdir()) == []


def test_drafts_of_killed_conversions_are_removed(gguf_file, cache):
    draft = cache / "0123-float32.x1y2.draft"
    draft.mkdir(parents=True)
    (draft / WEIGHTS).write_bytes(b"half")
    folder = convert(gguf_file)
    assert [path.name for path in cache.iterdir()] == [folder.name]


def test_converters_wait_for_each_other_and_convert_once(gguf_file, conversions):
    with ThreadPoolExecutor(4) as pool:
        folders = list(pool.map(convert, [gguf_file] * 4))
    assert len(set(folders)) == len(conversions) == 1


def test_converter_that_waits_uses_what_the_other_has_written(gguf_file, cache, conversions, monkeypatch):
    ready = convert(gguf_file)
    aside = cache.parent / "aside"
    ready.rename(aside)
    waits = threading.Event()
    acquire = FileLock.acquire
    with ThreadPoolExecutor(1) as pool:
        with FileLock(cache.with_suffix(".lock")):
            monkeypatch.setattr(
                FileLock, "acquire", lambda lock, **keywords: (waits.set(), acquire(lock, **keywords))[1]
            )
            waiting = pool.submit(convert, gguf_file)
            assert waits.wait(timeout=60)
            aside.rename(ready)
        assert waiting.result() == ready
    assert len(conversions) == 1


def test_converter_gives_up_waiting_and_goes_on_without_the_cache(gguf_file, cache, monkeypatch, caplog):
    monkeypatch.setattr(conversion_cache, "_LOCK_TIMEOUT_S", 0.01)
    cache.mkdir(parents=True)
    with FileLock(cache.with_suffix(".lock")):
        assert gguf.converted_folder(gguf_file, torch.float32) is None
    assert "Cannot cache" in caplog.text


def test_file_system_without_locks_is_used_without(gguf_file, cache, monkeypatch):
    def fail(*_args, **_keywords):
        raise NotImplementedError

    monkeypatch.setattr(FileLock, "acquire", fail)
    assert convert(gguf_file).parent == cache


def test_conversion_by_another_process_is_used(gguf_file, monkeypatch):
    rename = Path.rename

    def late(draft, folder):
        shutil.copytree(draft, folder)
        return rename(draft, folder)

    monkeypatch.setattr(Path, "rename", late)
    folder = convert(gguf_file)
    assert (folder / "config.json").exists()
    assert len(list(folder.parent.iterdir())) == 1
