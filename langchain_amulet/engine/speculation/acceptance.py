"""How often predicted tokens come true in one answer, by how long the match was that predicted them."""

from bisect import bisect_right

# Match lengths that begin a group, and how often the predicted token is drawn, over questions and copying tasks.
_LENGTHS = (2, 3, 4, 6, 10, 20)
_PRIORS = (0.4, 0.5, 0.65, 0.8, 0.85, 0.93)
_PRIOR_FORCED = 0.95  # the text that a grammar forces can be divided into tokens in other ways
_PRIOR_TRIALS = 4  # predictions of the answer itself that count as much as the prior

FORCED = 0
"""The length of match that stands for a token that a grammar forces."""


class Acceptance:
    """Estimates the probability that the next predicted token is drawn, from the tokens of the answer so far only.

    All predictions count, whether or not they were drafted. So an answer that begins to copy is noticed at no cost.
    """

    def __init__(self) -> None:
        self._trials = [_PRIOR_TRIALS] * (len(_LENGTHS) + 1)
        self._hits = [_PRIOR_TRIALS * prior for prior in (_PRIOR_FORCED, *_PRIORS)]

    def observe(self, num_matched: int, *, is_hit: bool) -> None:
        """Count a prediction that followed a match of this length, and whether its token was drawn."""
        group = bisect_right(_LENGTHS, num_matched)
        self._trials[group] += 1
        self._hits[group] += is_hit

    def chance(self, num_matched: int) -> float:
        """Return the probability that the token that follows a match of this length is drawn."""
        group = bisect_right(_LENGTHS, num_matched)
        return self._hits[group] / self._trials[group]
