"""An answer of a run, with all that scorers need to judge it."""

import json
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Answer:
    """What one method has said to one question, for one preference, at one temperature."""

    key: str
    """Unique in its run."""
    run: str
    """The method's `run`; methods that share it share the answer."""
    dataset: str
    sample_id: str
    question: str
    dimension: str
    """The name of the preference; empty where the method does not use it."""
    preference: str
    temperature: float
    text: str
    num_tokens: int
    finish_reason: str | None
    seconds: float
    """From the question to the end of the answer; others were answered at the same time."""

    @property
    def cluster(self) -> tuple[str, str]:
        """The question: errors of statistics are clustered by it."""
        return self.dataset, self.sample_id

    @property
    def score_key(self) -> str:
        """Of what it is scored for the preference."""
        return json.dumps([self.key, self.dimension])

    def as_record(self) -> dict[str, Any]:
        """As JSON."""
        return asdict(self)


def answer_key(run: str, dataset: str, sample_id: str, dimension: str, temperature: float) -> str:
    """The key of an answer."""
    return json.dumps([run, dataset, sample_id, dimension, temperature])
