"""Our own contenders: the variants of weights and engine that this build of the package offers."""

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, fields
from functools import partial
from pathlib import Path
from typing import Any

import torch
from langchain_core.messages import AIMessageChunk
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from langchain_amulet import ChatAmulet, Preference
from langchain_amulet.engine.config import EngineConfig
from langchain_amulet.exceptions import AmuletError
from langchain_amulet.models.defaults import default_device
from langchain_amulet.models.gguf import converted_folder
from langchain_amulet.models.sources import locate
from tests.benchmarks.contenders import (
    ONE_PREFERENCE,
    PLAIN,
    TWO_PREFERENCES,
    Contender,
    NotAvailableError,
    Stamps,
    at_once,
    stamped,
)
from tests.benchmarks.machine import weight_bytes
from tests.benchmarks.models import LONG_QUESTION, PREFERENCES

NUM_DRAFT_TOKENS = 16
_FIELDS = {each.name for each in fields(EngineConfig)}
_BARE = {"mode": "eager", "num_draft_tokens": 0}  # what a build without modes or speculation always does


@dataclass(frozen=True, slots=True)
class Variant:
    """Which weights, and how they are run."""

    weights: str
    """`"plain"`: as transformers loads them. `"default"`: as `ChatAmulet` does. Otherwise the quantisation."""
    engine: dict[str, Any] = field(default_factory=dict)
    """Fields of `EngineConfig`."""


VARIANTS = {
    "eager": Variant("plain"),
    "packed": Variant("packed"),
    "compiled": Variant("default", {"mode": "compiled"}),
    "int8": Variant("int8"),
    "int4": Variant("int4"),
    "speculative": Variant("default", {"num_draft_tokens": NUM_DRAFT_TOKENS}),
    "int8 compiled": Variant("int8", {"mode": "compiled"}),
    "int4 compiled": Variant("int4", {"mode": "compiled"}),
}
DEFAULT_VARIANTS = tuple(VARIANTS)[:6]


class Weights:
    """Loads each kind of weights once, so that variants that differ in the engine only share them.

    Args:
        model: A hub id, a folder or a GGUF file; `None` is the packaged model.
        dtype: The name of the dtype of weights, or of activations where the weights are quantised.
    """

    def __init__(self, model: str | None, dtype: str) -> None:
        self.source = locate(model)
        self.dtype = dtype
        self.tokenizer: Any = AutoTokenizer.from_pretrained(self._location)
        self._loaded: dict[str, PreTrainedModel] = {}

    def load(self, kind: str) -> PreTrainedModel:
        """Return a model that never ends an answer by itself, so that all answers have the same length.

        Raises:
            NotAvailableError: This build or this machine has no such weights.
        """
        if kind == "packed":
            if _classes(self.load("default")) == _classes(self.load("plain")):
                msg = "ChatAmulet loads plain linear layers on this build and device"
                raise NotAvailableError(msg)
            kind = "default"
        if kind not in self._loaded:
            self._loaded[kind] = self._load(kind)
            self._loaded[kind].generation_config.eos_token_id = None
        return self._loaded[kind]

    def _load(self, kind: str) -> PreTrainedModel:
        if kind == "plain":  # by transformers alone, whatever the package would do with the layers
            loaded: Any = AutoModelForCausalLM.from_pretrained(self._location, dtype=getattr(torch, self.dtype))
            plain: PreTrainedModel = loaded.to(default_device()).eval()
            return plain
        settings = {} if kind == "default" else {"quantization": kind}
        return loaded_by_us(self.source.location, self.dtype, settings).load().model

    @property
    def _location(self) -> str:
        if not self.source.is_gguf:
            return self.source.location
        folder = converted_folder(self.source.path, getattr(torch, self.dtype))
        if folder is None:
            msg = f"{self.source.path} is too large to be converted; pass a folder of safetensors as --model"
            raise NotAvailableError(msg)
        return str(folder)


def loaded_by_us(location: str, dtype: str, settings: dict[str, Any]) -> ChatAmulet:
    """Load a model as a user would.

    Raises:
        NotAvailableError: `ChatAmulet` has no such setting on this build, or refuses it on this machine.
    """
    if unknown := settings.keys() - ChatAmulet.model_fields.keys():
        msg = f"this build has no ChatAmulet({', '.join(sorted(unknown))}=...)"
        raise NotAvailableError(msg)
    try:
        llm = ChatAmulet(model=location, model_kwargs={"dtype": dtype}, **settings)
        llm.load()
    except (AmuletError, ValueError) as error:
        raise NotAvailableError(str(error)) from error
    return llm


def bare_engine() -> dict[str, Any]:
    """Return the fields of `EngineConfig` with which nothing is compiled and nothing is guessed."""
    return {name: value for name, value in _BARE.items() if name in _FIELDS}


def check_engine(wanted: dict[str, Any]) -> None:
    """Raise `NotAvailableError` if this build's `EngineConfig` lacks one of these fields."""
    if unknown := wanted.keys() - _FIELDS:
        msg = f"this build has no EngineConfig({', '.join(sorted(unknown))}=...)"
        raise NotAvailableError(msg)


def chat_model(weights: Weights, variant: Variant, num_tokens: int) -> ChatAmulet:
    """Return a greedy chat model of a variant, which reuses nothing between calls.

    Raises:
        NotAvailableError: This build or this machine has no such weights or no such engine.
    """
    wanted = bare_engine() | variant.engine
    check_engine(wanted)
    # With a tokenizer of its own, each variant gets its own engine on the shared weights.
    return ChatAmulet(
        model=weights.load(variant.weights),
        tokenizer=copy.copy(weights.tokenizer),
        temperature=0.0,
        max_tokens=num_tokens,
        engine_config=EngineConfig(prefix_cache_bytes=0, **wanted),
    )


def _classes(model: PreTrainedModel) -> set[type]:
    return {type(module) for module in model.modules()}


def contenders(name: str, llm: ChatAmulet, num_tokens: int) -> list[Contender]:
    """Return the contenders of a variant: plain, with one preference, and with two of different weight."""
    size = weight_bytes(llm.load().model)

    def read(preferences: Callable[[int], list[Preference]], user: int) -> list[float]:
        counts: list[int] = []

        def chunks() -> Iterator[AIMessageChunk]:
            for chunk in llm.stream(LONG_QUESTION, preference=preferences(user)):
                if chunk.usage_metadata:
                    counts.append(chunk.usage_metadata["output_tokens"])
                yield chunk

        stamps = stamped(chunks())
        assert sum(counts) == num_tokens, "answers of another length cannot be compared"
        return stamps

    def answer(preferences: Callable[[int], list[Preference]], num_users: int) -> Stamps:
        return at_once(partial(read, preferences), num_users)

    wishes = {
        PLAIN: lambda _: [],
        ONE_PREFERENCE: partial(_wishes, (1.0,)),
        TWO_PREFERENCES: partial(_wishes, (1.0, 0.5)),
    }
    return [
        Contender(
            f"ours, {name}", prompt, partial(answer, of), size, most_users=1 if of is wishes[TWO_PREFERENCES] else None
        )
        for prompt, of in wishes.items()
    ]


def _wishes(weights: tuple[float, ...], user: int) -> list[Preference]:
    """Return preferences with these weights, different ones for eight users in turn."""
    return [Preference(PREFERENCES[(user + i) % len(PREFERENCES)], weight) for i, weight in enumerate(weights)]


def path_of(weights: Weights) -> Path:
    """Return where the model is; the path of a hub id does not exist."""
    return Path(weights.source.location)
