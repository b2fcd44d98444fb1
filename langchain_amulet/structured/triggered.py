"""Text that runs freely until a marker, behind which a grammar holds."""

from collections.abc import Callable
from typing import TypeAlias

from torch import Tensor

from langchain_amulet.structured.grammar import Grammar, GrammarGuide
from langchain_amulet.structured.vocabulary import Vocabulary

Continuation: TypeAlias = Callable[[bytes], Grammar | None]
"""From what was written behind the marker in its own last token to what has to follow; `None` leaves it free."""


class TriggeredGuide:
    """Lets an answer be text, and holds each structure in it to a grammar.

    Style acts on the text alone. Whether a structure begins is drawn at guidance scale 1, and so is the rest of a
    marker that is under way, though it may turn out to be text.

    Args:
        vocabulary: The tokens.
        marker: What begins a structure; control tokens by their names.
        continuation: The grammar behind the marker.
        num_needed: Tokens that a structure takes at least; none begins where fewer are left.
        is_leading: Whether a structure stands only at the beginning of the answer, and is all of it.
        is_steered: Whether style acts on all of the answer.
    """

    def __init__(
        self,
        vocabulary: Vocabulary,
        marker: bytes,
        continuation: Continuation,
        *,
        num_needed: int = 0,
        is_leading: bool = False,
        is_steered: bool = False,
    ) -> None:
        self.is_complete = False
        """Whether nothing may follow."""
        self._vocabulary = vocabulary
        self._marker = marker
        self._continuation = continuation
        self._num_needed = num_needed
        self._is_leading = is_leading
        self._is_steered = is_steered
        self._inner: GrammarGuide | None = None
        self._text = b""  # as much of it as may belong to a marker
        self._may_open = True

    @property
    def is_steered(self) -> bool:
        """Whether the next token is text, as far as one can tell."""
        return self._is_steered or (self._inner is None and not self._is_opening)

    def allowed(self, num_left: int) -> Tensor | None:
        """What the grammar allows within a structure; in text, all but the beginning of one that has no room left."""
        if self._inner is not None:
            return self._inner.allowed(num_left)
        if self._may_open and num_left < self._num_needed:
            return ~self._completing
        return None

    def opening(self) -> Tensor | None:
        """The tokens that would begin a structure, or may turn out to."""
        is_free = self._inner is None and self._may_open and not self._is_opening
        return self._openers if is_free and not self._is_steered else None

    def accept(self, token_id: int, num_left: int) -> int:
        """Take a drawn token."""
        if self._inner is not None:
            token_id = self._inner.accept(token_id, num_left)
            self._leave_structure(token_id)
        elif token_id in self._vocabulary.stop_token_ids:
            self.is_complete = True
        elif self._may_open:
            self._read(self._vocabulary.token_bytes[token_id], num_left - 1)
        return token_id

    @property
    def _openers(self) -> Tensor:
        return self._vocabulary.openers(self._marker, is_leading=self._is_leading)

    @property
    def _completing(self) -> Tensor:
        """The tokens that would make the marker whole, or bring it nearer to that."""
        begun = next((n for n in range(len(self._marker) - 1, 0, -1) if self._text.endswith(self._marker[:n])), 0)
        whole = self._vocabulary.holding(self._marker)
        return whole | self._vocabulary.beginning(self._marker[begun : begun + 1]) if begun else whole

    @property
    def _is_opening(self) -> bool:
        """Whether a marker has begun and is not whole."""
        if not self._may_open or not self._text:
            return False
        if self._is_leading:
            return bool(self._text.lstrip())
        return any(self._text.endswith(self._marker[:length]) for length in range(1, len(self._marker)))

    def _read(self, text: bytes, num_left: int) -> None:
        self._text += text
        before, marker, behind = self._text.partition(self._marker)
        if marker and not (self._is_leading and before.strip()):
            grammar, self._text = self._continuation(behind), b""
            if grammar is not None and len(grammar.shortest) <= num_left:
                self._inner = grammar.start(num_left, is_steered=self._is_steered)
            self._may_open = not self._is_leading
        elif self._is_leading:
            self._may_open = self._marker.startswith(self._text.lstrip())
        else:
            self._text = self._text[-len(self._marker) :]

    def _leave_structure(self, token_id: int) -> None:
        assert self._inner is not None, "a structure is under way"
        if self._inner.is_complete:
            self._inner = None
            self.is_complete = self._is_leading or token_id in self._vocabulary.stop_token_ids
