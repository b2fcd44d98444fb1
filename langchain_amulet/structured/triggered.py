"""A guide for free text in which a marker such as `<tool_call>` begins constrained text."""

from collections.abc import Callable
from typing import TypeAlias

from torch import Tensor

from langchain_amulet.structured.grammar import Grammar, GrammarGuide
from langchain_amulet.structured.vocabulary import Vocabulary

Opening: TypeAlias = Callable[[bytes], bytes | None]
"""Returns the start of the structure that is written already, or `None` if the text after the marker is free.

The argument is the text that follows the marker within the token that completed it.
"""


class TriggeredGuide:
    """Keeps structures, such as tool calls, within a grammar in an answer that is otherwise free text; a `Guide`.

    By default, preferences act on the free text only. Whether a structure begins is drawn at guidance scale 1, and so
    are the tokens after the start of a marker, even if it turns out to be ordinary text.

    Args:
        vocabulary: The model's tokens.
        marker: The text that begins a structure; control tokens by their names.
        grammar: The grammar that holds after the marker.
        opening_after: Returns which part of the grammar is written already, after the marker.
        num_needed: The number of tokens of the shortest structure. No structure begins with fewer tokens left.
        is_leading: Whether a structure can only begin the answer, and nothing follows it.
        is_steered: Whether preferences act on the whole answer.
    """

    def __init__(
        self,
        vocabulary: Vocabulary,
        marker: bytes,
        grammar: Grammar,
        opening_after: Opening,
        *,
        num_needed: int = 0,
        is_leading: bool = False,
        is_steered: bool = False,
    ) -> None:
        self.is_complete = False
        """Whether no token may follow."""
        self._vocabulary = vocabulary
        self._marker = marker
        self._grammar = grammar
        self._opening_after = opening_after
        self._num_needed = num_needed
        self._is_leading = is_leading
        self._is_steered = is_steered
        self._inner: GrammarGuide | None = None
        self._text = b""  # the end of the free text, which may contain the start of a marker
        self._may_open = True  # whether a structure may still begin

    @property
    def is_steered(self) -> bool:
        """Whether preferences act on the next token: always, or only in free text outside a marker."""
        return self._is_steered or (self._inner is None and not self._is_opening)

    def allowed(self, num_left: int) -> Tensor | None:
        """Return the tokens that may come next, bool `(V,)` on the CPU; `None` allows all.

        Within a structure, these are the tokens that the grammar allows. In free text, tokens that could complete a
        marker are excluded if fewer than `num_needed` tokens are left.
        """
        if self._inner is not None:
            return self._inner.allowed(num_left)
        if self._may_open and num_left < self._num_needed:
            return ~self._completing
        return None

    def opening(self) -> Tensor | None:
        """Return the tokens that begin a marker, bool `(V,)` on the CPU; `None` if no structure can begin here."""
        is_free = self._inner is None and self._may_open and not self._is_opening
        return self._openers if is_free and not self._is_steered else None

    def forced(self) -> list[int]:
        """Return tokens that spell the text that must follow within a structure; none in free text."""
        return [] if self._inner is None else self._inner.forced()

    def accept(self, token_id: int, num_left: int) -> int:
        """Advance by one token and return it: the drawn one, or another one if the grammar replaces it."""
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
        """The tokens that contain the marker, or continue one that has begun."""
        begun = next((n for n in range(len(self._marker) - 1, 0, -1) if self._text.endswith(self._marker[:n])), 0)
        complete = self._vocabulary.containing(self._marker)
        return complete | self._vocabulary.starting_with(self._marker[begun : begun + 1]) if begun else complete

    @property
    def _is_opening(self) -> bool:
        """Whether a marker has begun and is not complete."""
        if not self._may_open or not self._text:
            return False
        if self._is_leading:
            return bool(self._text.lstrip())
        return any(self._text.endswith(self._marker[:length]) for length in range(1, len(self._marker)))

    def _read(self, text: bytes, num_left: int) -> None:
        """Append a token's text, and start a structure if it completes a marker."""
        self._text += text
        before, marker, behind = self._text.partition(self._marker)
        if marker and not (self._is_leading and before.strip()):
            written, self._text = self._opening_after(behind), b""
            if written is not None and len(self._grammar.shortest or ()) <= num_left:
                self._inner = self._grammar.start(num_left, is_steered=self._is_steered, written=written)
            self._may_open = not self._is_leading
        elif self._is_leading:
            self._may_open = self._marker.startswith(self._text.lstrip())
        else:
            self._text = self._text[-len(self._marker) :]

    def _leave_structure(self, token_id: int) -> None:
        assert self._inner is not None, "only called within a structure"
        if self._inner.is_complete:
            self._inner = None
            self.is_complete = self._is_leading or token_id in self._vocabulary.stop_token_ids
