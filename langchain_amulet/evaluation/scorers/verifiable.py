"""Checks whether answers keep verifiable preferences, by deterministic rules in the manner of IFEval.

The rules are in `checkers.py` for our own wishes, and in `ifeval.py` for the instructions of IFEval. Whatever the rule
says, an answer counts as not kept if it is degenerate, if it is a short refusal or repeats the question, or if the
token limit cut off what the wish is about.

References:
    Zhou et al., Instruction-Following Evaluation for Large Language Models, 2023: https://arxiv.org/abs/2311.07911
"""

import re

from langchain_amulet.answers.repetition import is_degenerate, words_of
from langchain_amulet.evaluation.questions.ifeval import instruction_of
from langchain_amulet.evaluation.runs.answer import Answer
from langchain_amulet.evaluation.scorers.checkers import CHECKERS, NEEDS_THE_END
from langchain_amulet.evaluation.scorers.ifeval import is_followed, needs_the_end
from langchain_amulet.evaluation.scorers.scorer import Scorer
from langchain_amulet.evaluation.scorers.structure import count_words, list_items
from langchain_amulet.exceptions import InvalidParameterError

KEPT = "kept"
"""Name of the scorer."""
REPEATED_SHARE = 0.35
"""Answers with a larger share of repeated 3-grams of words are degenerate, and count as not kept."""


def kept() -> Scorer:
    """Return a scorer: 1 if the answer keeps its preference, 0 if not, `None` if no program can check the preference.

    Wishes are recognised by their name, instructions of IFEval by their text.
    """

    def score(answer: Answer) -> float | None:
        if answer.dimension in CHECKERS:
            return float(is_kept(answer.dimension, answer.text, answer.finish_reason, question=answer.question))
        if (instruction := instruction_of(answer.preference)) is None:
            return None
        is_cut = answer.finish_reason == "length" and needs_the_end(instruction)
        return float(
            not is_broken(answer.text, answer.question) and not is_cut and is_followed(instruction, answer.text.strip())
        )

    return Scorer(KEPT, score, better="higher")


def is_kept(wish_name: str, text: str, finish_reason: str | None = "stop", *, question: str = "") -> bool:
    """Return whether an answer keeps a wish.

    Args:
        wish_name: A key of `CHECKERS`.
        text: The answer.
        finish_reason: `"length"` says that the token limit cut the answer off. Wishes about the end or the whole of an
            answer (`NEEDS_THE_END`) are then not kept.
        question: The question, so that answers which only repeat it do not count.

    Raises:
        InvalidParameterError: There is no such wish.
    """
    if wish_name not in CHECKERS:
        msg = f"There is no wish {wish_name!r}. Pass one of: {', '.join(CHECKERS)}."
        raise InvalidParameterError(msg)
    if is_broken(text, question) or (finish_reason == "length" and wish_name in NEEDS_THE_END):
        return False
    if finish_reason == "length" and wish_name == "only_questions":
        text = _SENTENCE_END.sub("", text)
    return CHECKERS[wish_name](text.strip())


_SENTENCE_END = re.compile(r"[^.!?]*\Z")
"""What follows the last end of a sentence: an unfinished one."""


def is_broken(text: str, question: str = "") -> bool:
    """Return whether an answer keeps no wish: it is degenerate, loops, refuses, or only repeats the question."""
    is_echo = words_of(text) == words_of(question)
    return is_echo or is_degenerate(text, REPEATED_SHARE) or _is_loop(text) or _is_refusal(text)


def _is_loop(text: str) -> bool:
    """Return whether symbols repeat, which have no words, or a larger share of list items than of 3-grams may."""
    items = [item.text.casefold().strip() for item in list_items(text)]
    repeated = len(items) - len({*items})
    return _SYMBOL_LOOP.search(text) is not None or repeated > REPEATED_SHARE * len(items)


_SYMBOL_LOOP = re.compile(r"((?:[^\w\s\-=_|.:*#~/]\s?){1,4}?)\1{11,}|(\w{1,4}?)\2{19,}")
"""A symbol, or up to four in turn, twelve times in a row. Lines and tables of Markdown have other symbols. Or letters,
up to four in turn, twenty times in a row."""

_REFUSAL = re.compile(
    r"\W*(?:(?:i(?:'| a)m (?:really )?sorry|sorry|i apologi[sz]e|unfortunately|as an ai)\b.{0,60}?)?"
    r"\b(?:i (?:can(?:'|no)t|can not|am unable|am not able|won't|will not)|i'm (?:unable|not able))\b"
    r"|\W*(?:je suis désolé|lo siento|es tut mir leid|désolé)\b.{0,60}?\b(?:ne peux|no puedo|kann)\b",
    re.IGNORECASE | re.DOTALL,
)
_REFUSAL_WORDS = 40


def _is_refusal(text: str) -> bool:
    """Return whether a short answer begins by saying that it cannot answer. Longer ones answer all the same."""
    return count_words(text) <= _REFUSAL_WORDS and _REFUSAL.match(text.replace("\u2019", "'")) is not None
