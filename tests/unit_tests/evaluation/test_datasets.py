"""Datasets: local files, errors in them, and sets of the hub with a fake loader."""

import json
import sys
from pathlib import Path
from unittest.mock import Mock

import datasets
import pytest

from langchain_amulet.evaluation.questions.datasets import Dataset, Sample, load_dataset
from langchain_amulet.evaluation.questions.dimensions import Dimension
from langchain_amulet.evaluation.scorers.refusals import load_harmful
from langchain_amulet.exceptions import DatasetError, MissingExtraError

GOOD = [{"index": 0, "question": "Why?"}, {"index": 1, "question": "How?"}]


@pytest.mark.parametrize("name", ["q.json", "q.jsonl"])
def test_json_and_jsonl_are_read(tmp_path, name):
    lines = [json.dumps(row) for row in GOOD]
    path = tmp_path / name
    path.write_text("[\n" + ",\n".join(lines) + "\n]\n" if name.endswith("json") else "\n\n".join(lines), "utf-8")
    assert load_dataset(path) == Dataset("q", (Sample("0", "Why?"), Sample("1", "How?")))
    assert load_dataset(str(path)).head(1).samples == (Sample("0", "Why?"),)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[{"index": 0, "question": "a"},\n{"index": 1, "question": }]', "line 2: invalid JSON"),
        ('[{"index": 0, "question": "a"},\n {"index": 1, "question": " "}]', "line 2: the question is empty"),
        ('[{"index": 0, "question": "a"},\n\n {"index": 1, "question": "a"}]', "line 3: duplicate of line 1"),
        ('[{"index": 0, "question": "a"}, {"index": 0, "question": "b"}]', "line 1: duplicate of line 1"),
        ('[{"index": 0, "question": "a"}', "or the end of the list"),
        ('[{"index": 0, "question": "a"},', "invalid JSON"),
        ('[\n{"index": 0, "question": "a"},\n{"index": 1, "question": ""}]', "line 3: the question is empty"),
        ('[{"index": 0, "question": "a"}\n{"index": 1, "question": "b"}]', "line 1: expected a comma"),
        ('[{"index": 0, "question": "a"}]\n[]', "line 1: unexpected text after the list"),
        ('[{"index": 0}]', 'line 1: "question" is missing'),
        ('[{"question": "a"}]', 'line 1: "index" is missing'),
        ('["a"]', 'line 1: "question" is missing'),
        ("[]", "has no questions"),
        ("", "has no questions"),
        ('{"index": 0, "question": "a"}\n{"index": 1\n', "line 2: invalid JSON"),
        ('{"index": 0, "question": "a"}\n\n{"index": 1, "question": "a"}', "line 3: duplicate of line 1"),
        ('{"index": 0, "question": ""}', "line 1: the question is empty"),
        ("[" * 100_000, "JSON that cannot be read"),
        ('{"a": ' * 100_000, "line 1: JSON that cannot be read"),
        ('[{"index": ' + "1" * 5_000 + ', "question": "a"}]', "line 1: JSON that cannot be read"),
        ('{"index": ' + "1" * 5_000 + ', "question": "a"}', "line 1: JSON that cannot be read"),
        ('{"index": 0, "question": "\\ud83d"}', "line 1: the question or index has half of a surrogate pair"),
        ('{"index": "\\udc00", "question": "a"}', "line 1: the question or index has half of a surrogate pair"),
    ],
)
def test_errors_name_the_line(tmp_path, text, message):
    path = tmp_path / "q.json"
    path.write_text(text, "utf-8")
    with pytest.raises(DatasetError, match=message):
        load_dataset(path)


def test_files_that_cannot_be_read_raise(tmp_path, monkeypatch):
    with pytest.raises(DatasetError, match="cannot be read: File name too long"):
        load_dataset("a" * 5_000)
    (tmp_path / "q.json").touch()
    monkeypatch.setattr(Path, "read_text", Mock(side_effect=PermissionError(13, "Permission denied")))
    with pytest.raises(DatasetError, match="cannot be read: Permission denied"):
        load_dataset(tmp_path / "q.json")


def test_an_index_may_equal_the_text_of_a_question(tmp_path):
    path = tmp_path / "q.jsonl"
    path.write_text('{"index": 1, "question": "2"}\n{"index": 2, "question": "a\u2028b"}\n', "utf-8-sig")
    assert load_dataset(path).samples == (Sample("1", "2"), Sample("2", "a\u2028b"))


def test_other_encodings_than_utf8_raise(tmp_path):
    path = tmp_path / "q.jsonl"
    path.write_bytes('{"index": 1, "question": "\u00e9"}'.encode("latin-1"))
    with pytest.raises(DatasetError, match="not UTF-8"):
        load_dataset(path)


@pytest.mark.parametrize(
    "samples", [(Sample("a", " "),), (Sample("a", "x"), Sample("a", "y")), (Sample("a", "x"), Sample("b", "x"))]
)
def test_datasets_from_python_are_checked_too(samples):
    with pytest.raises(DatasetError):
        Dataset("own", samples)


def test_preferences_of_one_question_have_different_names():
    twice = (Dimension("persona", "A sailor."), Dimension("persona", "A monk."))
    with pytest.raises(DatasetError, match="two preferences with the same name"):
        Sample("a", "Why?", twice)


def test_an_unknown_name_lists_the_names():
    with pytest.raises(DatasetError, match="smoke, verifiable, .*, helpsteer"):
        load_dataset("no such set")


def test_packaged_datasets():
    assert len(load_dataset("smoke")) == 40
    assert len(load_harmful()) == 50


HUB = {
    "nvidia/HelpSteer": [{"prompt": "Why?"}, {"prompt": "Why?"}, {"prompt": "How?"}, {"prompt": " "}],
    "openbmb/UltraFeedback": [
        {"source": "ultrachat", "instruction": "Chat."},
        {"source": "truthful_qa", "instruction": "True?"},
        {"source": "sharegpt", "instruction": "Share."},
    ],
    "kkuusou/personal_preference_eval": [
        {
            "domain": "x",
            "question": "Why?",
            **{f"preference_{letter}": f"I am {letter}." for letter in "abcd"},
            **{f"answer_{letter}": f"As {letter}." for letter in "abcd"},
        },
        {"question": "How?", "preference_a": "I am a.", "preference_b": "", "preference_c": None},
    ],
    "siyanzhao/prefeval_explicit": [
        {"question": "Where to?", "preference": "I dislike the sea.", "explanation": "Beaches."},
        {"question": "What now?", "preference": "I am tired.", "explanation": "Sleep."},
        {"question": "Where to?", "preference": "I love museums.", "explanation": "Art."},
    ],
}


@pytest.fixture
def hub(monkeypatch):
    def load(path, config, *, split):
        assert (config, split) == (None, "train")
        return HUB[path]

    monkeypatch.setattr(datasets, "load_dataset", load)


@pytest.mark.usefixtures("hub")
def test_hub_datasets():
    def questions(name):
        return [sample.question for sample in load_dataset(name).samples]

    assert questions("helpsteer") == ["Why?", "How?"]
    assert questions("truthful_qa") == ["True?"]
    assert questions("ultrachat") == ["Chat."]
    assert questions("ultrafeedback") == ["Chat.", "True?", "Share."]
    assert [sample.id for sample in load_dataset("helpsteer").samples] == ["0", "2"]
    all_four, only_a = load_dataset("personal").samples
    assert [each.text for each in all_four.preferences] == ["I am a.", "I am b.", "I am c.", "I am d."]
    assert [each.name for each in only_a.preferences] == ["persona a"]
    where, now = load_dataset("prefeval").samples
    assert [each.text for each in where.preferences] == ["I dislike the sea.", "I love museums."]
    assert len({each.name for each in where.preferences}) == 2
    assert [each.text for each in now.preferences] == ["I am tired."]


@pytest.mark.parametrize("name", ["helpsteer", "truthful_qa", "ultrafeedback", "personal", "prefeval"])
def test_a_hub_dataset_without_the_column_raises(name, monkeypatch):
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: [{"other": "x"}])
    with pytest.raises(DatasetError, match="has no column"):
        load_dataset(name)


def test_an_unreachable_hub_raises():
    with pytest.raises(DatasetError, match=r"nvidia/HelpSteer cannot be loaded from the hub"):
        load_dataset("helpsteer")


def test_without_the_library_the_error_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(MissingExtraError, match="langchain-amulet\\[eval\\]"):
        load_dataset("helpsteer")


COUNTS = {
    "HelpSteer_train.json": 1236,
    "UltraFeedback_truthful_qa.json": 811,
    "UltraFeedback_ultrachat.json": 3845,
    "personal_preference_eval_preference_data.json": 548,
}


@pytest.mark.parametrize("name", COUNTS)
def test_published_files_have_the_published_counts(name, data_dir):
    assert len(load_dataset(data_dir / name)) == COUNTS[name]


def test_a_dataset_may_keep_some_of_its_own_preferences():
    verifiable = load_dataset("verifiable-choose")
    some = verifiable.only(["french", "pirate", "creative"])
    assert {tuple(each.name for each in sample.preferences) for sample in some.samples} == {("french", "pirate")}
    assert [sample.question for sample in some.samples] == [sample.question for sample in verifiable.samples]
    for unchanged in (verifiable.only([]), verifiable.only(["creative"])):
        assert unchanged == verifiable
