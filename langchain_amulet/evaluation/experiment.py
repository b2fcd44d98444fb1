"""`Experiment`: an evaluation, its optional parts and its report."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from langchain_core.language_models import BaseChatModel

from langchain_amulet.chat_models import ChatAmulet
from langchain_amulet.evaluation.analysis.costs import Cost, measure
from langchain_amulet.evaluation.analysis.frontier import CHOOSE, REPORT
from langchain_amulet.evaluation.analysis.judge import Judge, Judgements, PairwiseJudge
from langchain_amulet.evaluation.analysis.local_judge import LocalJudge
from langchain_amulet.evaluation.evaluator import evaluate
from langchain_amulet.evaluation.methods.ablations import ablation, ablation_methods
from langchain_amulet.evaluation.methods.method import Method, amulet_methods, distinct_methods, paper_methods
from langchain_amulet.evaluation.protocol import PAPER_TABLE, Protocol
from langchain_amulet.evaluation.questions.datasets import Dataset
from langchain_amulet.evaluation.questions.dimensions import Dimension, as_dimension
from langchain_amulet.evaluation.questions.verifiable import WISHES
from langchain_amulet.evaluation.reports import sections
from langchain_amulet.evaluation.reports.frontier_section import chosen_methods, frontier_section
from langchain_amulet.evaluation.reports.report import Report, Section
from langchain_amulet.evaluation.results import Evaluation
from langchain_amulet.evaluation.runs.folder import JsonlRecords, locked
from langchain_amulet.evaluation.scorers.likelihood import likelihood_scorers, log_perplexity
from langchain_amulet.evaluation.scorers.refusals import load_harmful, refusal
from langchain_amulet.evaluation.scorers.scorer import Scorer
from langchain_amulet.evaluation.scorers.text import deterministic_scorers, strictly_degenerate
from langchain_amulet.evaluation.scorers.verifiable import kept
from langchain_amulet.exceptions import InvalidParameterError

_NUM_TIMED = 2  # questions for which costs are measured


@dataclass(frozen=True, slots=True)
class Experiment:
    """Settings of an experiment.

    Raises:
        InvalidParameterError: A method that others are compared with is missing, an ablation is unknown, or a limit is
            out of range.
    """

    llm: ChatAmulet
    datasets: Sequence[Dataset]
    folder: str | Path
    """Folder of the answers, the scores and the report."""
    methods: Sequence[Method] = field(default_factory=paper_methods)
    dimensions: Sequence[str | Dimension] = PAPER_TABLE
    protocol: Protocol = field(default_factory=Protocol)
    scorers: Sequence[Scorer] = ()
    """Scorers in addition to `deterministic_scorers` and `log_perplexity`, such as reward models."""
    judge: BaseChatModel | None = None
    """Chat model that compares the answers of each method with those of the baseline. A `ChatAmulet` decides by
    log-probabilities, and also scores how probably answers follow their preferences. `None` skips this section."""
    scoring_llm: ChatAmulet | None = None
    """Another model than the evaluated one, by whose likelihoods answers are scored. See `likelihood_scorers`."""
    scoring_limit: int | None = None
    """Score by `scoring_llm`, and one by one by a local judge, only the answers to the first questions of each dataset.
    `None` scores all."""
    num_chosen: int | None = None
    """Run all methods on the datasets whose names end in `-choose` only. On the others, run those without steering and
    the best of this number of steering methods. `None` runs all methods on all datasets."""
    perplexity_limit: int | None = None
    """Score the perplexity of answers to the first questions of each dataset. It needs a forward pass per answer.
    `None` scores all, 0 none."""
    ablations: Sequence[str] = ()
    """Names of ablations, from `PARAMETERS`. They run at the first temperature only."""
    ablation_limit: int = 2
    """Number of questions of each dataset for ablations."""
    has_refusals: bool = False
    """Whether to measure refusals of harmful requests, at the first temperature only."""
    has_efficiency: bool = False
    """Whether to measure time and memory. The machine should be idle otherwise."""
    title: str = "Evaluation"
    """Title of the report."""
    baseline: str = "pref"
    """Name of the method that all others are compared with."""

    def __post_init__(self) -> None:
        """Check settings before anything is generated."""
        if self.baseline not in {method.name for method in self.methods}:
            msg = f"The methods are compared with {self.baseline}; add it to the methods, or set another baseline."
            raise InvalidParameterError(msg)
        if self.has_refusals and all(method.uses_preference for method in self.methods):
            msg = "Refusals are compared with a method without preference, such as base; add it to the methods."
            raise InvalidParameterError(msg)
        if self.num_chosen is not None:
            self._check_halves(self.num_chosen)
        if self.ablation_limit < 1 or (self.perplexity_limit or 0) < 0:
            msg = (
                f"ablation_limit must be at least 1, got {self.ablation_limit}, and perplexity_limit must be None "
                f"or at least 0, got {self.perplexity_limit}."
            )
            raise InvalidParameterError(msg)
        for parameter in self.ablations:
            ablation(parameter)

    def _check_halves(self, num_chosen: int) -> None:
        are_for_choosing = {each.name.endswith(CHOOSE) for each in self.datasets}
        if num_chosen < 1 or len(are_for_choosing) == 1:
            msg = (
                f"num_chosen must be at least 1, got {num_chosen}, and needs datasets whose names end in {CHOOSE} and "
                f"others, such as verifiable{CHOOSE} and verifiable{REPORT}."
            )
            raise InvalidParameterError(msg)

    def run(self) -> Report:
        """Generate, score and measure everything that is not stored yet, and write the report.

        Raises:
            RunError: The folder has answers of another model or protocol, or another process uses it.
        """
        with locked(self.folder):
            report = Report(self.title, self._sections())
        report.write(self.folder)
        return report

    def _sections(self) -> list[Section]:
        evaluations = self._evaluations()
        evaluation = evaluations[-1]
        frontier = [
            frontier_section(evaluations, temperature, baseline=self.baseline)
            for temperature in evaluation.temperatures
        ]
        parts = [
            sections.setup_section(evaluation),
            *(section for section in frontier if section is not None),
            *sections.results_sections(evaluation, baseline=self.baseline),
        ]
        judgements = [] if self.judge is None else self._judgements(evaluation, self.judge)
        if judgements:
            parts.append(sections.judge_section(evaluation, judgements))
        if (agreement := sections.agreement_section(evaluation, judgements)) is not None:
            parts.append(agreement)
        if self.has_refusals:
            parts.append(self._refusals_section())
        if self.ablations:
            parts.append(self._ablations_section())
        if self.has_efficiency:
            parts.append(self._efficiency_section())
        return [*parts, sections.examples_section(evaluation)]

    def _evaluations(self) -> list[Evaluation]:
        """Return the evaluation of all datasets, or those of the halves for choosing and of the other datasets."""
        scorers = self._all_scorers()
        if self.num_chosen is None:
            return [self._evaluate(self.datasets, self.methods, scorers, self.protocol)]
        choose = [each for each in self.datasets if each.name.endswith(CHOOSE)]
        others = [each for each in self.datasets if each not in choose]
        first = self._evaluate(choose, self.methods, scorers, self.protocol)
        names = chosen_methods(first, self.num_chosen, baseline=self.baseline)
        methods = [each for each in self.methods if each.name in names]
        return [first, self._evaluate(others, methods, scorers, self.protocol)]

    def _all_scorers(self) -> list[Scorer]:
        system = self.protocol.system
        scorers = [*deterministic_scorers(), strictly_degenerate(), *self.scorers]
        if any(each.name in WISHES for dataset in self.datasets for each in _dimensions(dataset)):
            scorers.append(kept())
        if self.perplexity_limit != 0:
            scorers.append(log_perplexity(self.llm, system, limit=self.perplexity_limit))
        if self.scoring_llm is not None:
            scorers += likelihood_scorers(self.scoring_llm, system, limit=self.scoring_limit)
        if isinstance(self.judge, ChatAmulet):
            scorers.append(LocalJudge(self.judge).scorer(limit=self.scoring_limit))
        return scorers

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
    def _first_temperature(self) -> Protocol:
        return replace(self.protocol, temperatures=self.protocol.temperatures[:1])

    def _judgements(self, evaluation: Evaluation, llm: BaseChatModel) -> list[Judgements]:
        records = JsonlRecords(Path(self.folder) / "verdicts.jsonl", ["outcome"])
        judge: PairwiseJudge = LocalJudge(llm, records) if isinstance(llm, ChatAmulet) else Judge(llm, records)
        return [
            judge.judge(evaluation, baseline=self.baseline, temperature=temperature)
            for temperature in evaluation.temperatures
        ]

    def _refusals_section(self) -> Section:
        """Measure refusals of few methods, to save time: those without preference, the baseline, and Amulet."""
        amulet = {method.decoding_key for method in amulet_methods()}
        methods = [
            method
            for method in self.methods
            if not method.uses_preference or method.name == self.baseline or method.decoding_key in amulet
        ]
        protocol = replace(self._first_temperature, limit=None)
        return sections.refusals_section(self._evaluate([load_harmful()], methods, [refusal()], protocol))

    def _ablations_section(self) -> Section:
        protocol = replace(self._first_temperature, limit=self.ablation_limit)
        methods = {method.name: method for method in ablation_methods(self.ablations)}
        scorers = [*deterministic_scorers(), *self.scorers]
        evaluation = self._evaluate(self.datasets, [*methods.values()], scorers, protocol)
        return sections.ablations_section(evaluation, self.ablations)

    def _efficiency_section(self) -> Section:
        timed = sorted(distinct_methods(self.methods), key=lambda method: method.uses_preference)  # base is the first
        questions = [sample.question for sample in self.datasets[0].samples[:_NUM_TIMED]]
        preference = as_dimension(self.dimensions[0]).text
        records = JsonlRecords(Path(self.folder) / "costs.jsonl", ["costs"])
        model = self.llm.load().model
        place = [str(model.device), str(model.dtype)]
        keys = [method.decoding_key for method in timed]
        key = json.dumps([keys, questions, preference, self.protocol.max_tokens, place])
        if key not in records:
            costs = measure(timed, questions, llm=self.llm, preference=preference, max_tokens=self.protocol.max_tokens)
            records.append({"key": key, "costs": [asdict(cost) for cost in costs]})
        return sections.efficiency_section([Cost(**cost) for cost in records[key]["costs"]])


def _dimensions(dataset: Dataset) -> set[Dimension]:
    """Return the preferences that the dataset itself gives."""
    return {each for sample in dataset.samples for each in sample.preferences}
