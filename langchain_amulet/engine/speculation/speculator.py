"""Drafts tokens for the requests of a step, and draws from the logits of the step as long as the drafts come true."""

import time
import weakref
from collections import abc
from functools import partial

from torch import Tensor

from langchain_amulet.engine.batch import Batch
from langchain_amulet.engine.sequence import Sequence
from langchain_amulet.engine.speculation.drafter import Drafter
from langchain_amulet.engine.speculation.step_costs import StepCosts, choose_num_drafted


class Speculator:
    """Lets a step draw several tokens of an answer, the same ones that as many steps would draw.

    A step reads drafted tokens together with the last drawn one, and gives the logits after each of them. From each,
    a token is drawn as in any other step, with the same random key. If it equals the draft, the next logits are valid;
    if not, the rest of the draft is dropped.

    Args:
        max_drafted: The most drafted tokens per request and step. 0 turns speculation off.
        device_type: The type of the runner's device.
    """

    def __init__(self, max_drafted: int, device_type: str) -> None:
        self._max_drafted = max_drafted
        self._costs = StepCosts(device_type)
        self._started_s = 0.0
        self._drafters: weakref.WeakKeyDictionary[Sequence, Drafter] = weakref.WeakKeyDictionary()
        self._is_suspended = False
        self.num_drafted = 0
        """Drafted tokens that were verified."""
        self.num_accepted = 0
        """Drafted tokens that were drawn."""

    def drafts(self, sequences: abc.Sequence[Sequence], num_rows: int, room: int) -> dict[Sequence, list[int]]:
        """Return the drafted tokens of the requests that have some. Empty if the next step should not verify any.

        Args:
            sequences: The requests that decode.
            num_rows: Their rows.
            room: The tokens by which each row can grow, besides the next one.
        """
        most = 0 if self._is_suspended else min(self._max_drafted, room)
        if most <= 0:
            return {}
        drafts = {
            each: self._drafter(each).draft(each.token_ids, each.guide, min(most, each.num_left - 1))
            for each in sequences
        }
        chances = [draft.chances for draft in drafts.values()]
        number = choose_num_drafted(chances, partial(self._costs.ratio, num_rows)) if any(chances) else 0
        self._started_s = time.perf_counter()
        return {each: draft.token_ids[:number] for each, draft in drafts.items() if draft.token_ids[:number]}

    def draw(self, batch: Batch, logits: Tensor, drafts: abc.Mapping[Sequence, abc.Sequence[int]]) -> None:
        """Draw the tokens of a step: one of each request, and one more after each drafted token that comes true.

        Args:
            batch: The requests of the step.
            logits: Logits after each token that the rows have read, `(rows, tokens, V)`.
            drafts: The drafted tokens, as `drafts()` returned them just before the forward.
        """
        num_rows, width, _ = logits.shape
        self.num_drafted += sum(map(len, drafts.values()))
        for position in range(width):
            batch.draw(logits[:, position])
            if position == 0 and self._max_drafted:
                self._costs.observe(num_rows, width, time.perf_counter() - self._started_s)
            accepted = [
                index
                for index, sequence in enumerate(batch.sequences)
                if _is_accepted(sequence, drafts.get(sequence, ()), position)
            ]
            if not accepted:
                return
            self.num_accepted += len(accepted)
            batch = batch if len(accepted) == len(batch.sequences) else batch.select(accepted)

    def suspend(self) -> None:
        """Draft nothing until `resume()`."""
        self._is_suspended = True

    def resume(self) -> None:
        """Draft again."""
        self._is_suspended = False

    def _drafter(self, sequence: Sequence) -> Drafter:
        drafter = self._drafters.get(sequence)
        if drafter is None:
            drafter = self._drafters[sequence] = Drafter(sequence.caller_ids)
        return drafter


def _is_accepted(sequence: Sequence, draft: abc.Sequence[int], position: int) -> bool:
    """Return whether the token just drawn is the drafted one, so that the logits after it are valid."""
    if sequence.is_finished or position >= len(draft):  # also cancelled before the draw, which then has no effect
        return False
    return sequence.token_ids[-1] == draft[position]
