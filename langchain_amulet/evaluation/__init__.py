"""Evaluation of decoding methods: generates answers, scores them, and writes a report.

Every method answers every question for every preference.

    from langchain_amulet.evaluation import deterministic_scorers, evaluate, load_dataset, paper_methods

    evaluate(load_dataset("smoke"), paper_methods(), deterministic_scorers(), llm=llm, folder="run")

Where to add something:

    a dataset       questions/datasets.py: an entry in `_HUB`, or a file in data/ that `load_dataset` reads
    a preference    questions/dimensions.py: `DIMENSIONS`
    a wish          data/wishes.json: three wordings and the opposite; its checker in scorers/verifiable.py
    a method        methods/: a function that returns a `Method`; list it in `paper_methods` to run it by default
    a scorer        scorers/: a function that returns a `Scorer`; in `deterministic_scorers` if it needs no model
    a table         reports/: a function that returns a `Table`; list it in a section of reports/sections.py
    a plot          reports/plots.py: a function that returns a `Figure`; list it in a section of reports/sections.py
    a statistic     analysis/: statistics of numbers in statistics.py, comparisons of methods in comparisons.py

`evaluate` (evaluator.py) generates and scores the answers, and stores them in the folder of runs/.
`Experiment` (experiment.py) calls it and writes the report; `amulet eval` (cli/evaluate.py) calls `Experiment`.
"""

from langchain_amulet.evaluation.analysis.judge import Judge
from langchain_amulet.evaluation.analysis.local_judge import LocalJudge
from langchain_amulet.evaluation.evaluator import evaluate
from langchain_amulet.evaluation.experiment import Experiment
from langchain_amulet.evaluation.methods.ablations import PARAMETERS, ablation
from langchain_amulet.evaluation.methods.method import Ask, Method, paper_methods, realigned
from langchain_amulet.evaluation.methods.search import beam_search, best_of
from langchain_amulet.evaluation.methods.steering import repeated_preference, steering_grid, steering_method
from langchain_amulet.evaluation.protocol import PAPER_TABLE, Protocol
from langchain_amulet.evaluation.questions.datasets import Dataset, Sample, load_dataset
from langchain_amulet.evaluation.questions.dimensions import DIMENSIONS, Dimension
from langchain_amulet.evaluation.questions.verifiable import WISHES, Wish, wish_of
from langchain_amulet.evaluation.reports.report import Report, Section
from langchain_amulet.evaluation.results import Evaluation
from langchain_amulet.evaluation.runs.answer import Answer
from langchain_amulet.evaluation.scorers.likelihood import (
    held_out_against_opposite,
    held_out_likelihood,
    likelihood_scorers,
    log_perplexity,
    preference_evidence,
    preference_nll,
)
from langchain_amulet.evaluation.scorers.reward_models import RewardModel
from langchain_amulet.evaluation.scorers.scorer import Scorer
from langchain_amulet.evaluation.scorers.text import deterministic_scorers
from langchain_amulet.evaluation.scorers.verifiable import kept

__all__ = [
    "DIMENSIONS",
    "PAPER_TABLE",
    "PARAMETERS",
    "WISHES",
    "Answer",
    "Ask",
    "Dataset",
    "Dimension",
    "Evaluation",
    "Experiment",
    "Judge",
    "LocalJudge",
    "Method",
    "Protocol",
    "Report",
    "RewardModel",
    "Sample",
    "Scorer",
    "Section",
    "Wish",
    "ablation",
    "beam_search",
    "best_of",
    "deterministic_scorers",
    "evaluate",
    "held_out_against_opposite",
    "held_out_likelihood",
    "kept",
    "likelihood_scorers",
    "load_dataset",
    "log_perplexity",
    "paper_methods",
    "preference_evidence",
    "preference_nll",
    "realigned",
    "repeated_preference",
    "steering_grid",
    "steering_method",
    "wish_of",
]
