"""What an answer may hold, token by token, and where style may act on it."""

from collections.abc import Callable
from typing import Protocol, TypeAlias

from torch import Tensor


class Guide(Protocol):
    """Leads one answer, from its first token to its last; made anew for each.

    `num_left` is the number of tokens that the answer may still take, the next one included.
    """

    @property
    def is_steered(self) -> bool:
        """Whether the guidance scale and its guards act on the next token; else the scale is 1, without guards."""

    @property
    def is_complete(self) -> bool:
        """Whether nothing may follow, so that the answer ends without a token that says so."""

    def allowed(self, num_left: int) -> Tensor | None:
        """The tokens that may come next, bool `(V,)` on the CPU. `None` allows all.

        Raises:
            GrammarError: The grammar has become too complex to follow.
        """

    def opening(self) -> Tensor | None:
        """The tokens that would begin a structure here, bool `(V,)` on the CPU; `None` if there are none.

        They are drawn or not as at guidance scale 1, and style chooses among the other tokens only.
        """

    def accept(self, token_id: int, num_left: int) -> int:
        """Take a drawn token.

        Returns:
            The token to append: the drawn one, or another where the structure could not end in time after it.

        Raises:
            GrammarError: The grammar has become too complex to follow.
        """


GuideFactory: TypeAlias = Callable[[int], Guide]
"""Makes the guide of an answer of at most so many tokens."""
