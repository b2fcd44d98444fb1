"""Checkers of IFEval's instructions, written anew after their definitions.

They are not IFEval's own: sentences and languages are recognised by other means, and stricter rules hold for lists,
emphasis and quotation marks.

References:
    Zhou et al., Instruction-Following Evaluation for Large Language Models, 2023: https://arxiv.org/abs/2311.07911
"""

import re
from collections.abc import Callable, Sequence

from langchain_amulet.evaluation.questions.ifeval import Instruction
from langchain_amulet.evaluation.scorers.checkers import has_no_comma, is_json, is_lowercase, is_quoted, is_uppercase
from langchain_amulet.evaluation.scorers.languages import is_language, language_of
from langchain_amulet.evaluation.scorers.structure import list_items, sentences


def is_followed(instruction: Instruction, text: str) -> bool:
    """Return whether a text follows an instruction."""
    return _CHECKERS[instruction.kind](text, **instruction.arguments)


def needs_the_end(instruction: Instruction) -> bool:
    """Return whether an answer that the token limit cut off cannot follow the instruction."""
    is_upper_bound = instruction.arguments.get("relation") == "less than"
    return instruction.kind in _NEED_THE_END or (instruction.kind in _LENGTHS and is_upper_bound)


def _holds(number: int, relation: str, bound: int) -> bool:
    return number < bound if relation == "less than" else number >= bound


def has_sentences(text: str, relation: str, num_sentences: int) -> bool:
    """Return whether the number of sentences is less than, or at least, this. Each line is at least one."""
    return _holds(len(sentences(text)), relation, num_sentences)


def has_words(text: str, relation: str, num_words: int) -> bool:
    """Return whether the number of words is less than, or at least, this. `don't` is two words, as in IFEval."""
    return _holds(len(re.findall(r"\w+", text)), relation, num_words)


def has_divided_paragraphs(text: str, num_paragraphs: int) -> bool:
    """Return whether `***` divides this many paragraphs. A divider may also stand at the beginning and at the end."""
    parts = [part.strip() for part in re.split(r"\*\*\*", text)]
    inner = parts[not parts[0] : len(parts) - (not parts[-1])]
    return len(inner) == num_paragraphs and all(inner)


def has_paragraph_that_begins(text: str, first_word: str, num_paragraphs: int, nth_paragraph: int) -> bool:
    """Return whether blank lines part this many paragraphs, of which the nth, counted from 1, begins with a word."""
    parts = [part for part in re.split(r"\n\s*\n", text) if part.strip()]
    if len(parts) != num_paragraphs:
        return False
    words = re.findall(r"\w+", parts[nth_paragraph - 1])
    return bool(words) and words[0].casefold() == first_word.casefold()


def has_placeholders(text: str, num_placeholders: int) -> bool:
    """Return whether there are at least this many `[placeholders]`, empty ones aside."""
    return len(re.findall(r"\[[^\[\]]*\w[^\[\]]*\]", text)) >= num_placeholders


def has_postscript(text: str, postscript_marker: str) -> bool:
    """Return whether something follows the marker, which stands after a space. Spaces in it are free."""
    letters = re.findall(r"\w", postscript_marker)
    marker = r"(?:^|\s)[*_]*" + r"\.\s?".join(letters) + r"(?!\w).*\w"
    return re.search(marker, text, re.IGNORECASE | re.DOTALL) is not None


def has_bullets(text: str, num_bullets: int) -> bool:
    """Return whether there are exactly this many bullets, inner ones too."""
    return sum(item.number is None for item in list_items(text)) == num_bullets


def has_highlights(text: str, num_highlights: int) -> bool:
    """Return whether at least this many passages stand between asterisks, one, two or three, on a line."""
    return len(re.findall(r"(?<!\*)(\*{1,3})(?=[^\s*])[^\n*]*[^\s*]\1(?!\*)", text)) >= num_highlights


def has_sections(text: str, section_spliter: str, num_sections: int) -> bool:
    """Return whether the word for sections with a number occurs at least this often, in the given case."""
    return len(re.findall(rf"\b{re.escape(section_spliter)}\s?\d+", text)) >= num_sections


def has_title(text: str) -> bool:
    """Return whether there is a title in `<<double angular brackets>>`."""
    return re.search(r"<<[^\n<>]*\w[^\n<>]*>>", text) is not None


def is_two_responses(text: str) -> bool:
    """Return whether six asterisks separate two different answers."""
    parts = [part.strip() for part in re.split(r"(?<!\*)\*{6}(?!\*)", text)]
    return len(parts) == 2 and all(parts) and parts[0] != parts[1]  # noqa: PLR2004


def ends_with(text: str, end_phrase: str) -> bool:
    """Return whether the text ends with the phrase, in any case. A quotation mark may follow."""
    return text.rstrip(" \n\t\"'\u201d*_").casefold().endswith(end_phrase.casefold())


def has_capital_words(text: str, relation: str, capital_frequency: int) -> bool:
    """Return whether the number of words all in capitals is less than, or at least, this. `I` is such a word."""
    return _holds(sum(word.isupper() for word in re.findall(r"\w+", text)), relation, capital_frequency)


def is_english_uppercase(text: str) -> bool:
    """Return whether all letters are capitals, and the language is English."""
    return is_uppercase(text) and language_of(text) == "en"


def is_english_lowercase(text: str) -> bool:
    """Return whether all letters are small, and the language is English."""
    return is_lowercase(text) and language_of(text) == "en"


def has_keywords(text: str, keywords: Sequence[str]) -> bool:
    """Return whether all keywords occur, in any case, also within words, as in IFEval."""
    return all(keyword.casefold() in text.casefold() for keyword in keywords)


def has_keyword_times(text: str, relation: str, keyword: str, frequency: int) -> bool:
    """Return whether a keyword occurs less than, or at least, this often, in any case, also within words."""
    return _holds(text.casefold().count(keyword.casefold()), relation, frequency)


def lacks_words(text: str, forbidden_words: Sequence[str]) -> bool:
    """Return whether none of the words occurs as a whole word, in any case."""
    return not any(re.search(rf"\b{re.escape(word)}\b", text, re.IGNORECASE) for word in forbidden_words)


def has_letter_times(text: str, relation: str, letter: str, frequency: int) -> bool:
    """Return whether a letter occurs less than, or at least, this often, in any case."""
    return _holds(text.casefold().count(letter.casefold()), relation, frequency)


_CHECKERS: dict[str, Callable[..., bool]] = {
    "language:response_language": is_language,
    "length_constraints:number_sentences": has_sentences,
    "length_constraints:number_words": has_words,
    "length_constraints:number_paragraphs": has_divided_paragraphs,
    "length_constraints:nth_paragraph_first_word": has_paragraph_that_begins,
    "detectable_content:number_placeholders": has_placeholders,
    "detectable_content:postscript": has_postscript,
    "detectable_format:number_bullet_lists": has_bullets,
    "detectable_format:number_highlighted_sections": has_highlights,
    "detectable_format:multiple_sections": has_sections,
    "detectable_format:json_format": is_json,
    "detectable_format:title": has_title,
    "combination:two_responses": is_two_responses,
    "startend:end_checker": ends_with,
    "startend:quotation": is_quoted,
    "change_case:capital_word_frequency": has_capital_words,
    "change_case:english_capital": is_english_uppercase,
    "change_case:english_lowercase": is_english_lowercase,
    "punctuation:no_comma": has_no_comma,
    "keywords:existence": has_keywords,
    "keywords:frequency": has_keyword_times,
    "keywords:forbidden_words": lacks_words,
    "keywords:letter_frequency": has_letter_times,
}

_LENGTHS = frozenset({"length_constraints:number_sentences", "length_constraints:number_words"})
_NEED_THE_END = frozenset(
    {
        *("length_constraints:number_paragraphs", "length_constraints:nth_paragraph_first_word"),
        *("detectable_format:number_bullet_lists", "detectable_format:json_format", "combination:two_responses"),
        *("startend:end_checker", "startend:quotation"),
    }
)
