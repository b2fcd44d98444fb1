"""Files of an evaluation, and concurrent execution."""

import errno
import json
import os
import threading
import time
from unittest.mock import Mock

import pytest
from hypothesis import given
from hypothesis import strategies as st

from langchain_amulet.evaluation.runs.answer import Answer, answer_key
from langchain_amulet.evaluation.runs.folder import JsonlRecords, RunFolder, locked
from langchain_amulet.evaluation.runs.parallel import in_parallel
from langchain_amulet.exceptions import RunError


class KilledError(BaseException):
    """Raised in place of a signal."""


def test_records_survive_any_text_and_any_truncation(tmp_path):
    path, many = tmp_path / "r.jsonl", ["a\u2028b\x85c", "\u00e9\u4f60\ud800", '"\n|']
    for i, text in enumerate(many):
        JsonlRecords(path).append({"key": str(i), "text": text})
    content = path.read_bytes()
    for cut in range(len(content) + 1):
        path.write_bytes(content[:cut])
        again = JsonlRecords(path)
        assert len(again) == content[:cut].count(b"\n")
        for i, text in enumerate(many):
            again.append({"key": str(i), "text": text})
        assert path.read_bytes() == content
    assert [record["text"] for record in JsonlRecords(path)] == many


@given(
    st.lists(
        st.tuples(*[st.text('ab|@"', max_size=3)] * 4, st.sampled_from([0.1234567, 0.12345671])),
        min_size=2,
        unique=True,
    )
)
def test_keys_are_equal_only_for_equal_fields(fields):
    assert len({answer_key(*each) for each in fields}) == len(fields)


def test_after_a_failure_no_call_starts_and_calls_in_progress_complete():
    begun, gate = [], threading.Event()

    def work(number):
        begun.append(number)
        if number == 0:
            gate.wait(5)
            raise KilledError
        if number == 1:
            gate.set()
            time.sleep(0.05)  # in progress when 0 fails
        return number

    results = in_parallel(work, range(100), 2)
    assert next(results) == 1
    with pytest.raises(KilledError):
        next(results)
    assert len(begun) <= 3


def test_every_item_is_processed_once_within_the_limit():
    lock, running, most = threading.Lock(), 0, 0

    def work(number):
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        time.sleep(0.001)
        with lock:
            running -= 1
        return number

    assert sorted(in_parallel(work, range(50), 3)) == [*range(50)]
    assert most == 3
    assert [*in_parallel(work, [], 3)] == []


def test_the_file_format_of_answers_is_stable():
    record = {
        "key": '["w=1", "two", "a", "concise", 0.0]', "run": "w=1", "dataset": "two", "sample_id": "a",
        "question": "Why?", "dimension": "concise", "preference": "Be brief.", "temperature": 0.0, "text": "So.",
        "num_tokens": 2, "finish_reason": "stop", "seconds": 1.0,
    }  # fmt: skip
    answer = Answer.from_record(record)
    assert answer.decoding_key == "w=1"
    assert answer.as_record() == record
    assert answer.key == answer_key("w=1", "two", "a", "concise", 0.0)


# Full disks, interrupts, and files of others


@pytest.mark.parametrize("failure", [OSError(errno.ENOSPC, "No space left on device"), KilledError()])
def test_record_that_cannot_be_written_leaves_no_part_and_others_follow(tmp_path, monkeypatch, failure):
    records = JsonlRecords(tmp_path / "r.jsonl")
    records.append({"key": "a"})
    monkeypatch.setattr(os, "fsync", Mock(side_effect=[failure, None]))
    with pytest.raises((RunError, KilledError)):
        records.append({"key": "b"})
    assert "b" not in records
    records.append({"key": "c"})
    assert [record["key"] for record in JsonlRecords(tmp_path / "r.jsonl")] == ["a", "c"]


def test_full_disk_is_named_with_the_file_and_the_remedy(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "fsync", Mock(side_effect=OSError(errno.ENOSPC, "No space left on device")))
    with pytest.raises(RunError, match=r"Cannot write .*r.jsonl: No space left.*Make room"):
        JsonlRecords(tmp_path / "r.jsonl").append({"key": "a"})
    with pytest.raises(RunError, match=r"Cannot write .*manifest.json"):
        RunFolder(tmp_path / "run", {})
    assert [*(tmp_path / "run").iterdir()] == [], "no draft is left"


def test_folder_that_is_a_file_is_refused(tmp_path):
    (tmp_path / "run").touch()
    with pytest.raises(RunError, match="Cannot write"), locked(tmp_path / "run"):
        pass
    with pytest.raises(RunError, match="Cannot write"):
        RunFolder(tmp_path / "run", {})


FOREIGN = ["[]", "1", '"x"', "{}", '{"config": {}}', '{"config": [], "environments": []}', "[" * 100_000, '[["a", 1]]']


@pytest.mark.parametrize("text", FOREIGN)
def test_manifest_of_something_else_is_refused(tmp_path, text):
    (tmp_path / "manifest.json").write_text(text, "utf-8")
    with pytest.raises(RunError, match="manifest"):
        RunFolder(tmp_path, {})


@pytest.mark.parametrize(
    "line", ["[]", "1", "null", '"key"', "{}", '{"key": "a"}', '{"key": ["a"], "score": 1}', "[" * 100_000, "\0"]
)
def test_line_that_is_no_record_is_named(tmp_path, line):
    path = tmp_path / "r.jsonl"
    path.write_text(json.dumps({"key": "x", "score": None}) + "\n" + line + "\n", "utf-8")
    with pytest.raises(RunError, match="line 2 is damaged"):
        JsonlRecords(path, ["score"])
