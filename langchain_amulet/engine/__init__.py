"""The engine: token ids in, token ids out."""

from langchain_amulet.engine.config import EngineConfig
from langchain_amulet.engine.engine import Engine, EngineStats
from langchain_amulet.engine.generation import Generation
from langchain_amulet.engine.params import Request, SamplingParams
from langchain_amulet.engine.runner import Runner
from langchain_amulet.engine.sequence import FinishReason, TokenLogprobs
from langchain_amulet.engine.sequential_runner import SequentialRunner
from langchain_amulet.engine.transformers_runner import TransformersRunner

__all__ = [
    "Engine",
    "EngineConfig",
    "EngineStats",
    "FinishReason",
    "Generation",
    "Request",
    "Runner",
    "SamplingParams",
    "SequentialRunner",
    "TokenLogprobs",
    "TransformersRunner",
]
