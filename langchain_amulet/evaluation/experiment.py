"""A whole study: the answers of all methods, and whatever else was asked for, as one report."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from langchain_core.language_models import BaseChatModel

from langchain_amulet.chat_models import ChatAmulet
from langchain_amulet.evaluation.analysis.costs import Cost, measure
from langchain_amulet.evaluation.analysis.judge import Judge
from langchain_amulet.evaluation.evaluator import evaluate
from langchain_amulet.evaluation.methods.ablations import ablation, ablation_methods
from langchain_amulet.evaluation.methods.method import Method, distinct_runs, paper_methods
from langchain_amulet.evaluation.protocol import PAPER_TABLE, Protocol
from langchain_amulet.evaluation.questions.datasets import Dataset
from langchain_amulet.evaluation.questions.dimensions import Dimension, as_dimension
from langchain_amulet.evaluation.reports import sections
from langchain_amulet.evaluation.reports.report import Report, Section
from langchain_amulet.evaluation.results import Evaluation
from langchain_amulet.evaluation.runs.folder import JsonlRecords, alone_in
from langchain_amulet.evaluation.scorers.likelihood import log_perplexity
from langchain_amulet.evaluation.scorers.refusals import load_harmful, refusal
from langchain_amulet.evaluation.scorers.scorer import Scorer
from langchain_amulet.evaluation.scorers.text import deterministic_scorers
from langchain_amulet.exceptions import InvalidParameterError

BASELINE = "pref"
REFUSAL_METHODS = ("base", "pref", "amulet (paper)", "amulet (guarded)", "default (guarded)")
_NUM_TIMED = 2  # questions on which costs are measured


@dataclass(frozen=True, slots=True)
class Experiment:
    """What a study asks for.

    Raises:
        InvalidParameterError: The method that all are compared with is missing, or there is no such ablation.
    """

    llm: ChatAmulet
    datasets: Sequence[Dataset]
    folder: str | Path
    """Of the run, and of its report."""
    methods: Sequence[Method] = field(default_factory=paper_methods)
    dimensions: Sequence[str | Dimension] = PAPER_TABLE
    protocol: Protocol = field(default_factory=Protocol)
    scorers: Sequence[Scorer] = ()
    """Besides the deterministic ones and log_perplexity, such as reward models."""
    judge: BaseChatModel | None = None
    perplexity_limit: int | None = None
    """Questions of each dataset whose answers' perplexity is told, a forward each; `None`: all, 0: none."""
    ablations: Sequence[str] = ()
    """Parameters; at the first temperature only."""
    ablation_limit: int = 2
    """Questions of each dataset that ablations ask."""
    has_refusals: bool = False
    """Whether to ask what should be refused; at the first temperature only."""
    has_efficiency: bool = False
    """Whether to measure what methods cost; best on a machine that does nothing else."""
    title: str = "Evaluation"

    def __post_init__(self) -> None:
        """Refuse what could not be compared."""
        missing = {BASELINE, *(("base",) if self.has_refusals else ())} - {method.name for method in self.methods}
        if missing:
            msg = f"Methods are compared with {' and '.join(sorted(missing))}; add it to the methods."
            raise InvalidParameterError(msg)
        if self.ablation_limit < 1 or (self.perplexity_limit or 0) < 0:
            msg = "ablation_limit must be at least 1, and perplexity_limit at least 0."
            raise InvalidParameterError(msg)
        for parameter in self.ablations:
            ablation(parameter)

    def run(self) -> Report:
        """Answer, judge and measure whatever is not done yet, and write the report.

        Raises:
            RunError: The folder holds a run of another model or protocol.
        """
        with alone_in(self.folder):
            report = Report(self.title, self._sections())
        report.write(self.folder)
        return report

    def _sections(self) -> list[Section]:
        scorers = [*deterministic_scorers(), *self.scorers]
        if self.perplexity_limit != 0:
            scorers.append(log_perplexity(self.llm, self.protocol.system, limit=self.perplexity_limit))
        evaluation = self._evaluate(self.datasets, self.methods, scorers, self.protocol)
        parts = [sections.setup_section(evaluation), *sections.results_sections(evaluation, baseline=BASELINE)]
        if self.judge is not None:
            parts.append(self._judged(evaluation, self.judge))
        if self.has_refusals:
            parts.append(self._refusals())
        if self.ablations:
            parts.append(self._ablations())
        if self.has_efficiency:
            parts.append(self._efficiency())
        return [*parts, sections.examples_section(evaluation)]

    def _evaluate(
        self, datasets: Sequence[Dataset], methods: Sequence[Method], scorers: Sequence[Scorer], protocol: Protocol
    ) -> Evaluation:
        return evaluate(
            datasets,
            methods,
            scorers,
            llm=self.llm,
            folder=self.folder,
            dimensions=self.dimensions,
            protocol=protocol,
        )

    @property
    def _at_first_temperature(self) -> Protocol:
        return replace(self.protocol, temperatures=self.protocol.temperatures[:1])

    def _judged(self, evaluation: Evaluation, llm: BaseChatModel) -> Section:
        judge = Judge(llm, JsonlRecords(Path(self.folder) / "verdicts.jsonl"))
        judgements = [
            judge.judge(evaluation, baseline=BASELINE, temperature=temperature)
            for temperature in evaluation.temperatures
        ]
        return sections.judge_section(evaluation, judgements)

    def _refusals(self) -> Section:
        methods = [method for method in self.methods if method.name in REFUSAL_METHODS]
        protocol = replace(self._at_first_temperature, limit=None)
        return sections.refusals_section(self._evaluate([load_harmful()], methods, [refusal()], protocol))

    def _ablations(self) -> Section:
        protocol = replace(self._at_first_temperature, limit=self.ablation_limit)
        methods = {method.name: method for method in ablation_methods(self.ablations)}
        scorers = [*deterministic_scorers(), *self.scorers]
        evaluation = self._evaluate(self.datasets, [*methods.values()], scorers, protocol)
        return sections.ablations_section(evaluation, self.ablations)

    def _efficiency(self) -> Section:
        timed = sorted(distinct_runs(self.methods), key=lambda method: method.name != "base")  # plain decoding first
        questions = [sample.question for sample in self.datasets[0].samples[:_NUM_TIMED]]
        preference = as_dimension(self.dimensions[0]).text
        kept = JsonlRecords(Path(self.folder) / "costs.jsonl")
        model = self.llm.load().model
        place = [str(model.device), str(model.dtype)]
        key = json.dumps([[method.run for method in timed], questions, preference, self.protocol.max_tokens, place])
        if key not in kept:
            costs = measure(timed, questions, llm=self.llm, preference=preference, max_tokens=self.protocol.max_tokens)
            kept.append({"key": key, "costs": [asdict(cost) for cost in costs]})
        return sections.efficiency_section([Cost(**cost) for cost in kept[key]["costs"]])
