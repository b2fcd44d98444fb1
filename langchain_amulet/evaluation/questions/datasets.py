"""Questions to answer: the paper's four sets, others of the hub, local files, and a small set of our own."""

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path
from typing import Any

from langchain_amulet.evaluation.questions.dimensions import Dimension
from langchain_amulet.exceptions import DatasetError, MissingExtraError


@dataclass(frozen=True, slots=True)
class Sample:
    """One question."""

    id: str
    """Unique within its dataset, and the same whenever it is loaded."""
    question: str
    preferences: tuple[Dimension, ...] = ()
    """Whom it is to be answered for, where the dataset itself says so, such as personas; by different names."""

    def __post_init__(self) -> None:
        """Refuse preferences that could not be told apart."""
        names = [each.name for each in self.preferences]
        if len({*names}) < len(names):
            msg = f"Question {self.id} has two preferences of one name: {names}. Rename one of them."
            raise DatasetError(msg)


@dataclass(frozen=True, slots=True)
class Dataset:
    """Questions under one name.

    Raises:
        DatasetError: There are none, one is empty, or two have the same id or text.
    """

    name: str
    samples: tuple[Sample, ...]

    def __post_init__(self) -> None:
        """Refuse what would be counted wrongly."""
        if not self.samples:
            msg = f"The dataset {self.name} has no questions."
            raise DatasetError(msg)
        seen: dict[tuple[str, str], str] = {}
        for sample in self.samples:
            if not sample.question.strip():
                msg = f"Question {sample.id} of {self.name} is empty. Leave it out."
                raise DatasetError(msg)
            for what in (("id", sample.id), ("question", sample.question)):
                if what in seen:
                    msg = f"Question {sample.id} of {self.name} is there twice (first as {seen[what]}). Leave one out."
                    raise DatasetError(msg)
                seen[what] = sample.id

    def __len__(self) -> int:
        return len(self.samples)

    def head(self, limit: int | None) -> "Dataset":
        """The first so many questions; `None` keeps all."""
        return self if limit is None else Dataset(self.name, self.samples[:limit])


def load_dataset(name: str | Path) -> Dataset:
    """Questions by name or from a file.

    Args:
        name: `"smoke"` (40 questions of our own, in the package); one of the sets on the hub, which are loaded with the
            library `datasets`: `"helpsteer"`, `"truthful_qa"`, `"ultrachat"`, `"ultrafeedback"`, `"personal"`,
            `"prefeval"`; or a file of `{"index": ..., "question": ...}`, as one JSON list or one object per line. Those
            of the hub are whole; the paper's authors chose 1,236 questions of HelpSteer and 3,845 of UltraChat, and
            publish them as such files.

    Raises:
        DatasetError: There is no such set or file, or a line of it is broken, empty or there twice.
        MissingExtraError: A set of the hub, and `datasets` is not installed.
    """
    if str(name) in _HUB:
        return _load_from_hub(str(name))
    if str(name) == "smoke":
        text = (resources.files("langchain_amulet.evaluation") / "data" / "questions.jsonl").read_text(encoding="utf-8")
        return Dataset("smoke", parse(text, "the packaged questions"))
    path = Path(name)
    if not path.is_file():
        msg = f"There is no dataset {name}. Give a JSON or JSONL file, or one of: smoke, {', '.join(_HUB)}."
        raise DatasetError(msg)
    try:
        return Dataset(path.stem, parse(path.read_text(encoding="utf-8-sig"), str(path)))
    except UnicodeDecodeError as error:
        msg = f"{path} is no UTF-8 ({error.reason} at byte {error.start}). Save it as UTF-8."
        raise DatasetError(msg) from error


def parse(text: str, source: str) -> tuple[Sample, ...]:
    """Both forms, each question with its place for errors."""
    rows = _json_rows(text, source) if text.lstrip().startswith("[") else _jsonl_rows(text, source)
    samples: list[Sample] = []
    places: dict[tuple[str, str], str] = {}
    for place, row in rows:
        sample = _to_sample(row, f"{source}, {place}")
        for what in (("id", sample.id), ("question", sample.question)):
            if what in places:
                msg = f"{source}, {place}: the same as at {places[what]}. Leave one out."
                raise DatasetError(msg)
            places[what] = place
        samples.append(sample)
    return tuple(samples)


def _json_rows(text: str, source: str) -> list[tuple[str, Any]]:
    """The items of a list, each with the line on which it begins."""
    decoder, rows, at = json.JSONDecoder(), [], _skip_space(text, text.index("[") + 1)
    line, counted = 1, 0
    while not text.startswith("]", at):
        line, counted = line + text.count("\n", counted, at), at
        place = f"line {line}"
        try:
            row, at = decoder.raw_decode(text, at)
        except json.JSONDecodeError as error:
            msg = f"{source}, line {error.lineno}: no JSON ({error.msg}). Correct it, or leave the item out."
            raise DatasetError(msg) from error
        rows.append((place, row))
        at = _skip_space(text, at)
        if text.startswith(",", at):
            at = _skip_space(text, at + 1)
        elif not text.startswith("]", at):
            msg = f"{source}, {place}: no comma and no end of the list after this item. Is the file cut off?"
            raise DatasetError(msg)
    if text[at + 1 :].strip():
        msg = f"{source}, line {text.count(chr(10), 0, at) + 1}: something follows the list. One file holds one list."
        raise DatasetError(msg)
    return rows


def _skip_space(text: str, at: int) -> int:
    while at < len(text) and text[at].isspace():
        at += 1
    return at


def _jsonl_rows(text: str, source: str) -> list[tuple[str, Any]]:
    rows = []
    for number, line in enumerate(text.split("\n"), 1):  # other line separators may stand in JSON
        if not line.strip():
            continue
        try:
            rows.append((f"line {number}", json.loads(line)))
        except json.JSONDecodeError as error:
            msg = f"{source}, line {number}: no JSON ({error.msg}). Correct it, or leave the line out."
            raise DatasetError(msg) from error
    return rows


def _to_sample(row: Any, place: str) -> Sample:
    if not isinstance(row, Mapping) or not isinstance(row.get("question"), str):
        msg = f'{place}: no question. Write {{"index": 0, "question": "..."}}.'
        raise DatasetError(msg)
    if not row["question"].strip():
        msg = f"{place}: the question is empty. Leave it out."
        raise DatasetError(msg)
    if not isinstance(row.get("index"), int | str):
        msg = f'{place}: no index. Number the questions: {{"index": 0, "question": "..."}}.'
        raise DatasetError(msg)
    return Sample(str(row["index"]), row["question"].strip())


def _load_from_hub(name: str) -> Dataset:
    try:
        from datasets import load_dataset as load_from_hub
        from datasets.exceptions import DatasetNotFoundError
    except ImportError as error:
        msg = f"{name} is loaded with the library datasets. Install it: pip install 'langchain-amulet[eval]'"
        raise MissingExtraError(msg) from error
    source = _HUB[name]
    try:
        rows = load_from_hub(source.path, source.config, split=source.split)
        return Dataset(name, _merged(source.to_samples(rows)))
    except KeyError as error:
        msg = f"{source.path} on the hub has no column {error} any more. Load it yourself, and pass a file."
        raise DatasetError(msg) from error
    except (OSError, ValueError, DatasetNotFoundError) as error:
        msg = f"{source.path} cannot be loaded from the hub: {error}"
        raise DatasetError(msg) from error


def _merged(samples: Iterable[Sample]) -> tuple[Sample, ...]:
    """Each question once: several rows may answer one, or ask it for several people."""
    found: dict[str, Sample] = {}
    for sample in samples:
        if not sample.question:
            continue
        first = found.setdefault(sample.question, sample)
        texts = {each.text for each in first.preferences}
        more = [each for each in sample.preferences if each.text not in texts]
        numbered = [replace(each, name=f"{each.name} {len(texts) + i}") for i, each in enumerate(more, 1)]
        found[sample.question] = replace(first, preferences=(*first.preferences, *numbered))
    return tuple(found.values())


@dataclass(frozen=True, slots=True)
class _HubSource:
    path: str
    split: str
    to_samples: Callable[[Iterable[Mapping[str, Any]]], Iterable[Sample]]
    config: str | None = None


def _questions(column: str, *, only: str | None = None) -> Callable[[Iterable[Mapping[str, Any]]], Iterable[Sample]]:
    """Of a column; of one part of UltraFeedback, if `only` names it."""

    def to_samples(rows: Iterable[Mapping[str, Any]]) -> Iterable[Sample]:
        kept = (row for row in rows if only is None or row["source"] == only)
        return (Sample(str(index), str(row[column]).strip()) for index, row in enumerate(kept))

    return to_samples


def _personas(rows: Iterable[Mapping[str, Any]]) -> Iterable[Sample]:
    """Personal Preference Eval: each question with the four personas that it is to be answered for."""
    for index, row in enumerate(rows):
        personas = tuple(
            Dimension(f"persona {letter}", str(row[f"preference_{letter}"]).strip())
            for letter in "abcd"
            if str(row.get(f"preference_{letter}") or "").strip()
        )
        yield Sample(str(index), str(row["question"]).strip(), personas)


def _stated_preferences(rows: Iterable[Mapping[str, Any]]) -> Iterable[Sample]:
    """PrefEval: each question with the preference that its user has stated."""
    for index, row in enumerate(rows):
        yield Sample(str(index), str(row["question"]).strip(), (Dimension("stated", str(row["preference"]).strip()),))


_HUB = {
    "helpsteer": _HubSource("nvidia/HelpSteer", "train", _questions("prompt")),
    "truthful_qa": _HubSource("openbmb/UltraFeedback", "train", _questions("instruction", only="truthful_qa")),
    "ultrachat": _HubSource("openbmb/UltraFeedback", "train", _questions("instruction", only="ultrachat")),
    "ultrafeedback": _HubSource("openbmb/UltraFeedback", "train", _questions("instruction")),
    "personal": _HubSource("kkuusou/personal_preference_eval", "train", _personas),
    "prefeval": _HubSource("siyanzhao/prefeval_explicit", "train", _stated_preferences),
}
