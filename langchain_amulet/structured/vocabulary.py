"""A model's tokens as grammars see them, as bytes, and how each of them helps to end a JSON text."""

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

KIND = 1000
"""Ranks of one kind of token lie within so much of one another."""
ANY = 8
"""The last kind: tokens that may as well be anything."""
_PUNCTUATION = b"@:/.-_ "
_SCALARS = (b"null", b"true", b"false")


class Vocabulary:
    """The tokens of one model.

    Args:
        tokenizer: A fast tokenizer.
        size: V, the length of a row of logits.
        stop_token_ids: Tokens that end an answer.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerFast, size: int, stop_token_ids: Iterable[int]) -> None:
        self.size = size
        eos: Any = sorted(stop_token_ids) or None  # None is the tokenizer's own
        # Some tokenizers have more tokens than the model has logits, and some models more logits.
        num_tokens = max(size, len(tokenizer))
        self.tokenizer: LLTokenizer = llguidance.hf.from_tokenizer(tokenizer, n_vocab=num_tokens, eos_token=eos)
        self.stop_token_ids = frozenset(eos or [self.tokenizer.eos_token])
        self.end_token_id: int = min(self.stop_token_ids)
        self._masks: dict[tuple[bytes, bool | None], Tensor] = {}

    @cached_property
    def token_bytes(self) -> list[bytes]:
        """The bytes of each token; the name of a control token."""
        return [self.tokenizer.decode_bytes([token_id]) for token_id in range(self.size)]

    @cached_property
    def outside_rank(self) -> NDArray[np.int64]:
        """How soon a JSON text may end after each token, outside its strings, `(V,)`; low is soon."""
        return np.array([_rank(_outside_kind(token), token) for token in self.token_bytes])

    @cached_property
    def inside_rank(self) -> NDArray[np.int64]:
        """The same within its strings, `(V,)`."""
        return np.array([_rank(_inside_kind(token), token) for token in self.token_bytes])

    @cached_property
    def punctuation(self) -> NDArray[np.int64]:
        """Tokens of single characters that patterns tend to wait for, as the @ of an address is, the rarest first."""
        places = {token: token_id for token_id, token in enumerate(self.token_bytes)}
        marks = (bytes([character]) for character in _PUNCTUATION)
        return np.array([places[mark] for mark in marks if mark in places], dtype=np.int64)

    def holding(self, marker: bytes) -> Tensor:
        """The tokens that hold the whole marker, bool `(V,)` on the CPU."""
        return self._mask((marker, None), lambda token: marker in token)

    def beginning(self, text: bytes) -> Tensor:
        """The tokens that begin so, bool `(V,)` on the CPU."""
        return self._mask((text, True), lambda token: token.startswith(text))

    def _mask(self, key: tuple[bytes, bool | None], belongs: Callable[[bytes], bool]) -> Tensor:
        if key not in self._masks:
            self._masks[key] = torch.tensor([belongs(token) for token in self.token_bytes])
        return self._masks[key]

    def openers(self, marker: bytes, *, is_leading: bool) -> Tensor:
        """The tokens that end with the marker or a beginning of it, or hold it, bool `(V,)` on the CPU.

        One that leads the answer may have blanks before it, and nothing else.
        """
        opens = _leads if is_leading else _opens
        return self._mask((marker + (b"^" if is_leading else b""), False), lambda token: opens(token, marker))


def _opens(token: bytes, marker: bytes) -> bool:
    return marker in token or any(token.endswith(marker[:length]) for length in range(1, len(marker) + 1))


def _leads(token: bytes, marker: bytes) -> bool:
    text = token.lstrip()
    return text != b"" and (marker.startswith(text) or text.startswith(marker))


def _outside_kind(token: bytes) -> int:
    """Closing brackets, then commas, which end numbers, then short values, then what has to be closed again."""
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
    return kinds.index(True) if True in kinds else ANY


def _begins_scalar(text: bytes) -> bool:
    """Whether it is a digit, or a word such as null; byte tokenizers write these letter by letter."""
    return (len(text) == 1 and text.isdigit()) or (text != b"" and any(word.startswith(text) for word in _SCALARS))


def _inside_kind(token: bytes) -> int:
    if token[:1] != b'"':
        return ANY
    return 1 if token[1:].strip(b"]}") else 0


def _rank(kind: int, token: bytes) -> int:
    return KIND * kind + KIND - 1 - min(len(token), KIND - 1)  # of one kind, the longest first
