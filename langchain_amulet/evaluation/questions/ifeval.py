"""Instructions of IFEval as preferences.

Kinds and arguments are those of IFEval's prompts with one instruction (Apache-2.0): 23 of 25 kinds. `data/ifeval.json`
names the prompt of each. Left out are kinds that concern one prompt (options to choose from, the prompt to repeat),
arguments that answers of 512 tokens cannot meet (350 words or more, 30 sentences), arguments that nearly any answer
meets (words of another prompt's topic that are forbidden or rare), and names of one prompt (Zelda, Dave, Naomi).

References:
    Zhou et al., Instruction-Following Evaluation for Large Language Models, 2023: https://arxiv.org/abs/2311.07911
"""

import json
from collections.abc import Mapping
from typing import Any, NamedTuple

from langchain_amulet.evaluation.data import read_text
from langchain_amulet.evaluation.questions.dimensions import Dimension

_LANGUAGES = {
    "ar": "Arabic", "de": "German", "fa": "Persian", "gu": "Gujarati", "hi": "Hindi", "kn": "Kannada", "ko": "Korean",
    "mr": "Marathi", "ne": "Nepali", "pa": "Punjabi", "ru": "Russian", "sw": "Swahili", "te": "Telugu", "ur": "Urdu",
}  # fmt: skip


class Instruction(NamedTuple):
    """An instruction that a program can check."""

    kind: str
    """Its id in IFEval, such as `keywords:frequency`."""
    arguments: Mapping[str, Any]
    """What its kind leaves open, such as `num_words`."""
    preference: Dimension
    """Its name is the kind. Text, paraphrase and opposite are our wordings."""


def _instructions() -> dict[str, list[Instruction]]:
    kinds = json.loads(read_text("ifeval.json"))["kinds"]
    return {
        kind: [_instruction(kind, wordings, row) for row in wordings["arguments"]] for kind, wordings in kinds.items()
    }


def _instruction(kind: str, wordings: Mapping[str, Any], row: Mapping[str, Any]) -> Instruction:
    arguments = {name: value for name, value in row.items() if name != "key"}
    opposite = wordings["opposite"]
    said = {name: _said(name, value) for name, value in arguments.items()}
    text, paraphrase, against = (
        each.format(**said)
        for each in (
            wordings["text"],
            wordings["paraphrase"],
            opposite if isinstance(opposite, str) else opposite[arguments["relation"]],
        )
    )
    return Instruction(kind, arguments, Dimension(kind, text, against, paraphrase))


def _said(name: str, value: object) -> object:
    """Return an argument as sentences say it: languages by name, and words in quotation marks."""
    if name == "language":
        return _LANGUAGES[str(value)]
    return ", ".join(f'"{each}"' for each in value) if isinstance(value, list) else value


INSTRUCTIONS = _instructions()
"""The instructions by kind."""
_BY_TEXT = {each.preference.text: each for instructions in INSTRUCTIONS.values() for each in instructions}


def instruction_of(text: str) -> Instruction | None:
    """Return the instruction with this text as its preference, or `None`."""
    return _BY_TEXT.get(text)


def instructions_for(place: int) -> tuple[Dimension, ...]:
    """Return one instruction of each kind as the preferences of the question at a place, with arguments in turn."""
    return tuple(instructions[place % len(instructions)].preference for instructions in INSTRUCTIONS.values())
