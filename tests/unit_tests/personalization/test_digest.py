"""The keyed digest of preferences, and its key."""

import json
import secrets
import stat
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import platformdirs
import pytest

from langchain_amulet.opposites import lookup
from langchain_amulet.personalization import digest
from langchain_amulet.personalization.resolved import resolve
from langchain_amulet.preferences import Preference


def test_digest_is_the_same_in_another_process_and_kept_from_others():
    script = "from langchain_amulet.personalization.resolved import resolve; print(resolve('a'))"
    output = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    assert output.strip() == repr(resolve("a"))
    key = platformdirs.user_data_path("langchain-amulet") / "digest.key"
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    assert len(key.read_bytes()) == 32


def test_digest_depends_on_the_key(monkeypatch):
    before = repr(resolve("a"))
    monkeypatch.setattr(digest, "_digest_key", lambda: b"another key")
    assert repr(resolve("a")) != before


def test_key_is_this_processs_own_where_it_cannot_be_kept(monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(platformdirs, "user_data_path", lambda _: tmp_path / "file" / "folder")
    one, other = digest._stored_or_temporary_key(), digest._stored_or_temporary_key()
    assert len(one) == len(other) == 32
    assert one != other


def test_first_key_written_stands(tmp_path):
    path = tmp_path / "digest.key"
    first = digest._read_or_create_key(path)
    assert digest._read_or_create_key(path) == first
    assert [p.name for p in tmp_path.iterdir()] == ["digest.key"]


@pytest.mark.parametrize("content", [b"", b"short", b"x" * 33, bytes(32)], ids=["empty", "short", "long", "zeros"])
def test_damaged_key_is_not_used(monkeypatch, tmp_path, caplog, content):
    (tmp_path / "digest.key").write_bytes(content)
    monkeypatch.setattr(platformdirs, "user_data_path", lambda _: tmp_path)
    key = digest._stored_or_temporary_key()
    assert len(key) == 32
    assert any(key)
    assert f"it holds {len(content)} bytes that are no key of 32; delete the file" in caplog.text


def test_folder_in_place_of_the_key_gives_a_temporary_key(monkeypatch, tmp_path, caplog):
    (tmp_path / "digest.key").mkdir()
    monkeypatch.setattr(platformdirs, "user_data_path", lambda _: tmp_path)
    assert len(digest._stored_or_temporary_key()) == 32
    assert "will not outlive this process" in caplog.text


def test_unknown_home_writes_no_key_into_the_working_directory(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(platformdirs, "user_data_path", lambda _: Path("~/.local/share/langchain-amulet"))
    assert len(digest._stored_or_temporary_key()) == 32
    assert [*tmp_path.iterdir()] == []


def test_threads_that_make_the_key_at_once_get_the_same(monkeypatch):
    both_started = threading.Barrier(2)

    def slow() -> bytes:
        both_started.wait(10)
        return secrets.token_bytes(32)

    monkeypatch.setattr(digest, "_key", {})
    monkeypatch.setattr(digest, "_stored_or_temporary_key", slow)
    with ThreadPoolExecutor(2) as threads:
        first, second = threads.map(lambda _: digest._digest_key(), range(2))
    assert first == second


def test_digest_covers_opposites_as_they_apply():
    plain, empty, opposed, other = (
        repr(resolve(Preference("Rhyme.", opposite=opposite))) for opposite in (None, "", "Write prose.", "Sing.")
    )
    assert plain == empty
    assert len({plain, opposed, other}) == 3
    assert repr(resolve(Preference("Be formal.", opposite="Be casual."))) == repr(resolve("Be formal."))


def test_digest_changes_with_the_table_of_opposites(monkeypatch):
    before = repr(resolve("Be formal."))
    monkeypatch.setattr(lookup, "adjective_opposite", lambda _: "Use slang.")
    assert repr(resolve("Be formal.")) != before


def test_digest_of_preferences_without_opposites_is_that_of_earlier_versions():
    content = json.dumps([1, ["I am vegan.", 1.0], ["Rhyme.", 0.5]])
    assert resolve([Preference("I am vegan."), Preference("Rhyme.", 0.5)]).digest == digest._hmac(content)
