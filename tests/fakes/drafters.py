"""A drafter that knows the answer, so that tests decide how much of a draft is right."""

import random
from collections.abc import Sequence

import pytest

from langchain_amulet.engine.guide import Guide
from langchain_amulet.engine.params import Request
from langchain_amulet.engine.sequence import Sequence as EngineSequence
from langchain_amulet.engine.speculation.drafter import Draft
from langchain_amulet.engine.speculation.speculator import Speculator
from langchain_amulet.engine.speculation.step_costs import StepCosts


class KnowingDrafter:
    """Drafts tokens of a known answer, a random number of them, and some of them wrong."""

    def __init__(self, answer: Sequence[int], wrong_id: int, *, share_wrong: float, seed: int) -> None:
        self._answer = answer
        self._wrong_id = wrong_id
        self._share_wrong = share_wrong
        self._random = random.Random(seed)

    def draft(self, answer: Sequence[int], _guide: Guide | None, number: int) -> Draft:
        known = self._answer[len(answer) : len(answer) + self._random.randint(0, number)]
        drafted = [self._wrong_id if self._random.random() < self._share_wrong else token_id for token_id in known]
        return Draft(drafted, [1.0] * len(drafted))


def know_answers(
    patch: pytest.MonkeyPatch, answer_of, *, wrong_id: int = 0, share_wrong: float = 0.2, seed: int = 0
) -> None:
    """Let all schedulers draft from the answers that `answer_of` returns for requests."""
    drafters: dict[int, KnowingDrafter] = {}

    def drafter(_self: Speculator, sequence: EngineSequence) -> KnowingDrafter:
        if sequence.number not in drafters:
            request: Request = sequence.request
            drafters[sequence.number] = KnowingDrafter(
                answer_of(request), wrong_id, share_wrong=share_wrong, seed=seed + len(drafters)
            )
        return drafters[sequence.number]

    patch.setattr(Speculator, "_drafter", drafter)
    measure_no_times(patch)


def measure_no_times(patch: pytest.MonkeyPatch) -> None:
    """Let the costs of steps be the assumed ones: tests must not depend on how long a step takes."""
    patch.setattr(StepCosts, "observe", lambda *_: None)
