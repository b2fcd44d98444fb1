"""Evaluations: the paper's protocol, the same for all methods, resumable, with honest errors.

from langchain_amulet.evaluation import evaluate, load_dataset, paper_methods, deterministic_scorers
"""

from langchain_amulet.evaluation.analysis.judge import Judge
from langchain_amulet.evaluation.evaluator import evaluate
from langchain_amulet.evaluation.experiment import Experiment
from langchain_amulet.evaluation.methods.ablations import PARAMETERS, ablation
from langchain_amulet.evaluation.methods.method import Ask, Method, paper_methods, realigned
from langchain_amulet.evaluation.methods.search import beam_search, best_of
from langchain_amulet.evaluation.protocol import PAPER_TABLE, Protocol
from langchain_amulet.evaluation.questions.datasets import Dataset, Sample, load_dataset
from langchain_amulet.evaluation.questions.dimensions import DIMENSIONS, Dimension
from langchain_amulet.evaluation.reports.report import Report, Section
from langchain_amulet.evaluation.results import Evaluation
from langchain_amulet.evaluation.runs.answer import Answer
from langchain_amulet.evaluation.scorers.likelihood import log_perplexity, preference_evidence
from langchain_amulet.evaluation.scorers.reward_models import RewardModel
from langchain_amulet.evaluation.scorers.scorer import Scorer
from langchain_amulet.evaluation.scorers.text import deterministic_scorers

__all__ = [
    "DIMENSIONS",
    "PAPER_TABLE",
    "PARAMETERS",
    "Answer",
    "Ask",
    "Dataset",
    "Dimension",
    "Evaluation",
    "Experiment",
    "Judge",
    "Method",
    "Protocol",
    "Report",
    "RewardModel",
    "Sample",
    "Scorer",
    "Section",
    "ablation",
    "beam_search",
    "best_of",
    "deterministic_scorers",
    "evaluate",
    "load_dataset",
    "log_perplexity",
    "paper_methods",
    "preference_evidence",
    "realigned",
]
