"""Running an evaluation: every method answers every question for every preference, once, and scorers judge it."""

import hashlib
import math
import time
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from langchain_core.messages import AIMessage
from tqdm import tqdm

from langchain_amulet.chat.settings import answer_settings
from langchain_amulet.chat_models import ChatAmulet
from langchain_amulet.evaluation.methods.method import Ask, Method, by_name, distinct_runs
from langchain_amulet.evaluation.protocol import PAPER_TABLE, Protocol
from langchain_amulet.evaluation.questions.datasets import Dataset, Sample
from langchain_amulet.evaluation.questions.dimensions import Dimension, as_dimension
from langchain_amulet.evaluation.results import Evaluation
from langchain_amulet.evaluation.runs.answer import Answer, answer_key
from langchain_amulet.evaluation.runs.folder import JsonlRecords, Run, alone_in
from langchain_amulet.evaluation.runs.parallel import in_parallel
from langchain_amulet.evaluation.scorers.scorer import Scorer, messages_of
from langchain_amulet.exceptions import (
    ContextLengthError,
    EngineMemoryError,
    GenerationTimeoutError,
    InvalidParameterError,
    NumericalError,
    RunError,
)
from langchain_amulet.models.identity import identity

OF_ONE_QUESTION = (ContextLengthError, EngineMemoryError, GenerationTimeoutError, NumericalError)
"""What one question may raise without the others being in vain."""
_OF_THE_PROTOCOL = ("temperature", "top_p", "max_tokens", "seed")

_NUM_REASONS = 3  # told of answers that could not be given


class Cell(NamedTuple):
    """One question for one preference, to be answered by one run at one temperature."""

    method: Method
    dataset: str
    sample: Sample
    dimensions: tuple[Dimension, ...]
    """What the answer is judged by; one, if the method is told it."""
    temperature: float

    @property
    def told(self) -> tuple[str, str]:
        """Name and text of the preference that the method is told."""
        [dimension] = self.dimensions if self.method.uses_preference else [None]
        return (dimension.name, dimension.text) if dimension else ("", "")

    @property
    def key(self) -> str:
        """Of its answer."""
        return answer_key(self.method.run, self.dataset, self.sample.id, self.told[0], self.temperature)


def evaluate(
    datasets: Dataset | Sequence[Dataset],
    methods: Sequence[Method],
    scorers: Sequence[Scorer],
    *,
    llm: ChatAmulet,
    folder: str | Path,
    dimensions: Sequence[str | Dimension] = PAPER_TABLE,
    protocol: Protocol | None = None,
) -> Evaluation:
    """Let every method answer every question for every preference, and judge the answers.

    An evaluation that was interrupted goes on where it was, given the same arguments; one with further questions,
    methods, scorers or temperatures adds to what is there. What fails, such as a question longer than the context, is
    left out with a warning, and told in `failures`.

    Args:
        datasets: Questions; preferences that belong to a question, such as personas, replace `dimensions` for it.
        methods: Ways to answer; those that share a run are run once.
        scorers: What judges the answers.
        llm: The model; its own settings count where the protocol says nothing.
        folder: Where answers and scores are kept.
        dimensions: Preferences to answer for: names of the paper's, or texts.
        protocol: Prompt, sampling, limits and seeds; `None` takes the defaults.

    Raises:
        RunError: The folder holds an evaluation of another model or protocol, or of other questions of these names.
        InvalidParameterError: Two methods, scorers, datasets or preferences have one name, or there are none.
    """
    protocol = protocol or Protocol()
    sets = [each.head(protocol.limit) for each in ([datasets] if isinstance(datasets, Dataset) else datasets)]
    wanted = tuple(as_dimension(each) for each in dimensions)
    _check(methods, scorers, sets, wanted)
    cells = [*_cells(methods, sets, wanted, protocol)]
    with alone_in(folder):
        run = Run(folder, _config(llm, protocol))
        found, failures = _answers(cells, run.records("answers"), llm, protocol)
        judged = tuple(_judged(cells, found))
        scores = {scorer.name: _score_all(scorer, _within(scorer.limit, judged, sets), run) for scorer in scorers}
    return Evaluation(
        methods=by_name(methods),
        datasets=tuple(each.name for each in sets),
        dimensions=_dimensions(sets, wanted),
        temperatures=protocol.temperatures,
        answers=judged,
        scores=scores,
        scorers={scorer.name: scorer for scorer in scorers},
        manifest=run.manifest,
        failures=failures,
    )


def _dimensions(datasets: Sequence[Dataset], wanted: tuple[Dimension, ...]) -> tuple[Dimension, ...]:
    """What answers are judged by: what was asked for, where a question has no preferences of its own, and those."""
    samples = [sample for dataset in datasets for sample in dataset.samples]
    general = () if all(sample.preferences for sample in samples) else wanted
    names = dict.fromkeys(each.name for sample in samples for each in sample.preferences)
    own = [Dimension(name, "(each question's own)") for name in names if name not in {each.name for each in general}]
    return (*general, *own)


def _check(
    methods: Sequence[Method], scorers: Sequence[Scorer], datasets: Sequence[Dataset], dimensions: Sequence[Dimension]
) -> None:
    if not methods or not datasets or not dimensions:
        msg = "An evaluation needs at least one method, such as paper_methods(), one dataset and one preference."
        raise InvalidParameterError(msg)
    by_name(methods)
    if any(scorer.limit is not None and scorer.limit < 1 for scorer in scorers):
        msg = "A scorer's limit must be at least 1, or None; leave the scorer out to score nothing."
        raise InvalidParameterError(msg)
    names = {
        "scorers": [_slug(scorer.name) for scorer in scorers],
        "datasets": [dataset.name for dataset in datasets],
        "preferences": [dimension.name for dimension in dimensions],
    }
    for what, given in names.items():
        if len({*given}) < len(given):
            msg = f"Two {what} have the same name. Rename one of them: {sorted(given)}."
            raise InvalidParameterError(msg)


def _config(llm: ChatAmulet, protocol: Protocol) -> dict[str, Any]:
    """What all answers of a folder have in common; methods, questions and temperatures may be added."""
    loaded = llm.load()  # what cannot be loaded shows before anything is asked
    settings = answer_settings(dict(llm))
    own = {name: value for name, value in settings.items() if name not in _OF_THE_PROTOCOL}
    return {
        "model": str(llm.model) if isinstance(llm.model, str | Path) else loaded.name,
        "tokenizer": identity(llm.tokenizer) if isinstance(llm.tokenizer, str | Path) else None,
        "model_kwargs": {name: repr(value) for name, value in llm.model_kwargs.items() if name != "token"},
        "dtype": str(loaded.model.dtype).removeprefix("torch."),
        **own,
        "system": protocol.system,
        "max_tokens": protocol.max_tokens,
        "top_p": protocol.top_p,
        "seed": protocol.seed,
    }


def _cells(
    methods: Sequence[Method], datasets: Sequence[Dataset], dimensions: tuple[Dimension, ...], protocol: Protocol
) -> Iterator[Cell]:
    """All that is to be answered, each once; question by question, since methods share its prompts."""
    distinct = distinct_runs(methods)
    for dataset in datasets:
        for number, sample in enumerate(dataset.samples):
            is_searched = protocol.search_limit is None or number < protocol.search_limit
            for method in distinct:
                asked = sample.preferences or dimensions
                for judged_by in [(each,) for each in asked] if method.uses_preference else [asked]:
                    for temperature in protocol.temperatures if is_searched or not method.is_search else ():
                        yield Cell(method, dataset.name, sample, judged_by, temperature)


def _answers(
    cells: Sequence[Cell], kept: JsonlRecords, llm: ChatAmulet, protocol: Protocol
) -> tuple[dict[str, Answer], dict[str, str]]:
    """Answer what is not answered yet; each answer is on disk as soon as it is there.

    Returns:
        Answers, and why the others could not be given, by key. What could not be answered is tried again next time.
    """
    missing = [cell for cell in cells if not _is_answered(cell, kept)]
    failures = {}

    def work(cell: Cell) -> None:
        try:
            kept.append(_answer(cell, llm, protocol).as_record())
        except OF_ONE_QUESTION as error:
            failures[cell.key] = f"{type(error).__name__}: {error}"

    with tqdm(total=len(cells), initial=len(cells) - len(missing), desc="answers", unit="answer") as progress:
        for is_engine, num_at_once in ((True, protocol.num_at_once), (False, 1)):
            jobs = [cell for cell in missing if cell.method.is_engine == is_engine]
            for _ in in_parallel(work, jobs, num_at_once):
                progress.update()
    if failures:
        reasons = "; ".join(sorted({*failures.values()})[:_NUM_REASONS])
        warnings.warn(f"{len(failures)} of {len(cells)} answers could not be given: {reasons}", stacklevel=3)
    return {cell.key: Answer(**kept[cell.key]) for cell in cells if cell.key in kept}, failures


def _is_answered(cell: Cell, kept: JsonlRecords) -> bool:
    if cell.key not in kept:
        return False
    found = kept[cell.key]
    if (found["question"], found["preference"]) != (cell.sample.question, cell.told[1]):
        msg = (
            f"Question {cell.sample.id} of {cell.dataset} was answered under the same names with another text of the "
            f"question or preference. Give this evaluation a folder of its own."
        )
        raise RunError(msg)
    return True


def _answer(cell: Cell, llm: ChatAmulet, protocol: Protocol) -> Answer:
    name, preference = cell.told
    sampling = {
        "temperature": cell.temperature,
        "top_p": protocol.top_p if cell.temperature or cell.method.is_search else 1.0,
        "max_tokens": protocol.max_tokens,
        "seed": seed_of(protocol.seed, cell.dataset, cell.sample.id),
    }
    begun = time.perf_counter()
    message = cell.method.answer(Ask(llm, messages_of(protocol.system, cell.sample.question), preference, sampling))
    return Answer(
        key=cell.key,
        run=cell.method.run,
        dataset=cell.dataset,
        sample_id=cell.sample.id,
        question=cell.sample.question,
        dimension=name,
        preference=preference,
        temperature=cell.temperature,
        text=message.text,
        num_tokens=_num_tokens(message, llm),
        finish_reason=message.response_metadata.get("finish_reason"),
        seconds=round(time.perf_counter() - begun, 3),
    )


def seed_of(seed: int, dataset: str, sample_id: str) -> int:
    """The seed of a question: the same for all methods, and another for every question."""
    digest = hashlib.sha256(f"{seed}|{dataset}|{sample_id}".encode()).digest()
    return int.from_bytes(digest[:6], "big")


def _num_tokens(message: AIMessage, llm: ChatAmulet) -> int:
    usage = message.usage_metadata
    return usage["output_tokens"] if usage else len(llm.get_token_ids(message.text))


def _judged(cells: Iterable[Cell], answers: Mapping[str, Answer]) -> Iterator[Answer]:
    for cell in cells:
        for each in cell.dimensions if cell.key in answers else ():
            yield replace(answers[cell.key], dimension=each.name, preference=each.text)


def _within(limit: int | None, answers: Sequence[Answer], datasets: Sequence[Dataset]) -> Sequence[Answer]:
    """Those to the first questions of each dataset."""
    first = {(dataset.name, sample.id) for dataset in datasets for sample in dataset.head(limit).samples}
    return [answer for answer in answers if answer.cluster in first]


def _score_all(scorer: Scorer, answers: Iterable[Answer], run: Run) -> dict[str, float | None]:
    """Score what is not scored yet."""
    by_key = {answer.score_key: answer for answer in answers}
    if not scorer.is_kept:
        return {key: _score(scorer, answer) for key, answer in by_key.items()}
    kept = run.records(_file_of(scorer))
    missing = [answer for key, answer in by_key.items() if key not in kept]
    for answer in tqdm(missing, desc=scorer.name, unit="answer"):
        kept.append({"key": answer.score_key, "score": _score(scorer, answer)})
    return {key: kept[key]["score"] for key in by_key}


def _score(scorer: Scorer, answer: Answer) -> float | None:
    try:
        score = scorer.score(answer)
    except OF_ONE_QUESTION:  # an answer that filled the context, say, and is longer when it is read again
        return None
    return None if score is None or not math.isfinite(score) else float(score)


def _file_of(scorer: Scorer) -> str:
    """Scorers of one name that are not the same keep their scores apart."""
    identity = hashlib.sha256(scorer.identity.encode()).hexdigest()[:8] if scorer.identity else ""
    return "-".join(filter(None, ("scores", _slug(scorer.name), identity)))


def _slug(name: str) -> str:
    return "".join(character if character.isalnum() else "-" for character in name).lower()
