"""One answer of an evaluation, with everything that scorers need."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any


@dataclass(frozen=True, slots=True)
class Answer:
    """The answer of one method to one question, for one preference, at one temperature."""

    key: str
    """Unique within an evaluation."""
    decoding_key: str
    """`Method.decoding_key`. Methods with the same one share this answer."""
    dataset: str
    sample_id: str
    question: str
    dimension: str
    """Name of the preference. Empty if the method does not use it."""
    preference: str
    """Text of the preference. Empty if the method does not use it."""
    temperature: float
    text: str
    num_tokens: int
    finish_reason: str | None
    seconds: float
    """Wall-clock time from request to answer. Other answers were generated concurrently."""
    contrast: str = ""
    """Text of the opposite that the answer was steered away from. Empty if the method uses none, or there is none."""
    seed_number: int = 0
    """0 for an answer with the first seed of the evaluation, 1 for the second, and so on."""
    opposite: str | None = None
    """`Dimension.opposite` of the preference. Not stored."""
    paraphrase: str = ""
    """`Dimension.paraphrase` of the preference. Not stored."""

    @property
    def cluster(self) -> tuple[str, str]:
        """Dataset and id of the question. Standard errors are clustered by it."""
        return self.dataset, self.sample_id

    @property
    def score_key(self) -> str:
        """Key of the answer's scores for this preference."""
        return json.dumps([self.key, self.dimension])

    def as_record(self) -> dict[str, Any]:
        """Return the JSON object that is stored in `answers.jsonl`, where `decoding_key` is called `run`."""
        record = asdict(self)
        record["run"] = record.pop("decoding_key")
        return {name: record[name] for name in _STORED if name in ANSWER_FIELDS or record[name]}

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> "Answer":
        """Create an answer from a JSON object of `answers.jsonl`, which has at least all `ANSWER_FIELDS`."""
        values = {name: record[name] for name in _STORED if name in record}
        return cls(decoding_key=values.pop("run"), **values)


_NOT_STORED = ("opposite", "paraphrase")  # come from the dimension, and may be revised
_LATER = ("contrast", "seed_number")
_STORED = tuple(
    "run" if each.name == "decoding_key" else each.name for each in fields(Answer) if each.name not in _NOT_STORED
)
ANSWER_FIELDS = tuple(name for name in _STORED if name not in _LATER)
"""The fields of every record in `answers.jsonl`. Those that came later are stored where they are not empty."""


def answer_key(
    decoding_key: str, dataset: str, sample_id: str, dimension: str, temperature: float, *, seed_number: int = 0
) -> str:
    """Return the key of an answer. That of the first seed does not contain its number, as in the first folders."""
    seed = [seed_number] if seed_number else []
    return json.dumps([decoding_key, dataset, sample_id, dimension, temperature, *seed])
