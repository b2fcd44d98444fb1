"""Labels tokens with who may reuse their keys and values, so that rows match only where tokens and keys are equal."""

import itertools
import weakref
from collections.abc import Hashable, Sequence

import numpy as np

from langchain_amulet.engine.params import PrefixKeys
from langchain_amulet.engine.tokens import Tokens

_LABEL_SHIFT = 32  # token ids take the bits below


class Label:
    """A number that stands for one prefix key."""

    __slots__ = ("__weakref__", "number")

    def __init__(self, number: int) -> None:
        self.number = number


class Labels:
    """The labels in use. A number is never given to a second key."""

    def __init__(self) -> None:
        self._labels: weakref.WeakValueDictionary[Hashable, Label] = weakref.WeakValueDictionary()
        self._numbers = itertools.count(1)

    def of(self, key: Hashable) -> Label:
        """Return the label of a key. It has the same number as long as any object holds it."""
        label = self._labels.get(key)
        if label is None:
            label = self._labels[key] = Label(next(self._numbers))
        return label


class LabelledStream:
    """The tokens of one stream of a request with their labels.

    Args:
        prompt: The tokens of its prompt.
        keys: Their prefix keys.
        labels: The labels in use.
        shares_answer: Whether the answer may be reused, under the key of the rest of the prompt.
    """

    def __init__(self, prompt: Tokens, keys: PrefixKeys, labels: Labels, *, shares_answer: bool) -> None:
        self.is_private = keys.is_private
        self._rest = None if keys.rest is None else labels.of(keys.rest)
        self.labels = (*(labels.of(key) for _, key in keys.parts), *(() if self._rest is None else (self._rest,)))
        """All its labels, which must be held as long as its tokens are compared."""
        self._shares_answer = shares_answer and self._rest is not None
        ends = [min(end, len(prompt)) for end, _ in keys.parts]
        self.public_length = max(ends, default=0)
        """The length of the prefix that does not depend on preferences."""
        ends += [len(prompt)] if self._rest else []
        starts = [0, *ends][: len(ends)]
        self.prompt: Tokens = prompt[: ends[-1] if ends else 0].copy()
        """The labelled tokens of the prompt, up to where no other request may reuse them."""
        for start, end, label in zip(starts, ends, self.labels, strict=True):
            self.prompt[start:end] += label.number << _LABEL_SHIFT

    def answer(self, token_ids: Sequence[int]) -> Tokens:
        """Return the labelled tokens of an answer; none if no other request may reuse them."""
        if not self._shares_answer or self._rest is None:
            return np.empty(0, dtype=np.int64)
        return np.array(token_ids, dtype=np.int64) + (self._rest.number << _LABEL_SHIFT)
