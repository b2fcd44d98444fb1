"""Runs a transformers model over rows of different lengths."""

import logging
import time
from collections.abc import Generator, Sequence
from typing import Literal

import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.cache_utils import get_layer_types_and_kwargs

from langchain_amulet.engine.device_memory import free_bytes, is_out_of_memory
from langchain_amulet.engine.runners.compiled_layers import CompiledLayers
from langchain_amulet.engine.runners.plain_forward import logits_to_keep
from langchain_amulet.engine.runners.probe import (
    explain_difference,
    explain_mismatch,
    probe_prompts,
    warm_up_prompts,
)
from langchain_amulet.engine.runners.row_cache import RowCache, SavedRow
from langchain_amulet.engine.runners.row_scoring import score_in_rows
from langchain_amulet.exceptions import UnsupportedModelError

logger = logging.getLogger(__name__)

_UNBOUNDED_CONTEXT = 2**31
_ATTENTION_IMPLEMENTATIONS = ("sdpa", "eager")
_LAYER_TYPES = ("full_attention", "sliding_attention")
_FIRST_CAPACITY = 256  # tokens; buffers double when they grow
_CUDA_SPAN_MULTIPLE = 64  # fewer mask shapes, and avoids a bug at lengths of 32 n + 1 (pytorch #191937)


class TransformersRunner:
    """Runs one causal language model over rows of different lengths, without padding the cache.

    Args:
        model: Any `AutoModelForCausalLM` whose layers are full or sliding-window attention.
        mode: "compiled" compiles the layers for decoding, unless that is impossible; then a warning is logged.

    Raises:
        UnsupportedModelError: The model's layers or attention implementation are not supported, or a probe shows that
            the logits of a row differ from those of the model's own forward.
    """

    is_incremental = True

    def __init__(self, model: PreTrainedModel, mode: Literal["eager", "compiled"] = "eager") -> None:
        self._model = model
        self._config = model.config.get_text_config(decoder=True)
        self._windows = self._layer_windows()
        self._check_attention()
        self._keeps_logits = bool(logits_to_keep(model, 1))
        self._span_multiple = _CUDA_SPAN_MULTIPLE if self.device.type == "cuda" else 1
        self._cache = RowCache(len(self._windows))
        self._compiled: CompiledLayers | None = None
        self.bytes_per_token = self._probe()
        """Memory for the keys and values of one token of one row."""
        if mode == "compiled":
            self._compile()

    @property
    def num_graphs(self) -> int:
        """Graphs that the decode step was compiled to, those for other shapes included."""
        return 0 if self._compiled is None else self._compiled.num_graphs

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

    def free_bytes(self) -> int:
        """Return the free memory of the device."""
        return free_bytes(self.device)

    def reserve(self, num_rows: int, num_tokens: int, max_bytes: int) -> None:
        """Allocate rows of `num_tokens` tokens, rounded up to powers of two where that stays within `max_bytes`."""
        rows, tokens = len(self._cache.lengths), self._cache.capacity
        if num_rows <= rows and num_tokens <= tokens:
            return
        new_rows = max(rows, _next_power_of_two(num_rows))
        new_tokens = max(tokens, _FIRST_CAPACITY, _next_power_of_two(num_tokens))
        if new_rows * new_tokens * self.bytes_per_token > max_bytes:
            new_rows, new_tokens = num_rows, max(num_tokens, max_bytes // (num_rows * self.bytes_per_token))
        try:
            self._cache.resize(new_rows, min(new_tokens, max(num_tokens, self.max_context)))
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            self._cache.resize(num_rows, num_tokens)

    def prefill(self, first_row: int, input_ids: Sequence[Sequence[int]]) -> Tensor:
        """Append tokens to consecutive rows in one forward: one list of token ids per row, which may be empty.

        Returns:
            Logits of the token after them, `(rows, V)`; undefined for a row without new tokens.
        """
        return self._forward(first_row, _padded(input_ids), [len(ids) for ids in input_ids])

    def decode(self, input_ids: Sequence[int]) -> Tensor:
        """Append one token to each of the rows from 0 on, in one forward.

        Returns:
            Logits of the next token, `(rows, V)`.
        """
        column, num_tokens = torch.tensor([input_ids]).T, [1] * len(input_ids)
        if self._compiled is not None:
            try:
                with self._compiled.replacing():
                    return self._forward(0, column, num_tokens)
            except Exception as error:
                if is_out_of_memory(error):
                    raise
                self._stay_eager(error)
        return self._forward(0, column, num_tokens)

    def verify(self, input_ids: Sequence[Sequence[int]]) -> Tensor:
        """Append one or more tokens to each of the rows from 0 on, in one forward.

        Returns:
            Logits after each of them, `(rows, S, V)`, where S is the most tokens of a row; undefined after the last
            token of a row that has fewer.
        """
        num_tokens = [len(ids) for ids in input_ids]
        return self._append(
            self._cache, slice(0, len(num_tokens)), _padded(input_ids), num_tokens, range(max(num_tokens))
        )

    def score(
        self, pairs: Sequence[tuple[Sequence[int], Sequence[int]]], *, max_tokens: int
    ) -> Generator[None, None, list[Tensor]]:
        """Score texts after their prompts, in rows of their own, and yield after each forward.

        Args:
            pairs: Token ids of each prompt and of the text after it, at least one each.
            max_tokens: The most tokens of a forward, unless there are more texts.

        Returns:
            The log-probabilities of each text's tokens in nats, `(tokens,)`, float32 on the CPU.
        """
        return score_in_rows(self._append, RowCache(len(self._windows)), pairs, max_tokens=max_tokens)

    def truncate(self, row: int, num_tokens: int, *, erase: bool = False) -> None:
        """Shorten a row to its first tokens; with `erase`, also overwrite the whole row with zeros."""
        if erase:
            self._cache.erase(row)
        self._cache.lengths[row] = num_tokens

    def copy_prefix(self, source: int, target: int, num_tokens: int) -> None:
        """Replace the target row by the first tokens of the source row."""
        self._cache.copy_prefix(source, target, num_tokens)

    def save(self, row: int, num_tokens: int) -> SavedRow:
        """Return a copy of the first tokens of a row, outside the buffers."""
        return self._cache.save(row, num_tokens)

    def load(self, saved: SavedRow, row: int, num_tokens: int) -> None:
        """Replace a row by the first tokens of what `save` returned."""
        self._cache.load(saved, row, num_tokens)

    def release(self) -> None:
        """Free the buffers; all rows are empty afterwards."""
        self._cache.release()

    def _compile(self) -> None:
        """Compile the decode step for one row and for several, and compare its logits with the eager ones."""
        logger.info("Compiling the decode step; the first time, this takes about a minute.")
        started = time.perf_counter()
        try:
            self._compiled = compiled = CompiledLayers(self._model, self._cache)
        except ValueError as error:
            self._stay_eager(error)
            return
        with torch.inference_mode():
            for prompts, capacity in warm_up_prompts(self.vocab_size, self.max_context):
                if self._compiled is not None:
                    self._check_compiled(prompts, capacity)
        self.release()
        if self._compiled is None:
            return
        compiled.is_warming_up = False
        logger.info("Compiled the decode step to %d graphs in %.0f s.", self.num_graphs, time.perf_counter() - started)

    def _check_compiled(self, prompts: list[list[int]], capacity: int) -> None:
        """Decode a token after each prompt, compiled and eagerly."""
        self.release()
        self._cache.resize(len(prompts), capacity)
        newest = [prompt[-1] for prompt in prompts]
        self.prefill(0, [prompt[:-1] for prompt in prompts])
        expected = self._forward(0, torch.tensor([newest]).T, [1] * len(newest))
        for row, prompt in enumerate(prompts):
            self.truncate(row, len(prompt) - 1)
        difference = explain_difference(self.decode(newest), expected)
        if difference is not None:
            self._stay_eager(UnsupportedModelError(difference))

    def _stay_eager(self, error: BaseException) -> None:
        """Decode without compiled layers from now on."""
        self._compiled = None
        reason = str(error).strip().partition("\n")[0]
        logger.warning("Decoding is not compiled but eager: %s: %s", type(error).__name__, reason)

    def _forward(
        self,
        first_row: int,
        input_ids: Tensor,  # (B, S)
        num_tokens: list[int],  # of each row, at most S
    ) -> Tensor:
        rows = slice(first_row, first_row + len(num_tokens))
        last = [max(n - 1, 0) for n in num_tokens]
        kept = sorted(set(last))
        logits = self._read(self._cache, rows, input_ids, kept)
        if len(kept) == 1:
            logits = logits[:, 0]
        else:
            logits = torch.stack([row[kept.index(index)] for row, index in zip(logits, last, strict=True)])
        self._cache.advance(rows, num_tokens)  # last, so that a failed forward leaves the lengths unchanged
        return logits

    def _append(
        self, cache: RowCache, rows: slice, input_ids: Tensor, num_tokens: list[int], kept: Sequence[int]
    ) -> Tensor:
        """Append tokens, `(B, S)`, to rows of a cache. Return the logits of the kept ones, `(B, len(kept), V)`."""
        logits = self._read(cache, rows, input_ids, kept)
        cache.advance(rows, num_tokens)
        return logits

    @torch.inference_mode()
    def _read(self, cache: RowCache, rows: slice, input_ids: Tensor, kept: Sequence[int]) -> Tensor:
        """Read tokens, `(B, S)`, after those of rows of a cache, without a change of their lengths; see `_append`."""
        device = self.device
        position_ids = cache.place(rows, input_ids.shape[1], device, span_multiple=self._span_multiple)  # (B, S)
        output = self._model(
            input_ids=input_ids.to(device),
            position_ids=position_ids,
            attention_mask=self._attention_mask(position_ids, cache.span),
            past_key_values=cache,
            use_cache=True,
            **({"logits_to_keep": torch.tensor(kept, device=device)} if self._keeps_logits else {}),
        )
        logits: Tensor = output.logits
        if logits.shape[1] > len(kept):
            logits = logits[:, list(kept)]
        return logits

    def _attention_mask(self, positions: Tensor, span: int) -> Tensor | dict[str, Tensor]:
        """Return the additive mask over the `span` positions for each new token, `(B, 1, S, span)`, per layer type."""
        keys, queries = torch.arange(span, device=positions.device), positions.unsqueeze(-1)
        causal = keys <= queries
        masks = {
            layer_type: self._additive(causal if window is None else causal & (keys > queries - window))
            for layer_type, window in set(self._windows)
        }
        return masks if len(masks) > 1 else next(iter(masks.values()))

    def _additive(self, visible: Tensor) -> Tensor:
        """Return 0 where a position is visible, else the lowest number: both attention implementations accept this."""
        dtype = self._model.dtype
        mask = torch.zeros(visible.shape, dtype=dtype, device=visible.device)
        return mask.masked_fill(~visible, torch.finfo(dtype).min).unsqueeze(1)

    def _layer_windows(self) -> list[tuple[str, int | None]]:
        layer_types, layer_kwargs = get_layer_types_and_kwargs(self._config)
        unsupported = sorted(set(layer_types) - set(_LAYER_TYPES))
        if unsupported:
            kinds = ", ".join(unsupported)
            msg = f"{self._config.model_type} has layers of type {kinds}, which do not cache one entry per token."
            raise UnsupportedModelError(msg)
        windows = [
            (layer_type, kwargs.get("sliding_window"))
            for layer_type, kwargs in zip(layer_types, layer_kwargs, strict=True)
        ]
        if len(set(windows)) > len(set(layer_types)):
            msg = f"{self._config.model_type} has sliding windows of several sizes; only one size is supported."
            raise UnsupportedModelError(msg)
        return windows

    def _check_attention(self) -> None:
        implementation = self._config._attn_implementation
        if implementation not in _ATTENTION_IMPLEMENTATIONS:
            msg = (
                f"attn_implementation={implementation!r} cannot attend over rows of different lengths; "
                f'use model_kwargs={{"attn_implementation": "sdpa"}} (or "eager").'
            )
            raise UnsupportedModelError(msg)

    def _probe(self) -> int:
        """Decode a few tokens in two rows of different lengths, and compare with the model's own forward.

        Some architectures ignore the position ids or the mask, or keep other state; their answers would be wrong
        without an error.

        Returns:
            The bytes of the keys and values of one token in one row.
        """
        rows = probe_prompts(self.vocab_size, self.max_context)

        def next_logits() -> Tensor:
            self._cache.resize(len(rows), max(map(len, rows)))
            self.prefill(0, [row[:-1] for row in rows])
            return self.decode([row[-1] for row in rows])

        mismatch = explain_mismatch(self._model, rows, next_logits)
        if mismatch is not None:
            msg = f"{self._config.model_type} cannot be decoded with a cache of rows: {mismatch}."
            raise UnsupportedModelError(msg)
        bytes_per_token = self._cache.num_bytes // (len(rows) * self._cache.capacity)
        if not bytes_per_token:
            msg = f"{self._config.model_type} does not use the cache that is passed to it."
            raise UnsupportedModelError(msg)
        self.release()
        return bytes_per_token


def _padded(input_ids: Sequence[Sequence[int]]) -> Tensor:
    """Return token ids as a rectangle, `(B, S)`: shorter rows are padded at the end, where no token attends to."""
    width = max(map(len, input_ids))
    return torch.tensor([[*ids, *[0] * (width - len(ids))] for ids in input_ids])


def _next_power_of_two(number: int) -> int:
    return 1 << (number - 1).bit_length()
