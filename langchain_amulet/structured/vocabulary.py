"""A model's tokens as bytes, masks of them, and their ranks in searches for an ending."""

from collections.abc import Callable, Iterable
from functools import cached_property
from typing import Any

import llguidance.hf
import numpy as np
import torch
from llguidance import LLTokenizer
from numpy.typing import NDArray
from torch import Tensor
from transformers import PreTrainedTokenizerFast

RANKS_PER_KIND = 1000
"""rank = RANKS_PER_KIND * kind + offset. After tokens of a lower kind, a JSON text can end sooner."""
OTHER_KIND = 8
"""The last kind: tokens that do not help to end a text."""
_PUNCTUATION = b"@:/.-_ "
_SCALARS = (b"null", b"true", b"false")


class Vocabulary:
    """The tokens of one model, with the properties and masks that guides need; computed on first use.

    Args:
        tokenizer: A fast tokenizer.
        size: V, the length of a row of logits.
        stop_token_ids: Tokens that end an answer.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerFast, size: int, stop_token_ids: Iterable[int]) -> None:
        self.size = size
        eos: Any = sorted(stop_token_ids) or None  # None: the tokenizer's own end-of-text token
        # Some tokenizers have more tokens than the model has logits; some models have more logits than tokens.
        num_tokens = max(size, len(tokenizer))
        self.tokenizer: LLTokenizer = llguidance.hf.from_tokenizer(tokenizer, n_vocab=num_tokens, eos_token=eos)
        self.stop_token_ids = frozenset(eos or [self.tokenizer.eos_token])
        self.end_token_id: int = min(self.stop_token_ids)
        self._masks: dict[tuple[str, bytes], Tensor] = {}

    @cached_property
    def token_bytes(self) -> list[bytes]:
        """The bytes of each token; the name of a control token."""
        return [self.tokenizer.decode_bytes([token_id]) for token_id in range(self.size)]

    @cached_property
    def outside_rank(self) -> NDArray[np.int64]:
        """The rank of each token outside a JSON string, int64 `(V,)`; the lower, the sooner the text can end."""
        return np.array([_rank(_outside_kind(token), token) for token in self.token_bytes])

    @cached_property
    def inside_rank(self) -> NDArray[np.int64]:
        """The rank of each token within a JSON string, int64 `(V,)`; the lower, the sooner the text can end."""
        return np.array([_rank(_inside_kind(token), token) for token in self.token_bytes])

    @cached_property
    def punctuation(self) -> NDArray[np.int64]:
        """Ids of punctuation characters that patterns often require, such as the @ of an address; rare ones first."""
        ids = {token: token_id for token_id, token in enumerate(self.token_bytes)}
        marks = (bytes([character]) for character in _PUNCTUATION)
        return np.array([ids[mark] for mark in marks if mark in ids], dtype=np.int64)

    def spelled(self, text: bytes) -> list[int]:
        """Return token ids that spell a text, each as long as possible; empty if the model lacks one of them."""
        token_ids: list[int] = self.tokenizer.greedy_tokenize(text.decode(errors="ignore"))
        return token_ids if max(token_ids, default=0) < self.size else []

    def prepare(self, marker: bytes, *, is_leading: bool) -> None:
        """Compute the masks of a marker, so that they are not computed while answers wait."""
        self.openers(marker, is_leading=is_leading)
        self.containing(marker)
        for start in range(1, len(marker)):
            self.starting_with(marker[start : start + 1])

    def containing(self, marker: bytes) -> Tensor:
        """Return the tokens that contain the whole marker, bool `(V,)` on the CPU."""
        return self._mask(("containing", marker), lambda token: marker in token)

    def starting_with(self, text: bytes) -> Tensor:
        """Return the tokens that start with `text`, bool `(V,)` on the CPU."""
        return self._mask(("starting_with", text), lambda token: token.startswith(text))

    def _mask(self, key: tuple[str, bytes], belongs: Callable[[bytes], bool]) -> Tensor:
        if key not in self._masks:
            self._masks[key] = torch.tensor([belongs(token) for token in self.token_bytes])
        return self._masks[key]

    def openers(self, marker: bytes, *, is_leading: bool) -> Tensor:
        """Return the tokens that contain the marker or end with a prefix of it, bool `(V,)` on the CPU.

        Args:
            marker: The text that begins a structure.
            is_leading: Whether the marker can only stand at the beginning of an answer: whitespace may precede it,
                and nothing else.
        """
        opens = _opens_at_start if is_leading else _opens
        return self._mask((opens.__name__, marker), lambda token: opens(token, marker))


def _opens(token: bytes, marker: bytes) -> bool:
    return marker in token or any(token.endswith(marker[:length]) for length in range(1, len(marker) + 1))


def _opens_at_start(token: bytes, marker: bytes) -> bool:
    text = token.lstrip()
    return text != b"" and (marker.startswith(text) or text.startswith(marker))


def _outside_kind(token: bytes) -> int:
    """Return the kind of a token: closing brackets first, then commas, short values, and tokens that open something."""
    text = token.strip()
    kinds = (
        text != b"" and not text.strip(b"]}"),
        text[:1] in (b"]", b"}"),
        text[:1] == b",",
        _begins_scalar(text) or token == b" ",
        text == b'""',
        text[:1] == b'"',
        text in (b"[]", b"{}"),
        text[:1] in (b"[", b"{"),
    )
    return kinds.index(True) if True in kinds else OTHER_KIND


def _begins_scalar(text: bytes) -> bool:
    """Return whether the text is a digit or a prefix of null, true or false, which may be written letter by letter."""
    return (len(text) == 1 and text.isdigit()) or (text != b"" and any(word.startswith(text) for word in _SCALARS))


def _inside_kind(token: bytes) -> int:
    """Return the kind of a token: a quote that ends the string, with or without further text, comes first."""
    if token[:1] != b'"':
        return OTHER_KIND
    return 1 if token[1:].strip(b"]}") else 0


def _rank(kind: int, token: bytes) -> int:
    return RANKS_PER_KIND * (kind + 1) - 1 - min(len(token), RANKS_PER_KIND - 1)  # longest token of a kind first
