"""A chat model whose weights load into this process on first use: loading, closing and copying it."""

import gc
from abc import ABC
from typing import Annotated, Any, Self

import torch
from pydantic import BeforeValidator, Field, PlainValidator, PrivateAttr

from langchain_amulet.chat.field_types import from_dict
from langchain_amulet.engine.config import EngineConfig
from langchain_amulet.engine.engine import Engine
from langchain_amulet.foreign_errors import failed_load, shielded
from langchain_amulet.memory.access import tell_when_forgetting
from langchain_amulet.models.identity import closed_source
from langchain_amulet.models.linear_layers.options import check_quantization
from langchain_amulet.models.linear_layers.preparation import Quantization
from langchain_amulet.models.registry import LoadedModel, load
from langchain_amulet.models.sources import (
    ModelSource,
    TokenizerSource,
    check_source,
    check_tokenizer,
    model_name,
)
from langchain_amulet.personalization.entry_points import PersonalizedChatModel

_SHARED_BY_COPIES = ("model", "tokenizer", "memory", "cache", "callbacks", "rate_limiter", "_loaded")


class LocalChatModel(PersonalizedChatModel, ABC):
    """What `ChatAmulet` does with its model. Copies of any kind share the model, its engine and the memory."""

    model: Annotated[ModelSource, BeforeValidator(check_source)] = Field(default=None, repr=False)
    """Hub id, local folder, GGUF file, or a loaded `PreTrainedModel`. `None`: the packaged SmolLM2-135M-Instruct."""
    tokenizer: Annotated[TokenizerSource, PlainValidator(check_tokenizer)] = Field(default=None, repr=False)
    """A fast tokenizer, or where to load it from; required with a loaded model. `None`: the model's own."""
    model_kwargs: dict[str, Any] = Field(default_factory=dict, repr=False)
    """Arguments of `from_pretrained`: `dtype`, `device_map`, `quantization_config`, `revision`, `token`, ..."""
    quantization: Annotated[Quantization | None, BeforeValidator(check_quantization)] = None
    """`"int8"` or `"int4"`: store the weights of linear layers so. It takes less memory, and for few users less time.
    Answers change a little, with int4 more. On GPUs it needs torchao. `None`: as loaded."""
    pack_weights: bool | None = Field(default=None, repr=False)
    """Whether linear layers on the CPU are packed for its matrix kernels. `None`: where that has been measured to be
    faster. `True` also changes a model that is passed in loaded; see `models/linear_layers/`."""
    engine_config: Annotated[EngineConfig | None, from_dict(EngineConfig)] = Field(default=None, repr=False)
    """How many requests the engine runs at once, and with how much memory. All instances of a model share one engine
    and must agree on its config; `None` accepts that of a running engine."""

    _loaded: LoadedModel | None = PrivateAttr(default=None)  # keeps the model in memory; `load` says which one it is

    @shielded(failed_load)
    def load(self) -> LoadedModel:
        """Load the model that the fields name, or return it if this process has loaded it already.

        Returns:
            The transformers model, its tokenizer and the engine that runs it.

        Raises:
            ModelClosedError: This `ChatAmulet` was closed, or is a copy of one that was.
            ModelNotFoundError: The model does not exist.
            ModelLoadError: The model or its tokenizer cannot be loaded.
            InvalidParameterError: The model is loaded already with a different `engine_config`, or cannot be quantised.
        """
        # The registry is asked each time, so that a field that was assigned counts at once.
        loaded = load(
            self.model,
            self.tokenizer,
            self.model_kwargs,
            self.engine_config,
            quantization=self.quantization,
            pack_weights=self.pack_weights,
        )
        if loaded is not self._loaded:
            self._loaded = loaded
            tell_when_forgetting(loaded.engine)
        return loaded

    @property
    def engine(self) -> Engine:
        """The engine that runs the model, shared by all instances of the model. Loads the model on first access."""
        return self.load().engine

    def close(self) -> None:
        """Release the model. Its memory is freed when no other object uses it; copies made later are closed too."""
        self.model = closed_source(self.model)
        self._loaded = self.tokenizer = None
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    @property
    def _name(self) -> str:
        return model_name(self.model)

    def __deepcopy__(self, memo: dict[int, Any] | None = None) -> Self:
        """Return a copy with settings of its own, which shares the model, the memory and the like."""
        memo = {} if memo is None else memo
        memo.update((id(shared), shared) for shared in (getattr(self, name) for name in _SHARED_BY_COPIES))
        return super().__deepcopy__(memo)

    def __getstate__(self) -> dict[Any, Any]:
        """Return what is pickled: all but the engine, which the unpickled model loads anew on first use."""
        state = super().__getstate__()
        return {**state, "__pydantic_private__": {**(state["__pydantic_private__"] or {}), "_loaded": None}}
