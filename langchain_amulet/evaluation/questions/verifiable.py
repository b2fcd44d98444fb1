"""Wishes whose keeping a program can check, each in three wordings and with its opposite.

The checkers are in `scorers/verifiable.py`, by the same names. Wishes and questions are our own, under the licence of
this package; the manner is that of IFEval (https://arxiv.org/abs/2311.07911).
"""

import json
from typing import NamedTuple

from langchain_amulet.evaluation.data import read_text
from langchain_amulet.evaluation.questions.dimensions import Dimension
from langchain_amulet.exceptions import InvalidParameterError


class Wish(NamedTuple):
    """A wish about answers."""

    name: str
    wordings: tuple[str, str, str]
    """Three ways to say it: a short instruction, a polite one, and what the user likes or needs."""
    opposite: str | None
    """The instruction that asks for the opposite, or `None`."""


WISHES = {
    name: Wish(name, tuple(wish["wordings"]), wish["opposite"])
    for name, wish in json.loads(read_text("wishes.json")).items()
}
"""The wishes by name."""


def wish_of(name: str) -> Wish:
    """Return the wish of this name.

    Raises:
        InvalidParameterError: There is none.
    """
    if name not in WISHES:
        msg = f"There is no wish {name!r}. Pass one of: {', '.join(WISHES)}."
        raise InvalidParameterError(msg)
    return WISHES[name]


def wishes_for(place: int) -> tuple[Dimension, ...]:
    """Return all wishes as the preferences of the question at a place, counted from 0.

    The wording changes from question to question. The next wording is the paraphrase, which no method sees.
    """
    return tuple(
        Dimension(wish.name, wish.wordings[place % 3], wish.opposite, wish.wordings[(place + 1) % 3])
        for wish in WISHES.values()
    )
