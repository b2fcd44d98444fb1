"""Datasets of questions: files, sets of the Hugging Face Hub, and a small packaged set.

To add a dataset of the hub, add an entry to `_HUB` at the end of this file.
"""

import json
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from langchain_amulet.evaluation.data import read_text
from langchain_amulet.evaluation.questions.dimensions import Dimension
from langchain_amulet.evaluation.questions.ifeval import instructions_for
from langchain_amulet.evaluation.questions.verifiable import wishes_for
from langchain_amulet.exceptions import DatasetError, MissingExtraError


@dataclass(frozen=True, slots=True)
class Sample:
    """One question.

    Raises:
        DatasetError: Two preferences have the same name.
    """

    id: str
    """Unique within its dataset, and the same each time the dataset is loaded."""
    question: str
    preferences: tuple[Dimension, ...] = ()
    """Preferences that the dataset gives for this question, such as personas. Their names differ."""

    def __post_init__(self) -> None:
        """Check that the names of preferences differ."""
        names = [each.name for each in self.preferences]
        if len({*names}) < len(names):
            msg = f"Question {self.id} has two preferences with the same name: {names}. Rename one of them."
            raise DatasetError(msg)


@dataclass(frozen=True, slots=True)
class Dataset:
    """A named set of questions.

    Raises:
        DatasetError: There are no questions, a question is empty, or two have the same id or text.
    """

    name: str
    samples: tuple[Sample, ...]

    def __post_init__(self) -> None:
        """Check that questions are not empty, and differ."""
        if not self.samples:
            msg = f"The dataset {self.name} has no questions."
            raise DatasetError(msg)
        seen: dict[tuple[str, str], str] = {}
        for sample in self.samples:
            if not sample.question.strip():
                msg = f"Question {sample.id} of {self.name} is empty. Remove it."
                raise DatasetError(msg)
            for field in (("id", sample.id), ("question", sample.question)):
                if field in seen:
                    msg = f"Question {sample.id} of {self.name} duplicates question {seen[field]}. Remove one of them."
                    raise DatasetError(msg)
                seen[field] = sample.id

    def __len__(self) -> int:
        return len(self.samples)

    def head(self, limit: int | None) -> "Dataset":
        """Return a dataset of the first `limit` questions, or of all if `limit` is `None`."""
        return self if limit is None else Dataset(self.name, self.samples[:limit])

    def only(self, names: Collection[str]) -> "Dataset":
        """Return a dataset whose questions have, of their own preferences, those with one of these names.

        If no question has one of these, the dataset itself.
        """
        kept = [tuple(each for each in sample.preferences if each.name in names) for sample in self.samples]
        if not any(kept):
            return self
        samples = (replace(sample, preferences=own) for sample, own in zip(self.samples, kept, strict=True) if own)
        return Dataset(self.name, tuple(samples))


def load_dataset(name: str | Path) -> Dataset:
    """Load a dataset by name or from a file.

    Args:
        name: One of these:

            - `"smoke"`: 40 questions that are part of the package.
            - `"verifiable"`: 60 questions of the package, each with all wishes of `questions/verifiable.py` as its
              preferences. `"verifiable-choose"` and `"verifiable-report"` are its halves, to choose settings on one and
              report them on the other.
            - `"ifeval"`: the same questions, each with an instruction of each kind of `questions/ifeval.py`.
            - `"helpsteer"`, `"truthful_qa"`, `"ultrachat"`, `"ultrafeedback"`, `"personal"` or `"prefeval"`: the whole
              set from the Hugging Face Hub, loaded with the library `datasets`. The paper uses 1,236 questions of
              HelpSteer and 3,845 of UltraChat, which its authors publish as files in the format below.
            - The path of a file of `{"index": ..., "question": ...}`: a JSON list, or one object per line (JSONL).

    Raises:
        DatasetError: There is no such dataset or file, or a question is malformed, empty or a duplicate.
        MissingExtraError: The dataset is on the hub, and `datasets` is not installed.
    """
    if str(name) in _HUB:
        return _load_from_hub(str(name))
    if str(name) in _PACKAGED:
        return Dataset(str(name), _PACKAGED[str(name)]())
    path = Path(name)
    try:
        text = path.read_text(encoding="utf-8-sig") if path.is_file() else None
    except UnicodeDecodeError as error:
        msg = f"{path} is not UTF-8 ({error.reason} at byte {error.start}). Save it as UTF-8."
        raise DatasetError(msg) from error
    except OSError as error:
        msg = f"{path} cannot be read: {error.strerror or error}. Pass a JSON or JSONL file that you may read."
        raise DatasetError(msg) from error
    if text is None:
        known = ", ".join([*_PACKAGED, *_HUB])
        msg = f"There is no dataset or file {name}. Pass a JSON or JSONL file, or one of: {known}."
        raise DatasetError(msg)
    return Dataset(path.stem, parse(text, str(path)))


def _smoke() -> tuple[Sample, ...]:
    return parse(read_text("questions.jsonl"), "the packaged questions")


def _with(preferences_at: Callable[[int], tuple[Dimension, ...]]) -> tuple[Sample, ...]:
    """Return the packaged questions for checkable preferences, each with the preferences for its place."""
    questions = parse(read_text("verifiable.jsonl"), "the packaged questions for wishes")
    return tuple(replace(each, preferences=preferences_at(place)) for place, each in enumerate(questions))


_HALF = 30  # questions of "verifiable" on which settings are chosen. The others are for reporting
_PACKAGED: dict[str, Callable[[], tuple[Sample, ...]]] = {
    "smoke": _smoke,
    "verifiable": lambda: _with(wishes_for),
    "verifiable-choose": lambda: _with(wishes_for)[:_HALF],
    "verifiable-report": lambda: _with(wishes_for)[_HALF:],
    "ifeval": lambda: _with(instructions_for),
}


def parse(text: str, source: str) -> tuple[Sample, ...]:
    """Parse a JSON list, or JSONL.

    Args:
        text: Contents of a file.
        source: Name of the file for error messages.

    Raises:
        DatasetError: A question is malformed, empty or a duplicate.
    """
    rows = _json_rows(text, source) if text.lstrip().startswith("[") else _jsonl_rows(text, source)
    samples: list[Sample] = []
    places: dict[tuple[str, str], str] = {}
    for place, row in rows:
        sample = _to_sample(row, f"{source}, {place}")
        for field in (("id", sample.id), ("question", sample.question)):
            if field in places:
                msg = f"{source}, {place}: duplicate of {places[field]}. Remove one of them."
                raise DatasetError(msg)
            places[field] = place
        samples.append(sample)
    return tuple(samples)


def _json_rows(text: str, source: str) -> list[tuple[str, object]]:
    """Return the items of a JSON list, each with its line number for error messages."""
    decoder, rows, at = json.JSONDecoder(), [], _skip_space(text, text.index("[") + 1)
    line, counted = 1, 0
    while not text.startswith("]", at):
        line, counted = line + text.count("\n", counted, at), at
        place = f"line {line}"
        try:
            row, at = decoder.raw_decode(text, at)
        except json.JSONDecodeError as error:
            msg = f"{source}, line {error.lineno}: invalid JSON ({error.msg}). Correct the item."
            raise DatasetError(msg) from error
        except (ValueError, RecursionError) as error:
            raise DatasetError(_unreadable(f"{source}, {place}", error)) from error
        rows.append((place, row))
        at = _skip_space(text, at)
        if text.startswith(",", at):
            at = _skip_space(text, at + 1)
        elif not text.startswith("]", at):
            msg = f"{source}, {place}: expected a comma or the end of the list after this item. Is it complete?"
            raise DatasetError(msg)
    if text[at + 1 :].strip():
        msg = f"{source}, line {text.count(chr(10), 0, at) + 1}: unexpected text after the list. Remove it."
        raise DatasetError(msg)
    return rows


def _skip_space(text: str, at: int) -> int:
    while at < len(text) and text[at].isspace():
        at += 1
    return at


def _jsonl_rows(text: str, source: str) -> list[tuple[str, object]]:
    rows: list[tuple[str, object]] = []
    for number, line in enumerate(text.split("\n"), 1):  # not splitlines(): JSON strings may contain U+2028
        if not line.strip():
            continue
        try:
            rows.append((f"line {number}", json.loads(line)))
        except json.JSONDecodeError as error:
            msg = f"{source}, line {number}: invalid JSON ({error.msg}). Correct or remove the line."
            raise DatasetError(msg) from error
        except (ValueError, RecursionError) as error:
            raise DatasetError(_unreadable(f"{source}, line {number}", error)) from error
    return rows


def _unreadable(place: str, error: Exception) -> str:
    """Return the message about JSON that Python does not read, since it is nested too deeply or has a huge number."""
    return f"{place}: JSON that cannot be read ({error}). Correct or remove it."


def _to_sample(row: object, place: str) -> Sample:
    if not isinstance(row, Mapping) or not isinstance(row.get("question"), str):
        msg = f'{place}: "question" is missing. Write {{"index": 0, "question": "..."}}.'
        raise DatasetError(msg)
    if not row["question"].strip():
        msg = f"{place}: the question is empty. Remove it."
        raise DatasetError(msg)
    if any("\ud800" <= character <= "\udfff" for character in f"{row['question']}{row.get('index')}"):
        msg = f"{place}: the question or index has half of a surrogate pair, which is no character. Remove it."
        raise DatasetError(msg)
    if not isinstance(row.get("index"), int | str):
        msg = f'{place}: "index" is missing. Number the questions: {{"index": 0, "question": "..."}}.'
        raise DatasetError(msg)
    return Sample(str(row["index"]), row["question"].strip())


def _load_from_hub(name: str) -> Dataset:
    try:
        from datasets import load_dataset as load_from_hub
        from datasets.exceptions import DatasetNotFoundError
    except ImportError as error:
        msg = f"Loading {name} needs the library datasets. Install it: pip install 'langchain-amulet[eval]'"
        raise MissingExtraError(msg) from error
    source = _HUB[name]
    try:
        rows = load_from_hub(source.path, source.config, split=source.split)
        return Dataset(name, _merged(source.to_samples(rows)))
    except KeyError as error:
        msg = f"{source.path} on the hub has no column {error}. Save its questions as a JSONL file, and pass that."
        raise DatasetError(msg) from error
    except (OSError, ValueError, DatasetNotFoundError) as error:
        msg = f"{source.path} cannot be loaded from the hub: {error}"
        raise DatasetError(msg) from error


def _merged(samples: Iterable[Sample]) -> tuple[Sample, ...]:
    """Merge rows with the same question into one sample with the preferences of all of them. Drop empty questions."""
    merged: dict[str, Sample] = {}
    for sample in samples:
        if not sample.question:
            continue
        first = merged.setdefault(sample.question, sample)
        texts = {each.text for each in first.preferences}
        more = [each for each in sample.preferences if each.text not in texts]
        numbered = [replace(each, name=f"{each.name} {len(texts) + i}") for i, each in enumerate(more, 1)]
        merged[sample.question] = replace(first, preferences=(*first.preferences, *numbered))
    return tuple(merged.values())


@dataclass(frozen=True, slots=True)
class _HubSource:
    path: str
    split: str
    to_samples: Callable[[Iterable[Mapping[str, Any]]], Iterable[Sample]]
    config: str | None = None


def _questions(column: str, *, only: str | None = None) -> Callable[[Iterable[Mapping[str, Any]]], Iterable[Sample]]:
    """Return a function that reads questions from a column, of rows whose `source` is `only` if that is given."""

    def to_samples(rows: Iterable[Mapping[str, Any]]) -> Iterable[Sample]:
        selected = (row for row in rows if only is None or row["source"] == only)
        return (Sample(str(index), str(row[column]).strip()) for index, row in enumerate(selected))

    return to_samples


def _personas(rows: Iterable[Mapping[str, Any]]) -> Iterable[Sample]:
    """Read Personal Preference Eval: each question with up to four personas as its preferences."""
    for index, row in enumerate(rows):
        personas = tuple(
            Dimension(f"persona {letter}", str(row[f"preference_{letter}"]).strip())
            for letter in "abcd"
            if str(row.get(f"preference_{letter}") or "").strip()
        )
        yield Sample(str(index), str(row["question"]).strip(), personas)


def _stated_preferences(rows: Iterable[Mapping[str, Any]]) -> Iterable[Sample]:
    """Read PrefEval: each question with the preference that the user stated."""
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
