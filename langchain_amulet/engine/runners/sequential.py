"""Runs recurrent and hybrid models, one row at a time.

Their state does not consist of one entry per token, so rows cannot be cut, copied in part or batched.
"""

import copy
import inspect
from collections.abc import Generator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from langchain_amulet.engine.device_memory import free_bytes
from langchain_amulet.engine.runners.plain_forward import logits_to_keep, token_log_probs
from langchain_amulet.engine.runners.probe import explain_mismatch, probe_prompts
from langchain_amulet.exceptions import UnsupportedModelError

_CACHE_NAMES = ("past_key_values", "cache_params")
_UNBOUNDED_CONTEXT = 2**31


@dataclass(slots=True)
class _Row:
    input_ids: list[int] = field(default_factory=list)
    cache: Any = None  # the model's own cache, over the first `num_cached` tokens
    num_cached: int = 0


class SequentialRunner:
    """Runs one forward per row and token, with the model's own cache, or without it if a probe shows that it is wrong.

    Args:
        model: Any `AutoModelForCausalLM`.

    Raises:
        UnsupportedModelError: The model does not return next-token logits for token ids.
    """

    is_incremental = False
    num_graphs = 0
    bytes_per_token = 0  # the state does not grow in proportion to the tokens

    def __init__(self, model: PreTrainedModel) -> None:
        self._model = model
        self._config = model.config.get_text_config(decoder=True)
        parameters = inspect.signature(model.forward).parameters
        self._cache_name = next((name for name in _CACHE_NAMES if name in parameters), None)
        self._logits_to_keep = logits_to_keep(model, 1)
        self._rows: list[_Row] = []
        self._probe()

    @property
    def device(self) -> torch.device:
        """The device of the token ids and the logits."""
        return torch.device(self._model.device)

    @property
    def max_context(self) -> int:
        """The most tokens that the model accepts in one row."""
        return int(getattr(self._config, "max_position_embeddings", None) or _UNBOUNDED_CONTEXT)

    @property
    def vocab_size(self) -> int:
        """V, the number of token ids."""
        return int(self._config.vocab_size)

    @property
    def uses_cache(self) -> bool:
        """Whether the model's own cache is used; otherwise each token recomputes the whole row."""
        return self._cache_name is not None

    def free_bytes(self) -> int:
        """Return the free memory of the device."""
        return free_bytes(self.device)

    def reserve(self, num_rows: int, num_tokens: int, max_bytes: int) -> None:  # noqa: ARG002 - rows are lists
        """Make sure that there are `num_rows` rows."""
        self._rows += [_Row() for _ in range(num_rows - len(self._rows))]

    def prefill(self, first_row: int, input_ids: Sequence[Sequence[int]]) -> Tensor:
        """Append tokens to consecutive rows, one row after another.

        Returns:
            Logits of the token after them, `(rows, V)`; undefined for a row without new tokens.
        """
        rows = self._rows[first_row : first_row + len(input_ids)]
        try:
            logits = torch.stack([self._read(row, ids) for row, ids in zip(rows, input_ids, strict=True)])
        except BaseException:
            for row in rows:  # their states may be ahead of their tokens: drop them
                row.cache, row.num_cached = None, 0
            raise
        for row, ids in zip(rows, input_ids, strict=True):
            row.input_ids = [*row.input_ids, *ids]
        return logits

    def decode(self, input_ids: Sequence[int]) -> Tensor:
        """Append one token to each of the rows from 0 on.

        Returns:
            Logits of the next token, `(rows, V)`.
        """
        return self.prefill(0, [[token_id] for token_id in input_ids])

    def verify(self, input_ids: Sequence[Sequence[int]]) -> Tensor:
        """Not possible: a state that has read a wrong token cannot go back to the state before it."""
        raise NotImplementedError

    def score(
        self,
        pairs: Sequence[tuple[Sequence[int], Sequence[int]]],
        *,
        max_tokens: int,  # noqa: ARG002 - a state cannot be continued by several tokens, so each text is one forward
    ) -> Generator[None, None, list[Tensor]]:
        """Score texts after their prompts, one forward per text, and yield after each.

        Args:
            pairs: Token ids of each prompt and of the text after it, at least one each.
            max_tokens: Has no effect.

        Returns:
            The log-probabilities of each text's tokens in nats, `(tokens,)`, float32 on the CPU.
        """
        scored = []
        for prompt, text in pairs:
            scored.append(token_log_probs(self._model, prompt, text))
            yield
        return scored

    def truncate(self, row: int, num_tokens: int, *, erase: bool = False) -> None:  # noqa: ARG002 - rows are replaced
        """Shorten a row to its first tokens, and drop its state."""
        self._rows[row] = _Row(self._rows[row].input_ids[:num_tokens])

    def copy_prefix(self, source: int, target: int, num_tokens: int) -> None:
        """Replace the target row by the first tokens of the source row."""
        copied = self._rows[source]
        if num_tokens == len(copied.input_ids):
            self._rows[target] = copy.deepcopy(copied)
        else:
            self._rows[target] = _Row(copied.input_ids[:num_tokens])

    def save(self, row: int, num_tokens: int) -> list[int]:
        """Return the first tokens of a row; the state after them cannot be recovered."""
        return self._rows[row].input_ids[:num_tokens]

    def load(self, saved: list[int], row: int, num_tokens: int) -> None:
        """Replace a row by the first tokens of what `save` returned."""
        self._rows[row] = _Row(saved[:num_tokens])

    def release(self) -> None:
        """Drop all rows."""
        self._rows = []

    @torch.inference_mode()
    def _read(self, row: _Row, more_ids: Sequence[int]) -> Tensor:
        """Return the logits of the token after the added ones, `(V,)`. Leaves `row.input_ids` unchanged."""
        input_ids = [*row.input_ids, *more_ids]
        # Not all recurrent layers can read several tokens onto an existing state; all can read one.
        start = row.num_cached if len(more_ids) == 1 and row.num_cached == len(row.input_ids) else 0
        keywords: dict[str, Any] = {"use_cache": self.uses_cache, **self._logits_to_keep}
        if self._cache_name is not None and start:
            keywords[self._cache_name] = row.cache
        output = self._model(input_ids=torch.tensor([input_ids[start:]], device=self.device), **keywords)
        if self._cache_name is not None:
            row.cache, row.num_cached = getattr(output, self._cache_name), len(input_ids)
        logits: Tensor = output.logits[0, -1]
        return logits

    def _probe(self) -> None:
        """Compare the model's own cache with plain forwards, and disable it if the logits differ."""
        prompts = probe_prompts(self.vocab_size, self.max_context)
        while mismatch := explain_mismatch(self._model, prompts, lambda: self._probed(prompts)):
            if self._cache_name is None:
                msg = f"{self._config.model_type} does not return next-token logits for token ids: {mismatch}."
                raise UnsupportedModelError(msg)
            self._cache_name = None
        self.release()

    def _probed(self, prompts: list[list[int]]) -> Tensor:
        self.release()
        self.reserve(len(prompts), 0, 0)
        self.prefill(0, [ids[:-2] for ids in prompts])
        self.decode([ids[-2] for ids in prompts])
        return self.decode([ids[-1] for ids in prompts])
