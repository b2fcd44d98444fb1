"""The engine: token ids in, token ids out."""

from langchain_amulet.engine.config import EngineConfig
from langchain_amulet.engine.engine import Engine
from langchain_amulet.engine.generation import Generation
from langchain_amulet.engine.params import PrefixKeys, Request, SamplingParams
from langchain_amulet.engine.runners.batched import TransformersRunner
from langchain_amulet.engine.runners.protocol import Runner
from langchain_amulet.engine.runners.sequential import SequentialRunner
from langchain_amulet.engine.sequence import FinishReason, TokenLogprobs
from langchain_amulet.engine.stats import EngineStats

__all__ = [
    "Engine",
    "EngineConfig",
    "EngineStats",
    "FinishReason",
    "Generation",
    "PrefixKeys",
    "Request",
    "Runner",
    "SamplingParams",
    "SequentialRunner",
    "TokenLogprobs",
    "TransformersRunner",
]
