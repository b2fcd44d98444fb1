"""Runs a transformers model over rows of different length, eagerly."""

import inspect
from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.cache_utils import get_layer_types_and_kwargs

from langchain_amulet.engine.devices import free_bytes, is_out_of_memory
from langchain_amulet.engine.runners.probe import explain_mismatch, probe_prompts
from langchain_amulet.engine.runners.row_cache import RowCache, SavedRow
from langchain_amulet.exceptions import UnsupportedModelError

_UNBOUNDED_CONTEXT = 2**31
_ATTENTION_IMPLEMENTATIONS = ("sdpa", "eager")
_LAYER_TYPES = ("full_attention", "sliding_attention")
_FIRST_CAPACITY = 256  # tokens; buffers grow by doubling
_CUDA_SPAN_MULTIPLE = 64  # fewer shapes of mask, and clear of a fault at lengths of 32 n + 1 (pytorch #191937)


class TransformersRunner:
    """Forwards of one causal language model over rows of different length, without padding.

    Args:
        model: Any `AutoModelForCausalLM` whose layers are full or sliding-window attention.

    Raises:
        UnsupportedModelError: The model's layers or attention implementation cannot be served so, or a probe shows that
            it answers differently from row to row.
    """

    is_incremental = True

    def __init__(self, model: PreTrainedModel) -> None:
        self._model = model
        self._config = model.config.get_text_config(decoder=True)
        self._windows = self._layer_windows()
        self._check_attention()
        self._keeps_logits = "logits_to_keep" in inspect.signature(model.forward).parameters
        self._span_multiple = _CUDA_SPAN_MULTIPLE if self.device.type == "cuda" else 1
        self._cache = RowCache(len(self._windows))
        self.bytes_per_token = self._probe()
        """Memory for the keys and values of one token of one row."""

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

    def free_bytes(self) -> int:
        """Memory that the device has to spare."""
        return free_bytes(self.device)

    def reserve(self, num_rows: int, num_tokens: int, max_bytes: int) -> None:
        """Make room for that many rows of that many tokens, doubling what there is where that keeps to `max_bytes`."""
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
        """Add tokens to consecutive rows, to each its own, in one forward.

        Returns:
            Logits of the token after them, `(rows, V)`; those of a row that was given none mean nothing.
        """
        num_tokens = [len(ids) for ids in input_ids]
        # A forward is rectangular: shorter rows are filled up at the end, where nothing looks.
        filled = torch.tensor([[*ids, *[0] * (max(num_tokens) - len(ids))] for ids in input_ids])
        return self._forward(first_row, filled, num_tokens)

    def decode(self, input_ids: Sequence[int]) -> Tensor:
        """Add one token to each of the rows from 0 on, in one forward.

        Returns:
            Logits of the token after it, `(rows, V)`.
        """
        return self._forward(0, torch.tensor([input_ids]).T, [1] * len(input_ids))

    def truncate(self, row: int, num_tokens: int, *, erase: bool = False) -> None:
        """Forget what a row holds beyond its first tokens; with `erase`, overwrite all of the row as well."""
        if erase:
            self._cache.erase(row)
        self._cache.lengths[row] = num_tokens

    def copy_prefix(self, source: int, target: int, num_tokens: int) -> None:
        """Let the target row hold the first tokens of the source row, and nothing else."""
        self._cache.copy_prefix(source, target, num_tokens)

    def save(self, row: int, num_tokens: int) -> SavedRow:
        """Copy the first tokens of a row out of the buffers."""
        return self._cache.save(row, num_tokens)

    def load(self, saved: SavedRow, row: int, num_tokens: int) -> None:
        """Let a row hold the first tokens of what `save` returned, and nothing else."""
        self._cache.load(saved, row, num_tokens)

    def release(self) -> None:
        """Give the buffers back; all rows are empty."""
        self._cache.release()

    @torch.inference_mode()
    def _forward(
        self,
        first_row: int,
        input_ids: Tensor,  # (B, S)
        num_tokens: list[int],  # of each row, at most S
    ) -> Tensor:
        rows = slice(first_row, first_row + len(num_tokens))
        device = self.device
        position_ids = self._cache.place(rows, input_ids.shape[1], device, span_multiple=self._span_multiple)  # (B, S)
        last = [max(n - 1, 0) for n in num_tokens]
        wanted = sorted(set(last)) if self._keeps_logits else range(input_ids.shape[1])
        output = self._model(
            input_ids=input_ids.to(device),
            position_ids=position_ids,
            attention_mask=self._attention_mask(position_ids, self._cache.span),
            past_key_values=self._cache,
            use_cache=True,
            **({"logits_to_keep": torch.tensor(wanted, device=device)} if self._keeps_logits else {}),
        )
        logits: Tensor = output.logits  # (B, len(wanted), V)
        if len(wanted) == 1:
            logits = logits[:, 0]
        else:
            logits = torch.stack([row[wanted.index(index)] for row, index in zip(logits, last, strict=True)])
        self._cache.advance(rows, num_tokens)  # last, since nothing may have moved on if something fails
        return logits

    def _attention_mask(self, positions: Tensor, span: int) -> Tensor | dict[str, Tensor]:
        """Which of the `span` positions each new token may attend to, `(B, 1, S, span)`, per kind of layer."""
        keys, queries = torch.arange(span, device=positions.device), positions.unsqueeze(-1)
        causal = keys <= queries
        masks = {
            layer_type: self._additive(causal if window is None else causal & (keys > queries - window))
            for layer_type, window in set(self._windows)
        }
        return masks if len(masks) > 1 else next(iter(masks.values()))

    def _additive(self, visible: Tensor) -> Tensor:
        """0 where a position is visible, else as low as it goes: both attention implementations take it as it is."""
        dtype = self._model.dtype
        mask = torch.zeros(visible.shape, dtype=dtype, device=visible.device)
        return mask.masked_fill(~visible, torch.finfo(dtype).min).unsqueeze(1)

    def _layer_windows(self) -> list[tuple[str, int | None]]:
        layer_types, layer_kwargs = get_layer_types_and_kwargs(self._config)
        unsupported = sorted(set(layer_types) - set(_LAYER_TYPES))
        if unsupported:
            kinds = ", ".join(unsupported)
            msg = f"{self._config.model_type} has layers of type {kinds}, whose memory is no row of tokens."
            raise UnsupportedModelError(msg)
        windows = [
            (layer_type, kwargs.get("sliding_window"))
            for layer_type, kwargs in zip(layer_types, layer_kwargs, strict=True)
        ]
        if len(set(windows)) > len(set(layer_types)):
            msg = f"{self._config.model_type} has sliding windows of several sizes; the masks of rows allow one."
            raise UnsupportedModelError(msg)
        return windows

    def _check_attention(self) -> None:
        implementation = self._config._attn_implementation
        if implementation not in _ATTENTION_IMPLEMENTATIONS:
            msg = (
                f"attn_implementation={implementation!r} cannot attend over rows of different length; "
                f'use model_kwargs={{"attn_implementation": "sdpa"}} (or "eager").'
            )
            raise UnsupportedModelError(msg)

    def _probe(self) -> int:
        """Decode a few tokens in two uneven rows, and compare with the model's own forward.

        Some architectures take positions from elsewhere, keep state of their own or ignore the mask; their answers
        would be wrong without a sign.

        Returns:
            The bytes that one token takes in one row.
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
            msg = f"{self._config.model_type} does not use the cache that it is given."
            raise UnsupportedModelError(msg)
        self.release()
        return bytes_per_token


def _next_power_of_two(number: int) -> int:
    return 1 << (number - 1).bit_length()
