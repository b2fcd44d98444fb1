"""The protocol of guides, which constrain an answer token by token."""

from collections.abc import Callable
from typing import Protocol, TypeAlias

from torch import Tensor


class Guide(Protocol):
    """Constrains one answer from its first token to its last. Each answer has its own guide.

    `num_left` is the most tokens that can still be drawn, including the next one.
    """

    @property
    def is_steered(self) -> bool:
        """Whether realignment steers the next token; otherwise the scale is at most 1 and the guards are off."""

    @property
    def is_complete(self) -> bool:
        """Whether no token may follow, so that the answer ends without a stop token."""

    def allowed(self, num_left: int) -> Tensor | None:
        """Return the tokens that may come next, bool `(V,)` on the CPU. `None` allows all.

        Raises:
            GrammarError: The grammar has become too complex to follow.
        """

    def opening(self) -> Tensor | None:
        """Return the tokens that would begin a structure here, bool `(V,)` on the CPU; `None` if none would.

        Whether one of them is drawn is decided without steering; steering chooses among the other tokens only.
        """

    def forced(self) -> list[int]:
        """Return tokens that are likely to come next, since they spell the text that must follow; perhaps none.

        They are drafts only: each is drawn like any other token.
        """

    def accept(self, token_id: int, num_left: int) -> int:
        """Process a drawn token.

        Returns:
            The token to append: the drawn one, or another one if the structure could not be completed after it.

        Raises:
            GrammarError: The grammar has become too complex to follow.
        """


GuideFactory: TypeAlias = Callable[[int], Guide]
"""Creates the guide of an answer. The argument is the maximum number of tokens."""
