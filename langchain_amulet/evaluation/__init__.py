"""Evaluations: the paper's protocol, the same for all methods, resumable, with honest errors.

from langchain_amulet.evaluation import evaluate, load_dataset, paper_methods, deterministic_scorers
"""

from langchain_amulet.evaluation.ablations import PARAMETERS, ablation
from langchain_amulet.evaluation.answers import Answer
from langchain_amulet.evaluation.datasets import Dataset, Sample, load_dataset
from langchain_amulet.evaluation.dimensions import DIMENSIONS, Dimension
from langchain_amulet.evaluation.evaluator import evaluate
from langchain_amulet.evaluation.experiment import Experiment
from langchain_amulet.evaluation.judge import Judge
from langchain_amulet.evaluation.methods import Ask, Method, paper_methods, realigned
from langchain_amulet.evaluation.protocol import PAPER_TABLE, Protocol
from langchain_amulet.evaluation.report import Report, Section
from langchain_amulet.evaluation.results import Evaluation
from langchain_amulet.evaluation.reward_models import RewardModel
from langchain_amulet.evaluation.scorers import Scorer, deterministic_scorers, log_perplexity, preference_evidence
from langchain_amulet.evaluation.searching import beam_search, best_of

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
