"""Drafts the next tokens of one answer: what its grammar forces, and then what a copy of an earlier text would add."""

from collections import abc
from typing import NamedTuple

from langchain_amulet.engine.guide import Guide
from langchain_amulet.engine.speculation.acceptance import FORCED, Acceptance
from langchain_amulet.engine.speculation.prompt_lookup import PromptLookup


class Draft(NamedTuple):
    """Tokens that may follow."""

    token_ids: list[int]
    chances: list[float]
    """For each of them, the estimated probability that it is drawn, and all before it."""


class Drafter:
    """Drafts tokens of one answer. What it proposes depends on the tokens so far only, and not on time.

    Args:
        prompt: Token ids of the caller's prompt, without preferences.
    """

    def __init__(self, prompt: abc.Sequence[int]) -> None:
        self._lookup = PromptLookup(prompt)
        self._acceptance = Acceptance()
        self._num_seen = 0  # tokens of the answer
        self._forced: list[int] = []  # the tokens that the grammar forced at the last draft

    def draft(self, answer: abc.Sequence[int], guide: Guide | None, number: int) -> Draft:
        """Return up to `number` tokens that may follow.

        Args:
            answer: Token ids of the answer so far.
            guide: The guide of the answer, which has accepted these tokens.
            number: The most tokens.
        """
        self._observe(answer[self._num_seen :])
        self._num_seen = len(answer)
        self._forced = forced = _forced(guide)[:number]
        copied, num_matched = self._lookup.predict_after(forced, number - len(forced))
        lengths = [*[FORCED] * len(forced), *range(num_matched, num_matched + len(copied))]
        chances, chance = [], 1.0
        for length in lengths:
            chance *= self._acceptance.chance(length)
            chances.append(chance)
        return Draft([*forced, *copied], chances)

    def _observe(self, token_ids: abc.Sequence[int]) -> None:
        """Take the tokens that were drawn since the last draft, and count which predictions came true."""
        for forced, token_id in zip(self._forced, token_ids, strict=False):
            self._acceptance.observe(FORCED, is_hit=forced == token_id)
            if forced != token_id:
                break
        for token_id in token_ids:
            if self._lookup.num_matched:
                self._acceptance.observe(self._lookup.num_matched, is_hit=token_id == self._lookup.next_id)
            self._lookup.append(token_id)


def _forced(guide: Guide | None) -> list[int]:
    """Return the tokens that a guide forces; none if it fails, since the draw will report that."""
    try:
        return [] if guide is None or guide.is_complete else guide.forced()
    except Exception:  # noqa: BLE001
        return []
