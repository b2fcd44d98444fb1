"""`evaluate()`: generates the answers of all methods, and scores them.

The answers and the scores of expensive scorers are stored as soon as they are ready, so an interrupted evaluation
resumes where it stopped.
"""

import hashlib
import math
import time
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from langchain_core.messages import AIMessage
from tqdm import tqdm

from langchain_amulet.chat.settings import answer_settings
from langchain_amulet.chat_models import ChatAmulet
from langchain_amulet.evaluation.methods.method import Ask, Method, by_name, distinct_methods
from langchain_amulet.evaluation.protocol import PAPER_TABLE, Protocol
from langchain_amulet.evaluation.questions.datasets import Dataset, Sample
from langchain_amulet.evaluation.questions.dimensions import Dimension, as_dimension
from langchain_amulet.evaluation.results import Evaluation
from langchain_amulet.evaluation.runs.answer import ANSWER_FIELDS, Answer, answer_key
from langchain_amulet.evaluation.runs.folder import JsonlRecords, RunFolder, locked
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
from langchain_amulet.opposites import opposite_of
from langchain_amulet.preferences import Preference

PER_QUESTION_ERRORS = (ContextLengthError, EngineMemoryError, GenerationTimeoutError, NumericalError)
"""Errors that concern one question. The evaluation continues with the others."""
_TRANSIENT_ERRORS = (EngineMemoryError, GenerationTimeoutError)
"""Those of them that may not occur when the evaluation runs again, so that no missing score is stored for them."""
_PROTOCOL_SETTINGS = ("temperature", "top_p", "max_tokens", "seed")
_LATER_SETTINGS = {"ignore_unsupported_keywords": False, "trace": False}
"""Settings that the first folders do not contain. They are written where they differ from these defaults."""
_NUM_REASONS = 3  # different errors in the warning about missing answers


class Job(NamedTuple):
    """One answer to generate: a question, a preference, a method, a temperature and a seed."""

    method: Method
    dataset: str
    sample: Sample
    dimensions: tuple[Dimension, ...]
    """The preferences that the answer is scored for. Only one if the method uses the preference."""
    temperature: float
    seed_number: int = 0

    @property
    def preference(self) -> Preference:
        """The preference that the method receives. Its text is empty if the method uses none."""
        [dimension] = self.dimensions if self.method.uses_preference else [None]
        return Preference(dimension.text, opposite=dimension.opposite) if dimension else Preference("")

    @property
    def contrast(self) -> str:
        """Text of the opposite that the answer is steered away from, or the empty string."""
        return (opposite_of(self.preference) or "") if self.method.uses_opposite else ""

    @property
    def dimension(self) -> str:
        """Name of the preference that the method receives. Empty if it uses none."""
        return self.dimensions[0].name if self.method.uses_preference else ""

    @property
    def key(self) -> str:
        """Key of the answer."""
        return answer_key(
            self.method.decoding_key,
            self.dataset,
            self.sample.id,
            self.dimension,
            self.temperature,
            seed_number=self.seed_number,
        )


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
    """Generate the answers of every method to every question for every preference, and score them.

    Call it again with the same arguments to resume an interrupted evaluation. More questions, methods, scorers,
    temperatures or seeds are added to the answers in the folder. A question that fails, for example because it exceeds
    the context, is skipped with a warning, and listed in `Evaluation.failures`.

    Args:
        datasets: Questions. The preferences of a sample, such as personas, replace `dimensions` for this sample.
        methods: Methods to compare. Those with equal `decoding_key` are run once.
        scorers: Scorers of the answers.
        llm: The model. Its own settings apply where the protocol has none.
        folder: Folder that stores answers and scores.
        dimensions: Preferences: names of the paper's dimensions, or any texts.
        protocol: Prompt, sampling, limits and seed. `None` uses the defaults of `Protocol`.

    Raises:
        RunError: The folder has answers of another model or protocol, or of other questions under the same names.
        InvalidParameterError: Names of methods, scorers, datasets or preferences are not unique, or one of these is
            empty.
    """
    protocol = protocol or Protocol()
    sets = [each.head(protocol.limit) for each in ([datasets] if isinstance(datasets, Dataset) else datasets)]
    general = tuple(as_dimension(each) for each in dimensions)
    _check(methods, scorers, sets, general)
    jobs = [*_jobs(methods, sets, general, protocol)]
    with locked(folder):
        run_folder = RunFolder(folder, _config(llm, protocol))
        by_key, failures = _generate_all(jobs, run_folder.records("answers", ANSWER_FIELDS), llm, protocol)
        answers = tuple(_per_preference(jobs, by_key))
        scores = {
            scorer.name: _score_all(scorer, _first_questions(scorer.limit, answers, sets), run_folder)
            for scorer in scorers
        }
    return Evaluation(
        methods=by_name(methods),
        datasets=tuple(each.name for each in sets),
        dimensions=_dimensions(sets, general),
        temperatures=protocol.temperatures,
        answers=answers,
        scores=scores,
        scorers={scorer.name: scorer for scorer in scorers},
        manifest=run_folder.manifest,
        failures=failures,
    )


def _dimensions(datasets: Sequence[Dataset], general: tuple[Dimension, ...]) -> tuple[Dimension, ...]:
    """Return the general preferences, if any sample uses them, and those of samples with preferences of their own."""
    samples = [sample for dataset in datasets for sample in dataset.samples]
    used = () if all(sample.preferences for sample in samples) else general
    names = dict.fromkeys(each.name for sample in samples for each in sample.preferences)
    own = [Dimension(name, "(each question's own)") for name in names if name not in {each.name for each in used}]
    return (*used, *own)


def _check(
    methods: Sequence[Method], scorers: Sequence[Scorer], datasets: Sequence[Dataset], dimensions: Sequence[Dimension]
) -> None:
    if not methods or not datasets or not dimensions:
        msg = "An evaluation needs at least one method, such as paper_methods(), one dataset and one preference."
        raise InvalidParameterError(msg)
    by_name(methods)
    if any(scorer.limit is not None and scorer.limit < 1 for scorer in scorers):
        msg = "A scorer's limit must be None or at least 1. To score nothing, leave the scorer out."
        raise InvalidParameterError(msg)
    names_by_kind = {
        "scorers": [_slug(scorer.name) for scorer in scorers],
        "datasets": [dataset.name for dataset in datasets],
        "preferences": [dimension.name for dimension in dimensions],
    }
    for kind, names in names_by_kind.items():
        if len({*names}) < len(names):
            msg = f"Two {kind} have the same name. Rename one of them: {sorted(names)}."
            raise InvalidParameterError(msg)


def _config(llm: ChatAmulet, protocol: Protocol) -> dict[str, Any]:
    """Return the settings that all answers of a folder share. Methods, questions and temperatures may differ."""
    loaded = llm.load()  # first, so that loading errors precede all answers
    settings = answer_settings(dict(llm))
    later = {name for name, default in _LATER_SETTINGS.items() if settings[name] == default}
    own = {name: value for name, value in settings.items() if name not in {*_PROTOCOL_SETTINGS, *later}}
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


def _jobs(
    methods: Sequence[Method], datasets: Sequence[Dataset], general: tuple[Dimension, ...], protocol: Protocol
) -> Iterator[Job]:
    """Yield each answer to generate once, question by question, since methods share the prompts of a question."""
    distinct = distinct_methods(methods)
    for dataset in datasets:
        for number, sample in enumerate(dataset.samples):
            is_searched = protocol.search_limit is None or number < protocol.search_limit
            for method in distinct:
                dimensions = sample.preferences or general
                for scored_for in [(each,) for each in dimensions] if method.uses_preference else [dimensions]:
                    for temperature, number_of_seed in _draws(protocol) if is_searched or not method.is_search else ():
                        yield Job(method, dataset.name, sample, scored_for, temperature, number_of_seed)


def _draws(protocol: Protocol) -> Iterator[tuple[float, int]]:
    """Yield each temperature with the numbers of its seeds. Greedy answers do not depend on the seed."""
    for temperature in protocol.temperatures:
        for number in range(protocol.num_seeds if temperature else 1):
            yield temperature, number


def _generate_all(
    jobs: Sequence[Job], records: JsonlRecords, llm: ChatAmulet, protocol: Protocol
) -> tuple[dict[str, Answer], dict[str, str]]:
    """Generate the answers that are not stored yet, and store each as soon as it is ready.

    Returns:
        Answers by key, and error messages of the missing ones by key. The next evaluation tries these again.
    """
    missing = [job for job in jobs if not _is_answered(job, records)]
    failures: dict[str, str] = {}

    def work(job: Job) -> int:
        try:
            answer = _generate(job, llm, protocol)
            records.append(answer.as_record())
        except PER_QUESTION_ERRORS as error:
            failures[job.key] = f"{type(error).__name__}: {error}"
            return 0
        return answer.num_tokens

    num_tokens, begun = 0, time.perf_counter()
    with tqdm(total=len(jobs), initial=len(jobs) - len(missing), desc="answers", unit="answer") as progress:
        for uses_engine, num_at_once in ((True, protocol.num_at_once), (False, 1)):
            todo = [job for job in missing if job.method.uses_engine == uses_engine]
            for num_new in in_parallel(work, todo, num_at_once):
                num_tokens += num_new
                speed = num_tokens / (time.perf_counter() - begun)
                progress.set_postfix_str(f"{speed:.0f} tokens/s", refresh=False)
                progress.update()
    if failures:
        reasons = "; ".join(sorted({*failures.values()})[:_NUM_REASONS])
        warnings.warn(f"{len(failures)} of {len(jobs)} answers could not be generated: {reasons}", stacklevel=3)
    return {job.key: Answer.from_record(records[job.key]) for job in jobs if job.key in records}, failures


def _is_answered(job: Job, records: JsonlRecords) -> bool:
    if job.key not in records:
        return False
    record = records[job.key]
    stored = (record["question"], record["preference"], record.get("contrast", ""))
    if stored != (job.sample.question, job.preference.text, job.contrast):
        msg = (
            f"The folder has an answer to question {job.sample.id} of {job.dataset} with another text of the question, "
            f"the preference or its opposite. Use another folder."
        )
        raise RunError(msg)
    return True


def _generate(job: Job, llm: ChatAmulet, protocol: Protocol) -> Answer:
    sampling = {
        "temperature": job.temperature,
        "top_p": protocol.top_p if job.temperature or job.method.is_search else 1.0,
        "max_tokens": protocol.max_tokens,
        "seed": seed_of(protocol.seed + job.seed_number, job.dataset, job.sample.id),
    }
    begun = time.perf_counter()
    messages = messages_of(protocol.system, job.sample.question)
    message = job.method.generate(Ask(llm, messages, job.preference.text, sampling, job.preference.opposite))
    return Answer(
        key=job.key,
        decoding_key=job.method.decoding_key,
        dataset=job.dataset,
        sample_id=job.sample.id,
        question=job.sample.question,
        dimension=job.dimension,
        preference=job.preference.text,
        temperature=job.temperature,
        text=message.text,
        num_tokens=_num_tokens(message, llm),
        finish_reason=message.response_metadata.get("finish_reason"),
        seconds=round(time.perf_counter() - begun, 3),
        contrast=job.contrast,
        seed_number=job.seed_number,
    )


def seed_of(seed: int, dataset: str, sample_id: str) -> int:
    """Return the seed of a question. It is the same for all methods, and differs between questions."""
    digest = hashlib.sha256(f"{seed}|{dataset}|{sample_id}".encode()).digest()
    return int.from_bytes(digest[:6], "big")


def _num_tokens(message: AIMessage, llm: ChatAmulet) -> int:
    usage = message.usage_metadata
    return usage["output_tokens"] if usage else len(llm.get_token_ids(message.text))


def _per_preference(jobs: Iterable[Job], answers: Mapping[str, Answer]) -> Iterator[Answer]:
    """Repeat each answer for each preference that it is scored for."""
    for job in jobs:
        for each in job.dimensions if job.key in answers else ():
            yield replace(
                answers[job.key],
                dimension=each.name,
                preference=each.text,
                opposite=each.opposite,
                paraphrase=each.paraphrase,
            )


def _first_questions(limit: int | None, answers: Sequence[Answer], datasets: Sequence[Dataset]) -> Sequence[Answer]:
    """Return the answers to the first `limit` questions of each dataset."""
    first = {(dataset.name, sample.id) for dataset in datasets for sample in dataset.head(limit).samples}
    return [answer for answer in answers if answer.cluster in first]


def _score_all(scorer: Scorer, answers: Iterable[Answer], run_folder: RunFolder) -> dict[str, float | None]:
    """Return the scores by `Answer.score_key`; those that are stored are not computed again."""
    by_key = {answer.score_key: answer for answer in answers}
    if not scorer.is_stored:
        return {key: _score(scorer, answer) for key, answer in by_key.items()}
    records = run_folder.records(_file_name(scorer), ["score"])
    missing = [answer for key, answer in by_key.items() if key not in records]
    missing.sort(key=lambda answer: (answer.cluster, answer.dimension))  # a model reads a prompt once for neighbours

    def work(answer: Answer) -> None:
        with suppress(*_TRANSIENT_ERRORS):  # not stored: the next evaluation tries again
            records.append({"key": answer.score_key, "score": _lasting_score(scorer, answer)})

    with tqdm(total=len(missing), desc=scorer.name, unit="answer") as progress:
        for _ in in_parallel(work, missing, scorer.num_at_once):
            progress.update()
    if unscored := [key for key in by_key if key not in records]:
        msg = f"{len(unscored)} of {len(by_key)} answers could not be scored by {scorer.name}. Run it again to retry."
        warnings.warn(msg, stacklevel=3)
    return {key: records[key]["score"] if key in records else None for key in by_key}


def _score(scorer: Scorer, answer: Answer) -> float | None:
    try:
        return _lasting_score(scorer, answer)
    except _TRANSIENT_ERRORS:
        return None


def _lasting_score(scorer: Scorer, answer: Answer) -> float | None:
    """Return a score, or `None` if the answer has none however often it is scored.

    Raises:
        EngineMemoryError: Now there is too little memory.
        GenerationTimeoutError: Now it takes too long.
    """
    try:
        score = scorer.score(answer)
    except _TRANSIENT_ERRORS:
        raise
    except PER_QUESTION_ERRORS:  # an answer that filled the context may exceed it after tokenising it again
        return None
    return None if score is None or not math.isfinite(score) else float(score)


def _file_name(scorer: Scorer) -> str:
    """Return a name that differs for scorers with the same name and different `identity`."""
    digest = hashlib.sha256(scorer.identity.encode()).hexdigest()[:8] if scorer.identity else ""
    return "-".join(filter(None, ("scores", _slug(scorer.name), digest)))


def _slug(name: str) -> str:
    return "".join(character if character.isalnum() else "-" for character in name).lower()
