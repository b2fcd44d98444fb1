"""Runs models whose memory is no row of tokens, recurrent and hybrid ones: each row by itself, simply."""

import copy
import inspect
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from langchain_amulet.engine.devices import free_bytes
from langchain_amulet.engine.runners.probe import explain_mismatch, probe_prompts
from langchain_amulet.exceptions import UnsupportedModelError

_CACHE_NAMES = ("past_key_values", "cache_params")
_UNBOUNDED_CONTEXT = 2**31


@dataclass(slots=True)
class _Row:
    input_ids: list[int] = field(default_factory=list)
    cache: Any = None  # the model's own, over all but the tokens still to be read
    num_cached: int = 0


class SequentialRunner:
    """One forward per row and token, with the model's own cache, or without any where that is not to be trusted.

    Args:
        model: Any `AutoModelForCausalLM`.

    Raises:
        UnsupportedModelError: The model does not return next-token logits for token ids.
    """

    is_incremental = False
    bytes_per_token = 0  # what such models keep does not grow with the tokens, or not in one way

    def __init__(self, model: PreTrainedModel) -> None:
        self._model = model
        self._config = model.config.get_text_config(decoder=True)
        parameters = inspect.signature(model.forward).parameters
        self._cache_name = next((name for name in _CACHE_NAMES if name in parameters), None)
        self._keeps_logits = "logits_to_keep" in parameters
        self._rows: list[_Row] = []
        self._probe()

    @property
    def model(self) -> PreTrainedModel:
        """The model itself, for forwards that use no rows."""
        return self._model

    @property
    def device(self) -> torch.device:
        """Where token ids go, and logits come from."""
        return torch.device(self._model.device)

    @property
    def max_context(self) -> int:
        """Tokens that the model takes in one row."""
        return int(getattr(self._config, "max_position_embeddings", None) or _UNBOUNDED_CONTEXT)

    @property
    def vocab_size(self) -> int:
        """V; token ids are below it."""
        return int(self._config.vocab_size)

    @property
    def uses_cache(self) -> bool:
        """Whether the model's own cache is used; else each token reads the whole row again."""
        return self._cache_name is not None

    def free_bytes(self) -> int:
        """Memory that the device has to spare."""
        return free_bytes(self.device)

    def reserve(self, num_rows: int, num_tokens: int, max_bytes: int) -> None:  # noqa: ARG002 - rows grow by themselves
        """Make room for that many rows."""
        self._rows += [_Row() for _ in range(num_rows - len(self._rows))]

    def prefill(self, first_row: int, input_ids: Sequence[Sequence[int]]) -> Tensor:
        """Add tokens to consecutive rows, one row after another.

        Returns:
            Logits of the token after them, `(rows, V)`.
        """
        rows = self._rows[first_row : first_row + len(input_ids)]
        try:
            logits = torch.stack([self._read(row, ids) for row, ids in zip(rows, input_ids, strict=True)])
        except BaseException:
            for row in rows:  # whose states may have moved on; they are read anew
                row.cache, row.num_cached = None, 0
            raise
        for row, ids in zip(rows, input_ids, strict=True):
            row.input_ids = [*row.input_ids, *ids]
        return logits

    def decode(self, input_ids: Sequence[int]) -> Tensor:
        """Add one token to each of the rows from 0 on.

        Returns:
            Logits of the token after it, `(rows, V)`.
        """
        return self.prefill(0, [[token_id] for token_id in input_ids])

    def truncate(self, row: int, num_tokens: int, *, erase: bool = False) -> None:  # noqa: ARG002 - rows are dropped
        """Forget what a row holds beyond its first tokens."""
        self._rows[row] = _Row(self._rows[row].input_ids[:num_tokens])

    def copy_prefix(self, source: int, target: int, num_tokens: int) -> None:
        """Let the target row hold the first tokens of the source row, and nothing else."""
        copied = self._rows[source]
        if num_tokens == len(copied.input_ids):
            self._rows[target] = copy.deepcopy(copied)
        else:
            self._rows[target] = _Row(copied.input_ids[:num_tokens])

    def save(self, row: int, num_tokens: int) -> list[int]:
        """The first tokens of a row; what the model made of them cannot be cut short."""
        return self._rows[row].input_ids[:num_tokens]

    def load(self, saved: list[int], row: int, num_tokens: int) -> None:
        """Let a row hold the first tokens of what `save` returned, and nothing else."""
        self._rows[row] = _Row(saved[:num_tokens])

    def release(self) -> None:
        """Give all memory back."""
        self._rows = []

    @torch.inference_mode()
    def _read(self, row: _Row, more_ids: Sequence[int]) -> Tensor:
        """Logits of the token after those that are added; what the row is said to hold stays as it was."""
        input_ids = [*row.input_ids, *more_ids]
        # Recurrent layers differ in whether they read several tokens onto a state; one is what all of them can do.
        start = row.num_cached if len(more_ids) == 1 and row.num_cached == len(row.input_ids) else 0
        keywords: dict[str, Any] = {"use_cache": self.uses_cache}
        if self._cache_name is not None and start:
            keywords[self._cache_name] = row.cache
        if self._keeps_logits:
            keywords["logits_to_keep"] = 1
        output = self._model(input_ids=torch.tensor([input_ids[start:]], device=self.device), **keywords)
        if self._cache_name is not None:
            row.cache, row.num_cached = getattr(output, self._cache_name), len(input_ids)
        logits: Tensor = output.logits[0, -1]
        return logits

    def _probe(self) -> None:
        """Try the model's own cache against plain forwards, and do without it if it gives other logits."""
        prompts = probe_prompts(self.vocab_size, self.max_context)
        while mismatch := explain_mismatch(self._model, prompts, lambda: self._probed(prompts)):
            if self._cache_name is None:
                msg = f"{self._config.model_type} does not give logits for token ids: {mismatch}."
                raise UnsupportedModelError(msg)
            self._cache_name = None
        self.release()

    def _probed(self, prompts: list[list[int]]) -> Tensor:
        self.release()
        self.reserve(len(prompts), 0, 0)
        self.prefill(0, [ids[:-2] for ids in prompts])
        self.decode([ids[-2] for ids in prompts])
        return self.decode([ids[-1] for ids in prompts])
