"""Runs the model: prefills a row, decodes a batch of rows."""

import inspect
from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.cache_utils import get_layer_types_and_kwargs

from langchain_amulet.engine.cache import RowCache
from langchain_amulet.exceptions import UnsupportedModelError

_ATTENTION_IMPLEMENTATIONS = ("sdpa", "eager")
_LAYER_TYPES = ("full_attention", "sliding_attention")
_PROBE_LENGTH = 6
_MIN_SIMILARITY = 0.999


class Runner:
    """Forwards of one causal language model over rows of different length, without padding.

    Args:
        model: Any `AutoModelForCausalLM` whose layers are full or sliding-window attention.

    Raises:
        UnsupportedModelError: The model's layers or attention implementation cannot be served so, or a probe shows that
            it answers differently from row to row.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        self._model = model
        self._config = model.config.get_text_config(decoder=True)
        self._windows = self._layer_windows()
        self._check_attention()
        self._keeps_logits = "logits_to_keep" in inspect.signature(model.forward).parameters
        self._check_probe()

    @property
    def max_context(self) -> int:
        """Tokens that fit into one row."""
        return int(getattr(self._config, "max_position_embeddings", None) or 2**31)

    def new_cache(self, num_rows: int, max_length: int) -> RowCache:
        """Rows for the streams of one request, of up to `max_length` tokens each."""
        return RowCache(len(self._windows), num_rows, max_length)

    def prefill(self, cache: RowCache, input_ids: Sequence[Sequence[int]]) -> Tensor:
        """Add to each row, from the first one on, tokens of its own.

        Returns:
            Logits of the token after them, `(rows, V)`.
        """
        num_tokens = [len(ids) for ids in input_ids]
        # A forward is rectangular: shorter rows are filled up at the end, where nothing looks.
        filled = torch.tensor([[*ids, *[0] * (max(num_tokens) - len(ids))] for ids in input_ids])
        return self._forward(cache, filled, num_tokens)

    def decode(self, cache: RowCache, input_ids: Sequence[int]) -> Tensor:
        """Add one token to every row, in one forward.

        Returns:
            Logits of the tokens after them, `(rows, V)`.
        """
        return self._forward(cache, torch.tensor([input_ids]).T, [1] * len(input_ids))

    @torch.inference_mode()
    def _forward(
        self,
        cache: RowCache,
        input_ids: Tensor,  # (B, S)
        num_tokens: list[int],  # of each row, at most S
    ) -> Tensor:
        device = self._model.device
        position_ids = cache.place(slice(0, len(num_tokens)), num_tokens, device)  # (B, S)
        last = [n - 1 for n in num_tokens]
        wanted = sorted(set(last)) if self._keeps_logits else range(input_ids.shape[1])
        output = self._model(
            input_ids=input_ids.to(device),
            position_ids=position_ids,
            attention_mask=self._attention_mask(position_ids, cache.span),
            past_key_values=cache,
            use_cache=True,
            **({"logits_to_keep": torch.tensor(wanted, device=device)} if self._keeps_logits else {}),
        )
        logits: Tensor = output.logits  # (B, len(wanted), V)
        return torch.stack([row[wanted.index(index)] for row, index in zip(logits, last, strict=True)])

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
            msg = (
                f"{self._config.model_type} has layers of type {', '.join(unsupported)}; the engine decodes "
                f"{' and '.join(_LAYER_TYPES)}. Choose a model of such layers, say of the Llama, Qwen, Mistral, "
                f"Gemma or Phi families."
            )
            raise UnsupportedModelError(msg)
        windows = [
            (layer_type, kwargs.get("sliding_window"))
            for layer_type, kwargs in zip(layer_types, layer_kwargs, strict=True)
        ]
        if len(set(windows)) > len(set(layer_types)):
            msg = f"{self._config.model_type} has sliding windows of several sizes; the engine's masks allow one."
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

    def _check_probe(self) -> None:
        """Decode a few tokens in two uneven rows, and compare with the model's own forward.

        Some architectures take positions from elsewhere, keep state of their own or ignore the mask; their answers
        would be wrong without a sign. Logits are compared in float32 and float64 alone: in half precision, rounding
        moves those of such a short prompt as far as a wrong mask does.
        """
        ids = [i % self._config.vocab_size for i in range(1, _PROBE_LENGTH + 1)]
        try:
            cache = self.new_cache(num_rows=2, max_length=_PROBE_LENGTH)
            self.prefill(cache, [ids[:-1], ids[1:-2]])
            ours = self.decode(cache, [ids[-1]] * 2)
            with torch.inference_mode():
                rows = [ids, [*ids[1:-2], ids[-1]]]
                theirs = [self._model(torch.tensor([row], device=self._model.device)).logits[0, -1] for row in rows]
        except torch.OutOfMemoryError:
            raise
        except (TypeError, ValueError, RuntimeError, AttributeError, IndexError) as error:
            msg = f"{self._config.model_type} cannot be decoded with a cache of rows: {error}"
            raise UnsupportedModelError(msg) from error
        similarity = torch.cosine_similarity(ours.double(), torch.stack(theirs).double(), dim=-1)
        is_exact = ours.dtype in (torch.float32, torch.float64)
        if is_exact and not bool((similarity > _MIN_SIMILARITY).all()):
            msg = (
                f"{self._config.model_type} gives other logits with a cache of rows than without "
                f"(cosine similarity {similarity.min().item():.3f}), so the engine cannot serve it faithfully."
            )
            raise UnsupportedModelError(msg)
