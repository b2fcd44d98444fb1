"""A position in a grammar: which tokens may follow, steps forward and back."""

from typing import NamedTuple

import numpy as np
from llguidance import LLMatcher
from numpy.typing import NDArray

from langchain_amulet.exceptions import GrammarError
from langchain_amulet.structured.vocabulary import Vocabulary

_QUOTE, _BACKSLASH = b'"\\'


class TextState(NamedTuple):
    """What is known of the JSON text before a position."""

    is_in_string: bool = False
    is_escaped: bool = False
    """Whether the position is within a string, after a backslash."""
    num_strings: int = 0
    """The number of strings that have begun, keys included."""

    def after(self, text: bytes) -> "TextState":
        """Return the state after further text."""
        is_in_string, is_escaped, num_strings = self
        for character in text:
            if is_escaped:
                is_escaped = False
            elif character == _QUOTE:
                is_in_string = not is_in_string
                num_strings += is_in_string
            else:
                is_escaped = is_in_string and character == _BACKSLASH
        return TextState(is_in_string, is_escaped, num_strings)


class Walk:
    """A position in a grammar, and in the JSON text written so far.

    Args:
        vocabulary: The model's tokens.
        matcher: The grammar, at its start. The walk moves it.
    """

    def __init__(self, vocabulary: Vocabulary, matcher: LLMatcher) -> None:
        self._vocabulary = vocabulary
        self._matcher = matcher
        self.state = TextState()
        """What is known of the JSON text before the position."""

    def copy(self) -> "Walk":
        """Return a walk at the same position, which moves by itself."""
        walk = Walk(self._vocabulary, self._matcher.deep_copy())
        walk.state = self.state
        return walk

    @property
    def is_in_string(self) -> bool:
        """Whether the position is within a JSON string."""
        return self.state.is_in_string

    @property
    def is_stopped(self) -> bool:
        """Whether the grammar allows no further token."""
        return self._matcher.is_stopped()

    @property
    def may_end(self) -> bool:
        """Whether the text is complete at this position."""
        may_end: bool = self._matcher.is_accepting()
        return may_end

    def allowed(self) -> NDArray[np.bool_]:
        """Return the tokens that may come next, bool `(V,)`.

        Raises:
            GrammarError: The grammar has become too complex to follow.
        """
        bits = np.frombuffer(self._matcher.compute_bitmask(), dtype=np.uint8)
        self._check()
        return np.unpackbits(bits, bitorder="little")[: self._vocabulary.size].astype(bool)

    def push(self, token_id: int) -> None:
        """Advance by one token.

        Raises:
            GrammarError: The grammar does not allow the token, or has become too complex to follow.
        """
        self._matcher.consume_token(token_id)
        self._check()
        self.state = self.state.after(self._vocabulary.token_bytes[token_id])

    def take(self, token_ids: list[int]) -> bool:
        """Advance by all of the tokens, or by none if the grammar does not allow them all; return whether it does."""
        num_taken = self._matcher.try_consume_tokens(token_ids)
        if num_taken < len(token_ids):
            self._matcher.rollback(num_taken)
            return False
        for token_id in token_ids:
            self.state = self.state.after(self._vocabulary.token_bytes[token_id])
        return True

    def forced(self) -> list[int]:
        """Return tokens that spell the text that must follow, as far as only one text may."""
        text = self._matcher.compute_ff_bytes()
        return self._vocabulary.spelled(text) if text else []

    def back(self, state: TextState, num_tokens: int = 1) -> None:
        """Go back by `num_tokens`, to the `state` that the walk had there."""
        self._matcher.rollback(num_tokens)
        self.state = state

    def would_end(self, token_ids: list[int]) -> bool:
        """Return whether the text would be complete after these tokens. The position does not change."""
        num_taken = self._matcher.try_consume_tokens(token_ids)
        is_end = num_taken == len(token_ids) and self._matcher.is_accepting()
        self._matcher.rollback(num_taken)
        return is_end

    def _check(self) -> None:
        if self._matcher.is_error():
            msg = (
                f"llguidance cannot follow this grammar any further: {self._matcher.get_error()}. Simplify the schema."
            )
            raise GrammarError(msg)
