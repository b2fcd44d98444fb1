"""Checkers of wishes: pure functions from the text of an answer to a truth value. Their docstrings say what counts."""

import json
import re
from collections.abc import Callable
from itertools import pairwise

from langchain_amulet.evaluation.scorers.languages import is_language
from langchain_amulet.evaluation.scorers.structure import (
    count_emojis,
    count_headings,
    count_words,
    list_items,
    paragraphs,
    sentences,
    table_rows,
    top_items,
    without_code,
    without_emojis,
)


def is_one_sentence(text: str) -> bool:
    """Return whether the text is one sentence on one line."""
    return len(sentences(text)) == 1


def is_numbered_list(text: str) -> bool:
    """Return whether the topmost list has two items or more that are numbered 1, 2, and so on. Text may surround it."""
    numbers = [item.number for item in top_items(text) if item.number is not None]
    return any(pair == (1, 2) for pair in pairwise(numbers))


def is_bulleted_list(text: str) -> bool:
    """Return whether the topmost list has two bullets or more, and no numbers. Text may surround it."""
    items = top_items(text)
    return len(items) > 1 and all(item.number is None for item in items)


def is_prose(text: str) -> bool:
    """Return whether there is a sentence, and no list item, no table, no heading and no `1. ... 2. ...` in a line."""
    is_listed = bool(list_items(text)) or re.search(r"(?:^|\s)1[.)]\s.*\s2[.)]\s", text) is not None
    has_end = re.search(r"\w[^\s\w]*[.!?\u3002]", text) is not None
    return has_end and not is_listed and not table_rows(text) and not count_headings(text)


def is_lowercase(text: str) -> bool:
    """Return whether the text has letters with case, all of them lower."""
    return text.islower()


def is_uppercase(text: str) -> bool:
    """Return whether the text has letters with case, all of them upper."""
    return text.isupper()


def has_many_emojis(text: str) -> bool:
    """Return whether there are three emojis or more."""
    return count_emojis(text) >= 3  # noqa: PLR2004


def is_piratical(text: str) -> bool:
    """Return whether two different words of stage pirates occur. `pirate` itself, ships and treasure do not count."""
    plain = text.replace("\u2019", "'")
    return sum(re.search(rf"\b(?:{word})(?!\w)", plain, re.IGNORECASE) is not None for word in _PIRATE) > 1


_PIRATE = (
    "a+r{2,}g?h?", "ahoy", "aye", "mateys?", "hearty|hearties", "ye(?:'\\w+)?|yer|yerself", "avast", "shiver me",
    "scallywags?", "scurvy", "buccaneers?", "landlubbers?", "yo[ -]?ho", "doubloons?", "grog", "cap'n", "seven seas",
    "davy jones", "jolly roger", "swashbuckl\\w+", "walk the plank", "bilge", "me (?:lads?|ship|crew|treasure|own)",
    "keelhaul\\w*", "thar", "be ye|ye be", "o'|th'", "lass(?:ie)?s?", "blimey", "begad", "booty",
)  # fmt: skip
"""Words of pirates on stage, as regular expressions."""


def ends_with_question(text: str) -> bool:
    """Return whether the last of two sentences or more is a question. An answer that is one question has no answer."""
    return _is_question(text) and len(sentences(text)) > 1


def _is_question(text: str) -> bool:
    """Return whether the text ends with a question mark, perhaps with exclamation marks after it."""
    return without_trimmings(text).rstrip("!").endswith(("?", "\uff1f"))


def without_trimmings(text: str) -> str:
    """Return the text without emojis, spaces, quotation marks, brackets and emphasis at its end."""
    return without_emojis(text).rstrip(" \t\n\r\ufe0f\"'\u2019\u201c\u201d\u00bb)]*_`")


def is_enthusiastic(text: str) -> bool:
    """Return whether there are two exclamation marks or more, and one for five sentences. `!!!` counts as one."""
    marks = len(re.findall(r"[!\uff01]+", re.sub(r"!\[|!=", "", text)))  # pictures and code
    return marks > 1 and 5 * marks >= len(sentences(text))


def has_at_most_35_words(text: str) -> bool:
    """Return whether there are 35 words or fewer, between spaces."""
    return count_words(text) <= 35  # noqa: PLR2004


def has_at_least_100_words(text: str) -> bool:
    """Return whether there are 100 words or more, between spaces."""
    return count_words(text) >= 100  # noqa: PLR2004


def has_no_comma(text: str) -> bool:
    """Return whether there is no comma, not even in a number such as 1,000."""
    return not re.search("[,\uff0c\u3001\u060c]", text)


def has_bold_terms(text: str) -> bool:
    """Return whether two terms or more of one to eight words are bold, outside code.

    Bold are `**term**`, `__term__` and `***term***`, which is in italics too.
    """
    spans = re.findall(r"(?<![*_\\])(\*{2,3}|__)(?=[^\s*_])([^\n]+?)(?<=\S)\1(?![*_])", without_code(text))
    return sum(1 <= count_words(term) <= 8 for _, term in spans) > 1  # noqa: PLR2004


def has_headings(text: str) -> bool:
    """Return whether there are two Markdown headings or more. One alone is a title, and divides nothing."""
    return count_headings(text) > 1


def has_table(text: str) -> bool:
    """Return whether there is a Markdown table: header, line of dashes, a row, two columns. Text may surround it."""
    return table_rows(text) > 0


def is_json(text: str) -> bool:
    """Return whether the whole text, or all of it in one code fence, is a JSON object or list."""
    fenced = re.fullmatch(r"```(?:json|JSON)?[ \t]*\n(.*?)\n?```", text, re.DOTALL)
    try:
        return isinstance(json.loads(fenced[1] if fenced else text), dict | list)
    except (ValueError, RecursionError):
        return False


def begins_with_summary(text: str) -> bool:
    """Return whether the text begins with `TL;DR:`, in any case and emphasis, and goes on for three words."""
    found = re.match(r"[\s*_#>\"\u201c]*tl;?dr[\s*_]*:[\s*_]*(.+)", text, re.IGNORECASE | re.DOTALL)
    return found is not None and count_words(found[1]) >= 3  # noqa: PLR2004


def addresses_captain(text: str) -> bool:
    """Return whether the reader is addressed: `Captain` set off by punctuation, or after a greeting.

    Not counted are other people (`Captain Cook`), other words (`captaincy`), the speaker (`I am Captain.`) and labels
    of speakers (`Captain: ...`).
    """
    return _ADDRESS.search(text) is not None


_ADDRESS = re.compile(
    r"(?:\A|[.!?\n])[\s\"*_\u201c]*(?:captain|cap'n)[\"*_\u201d]*\s*(?:[,!.?\u2013\u2014]|$)"
    r"|,\s*[\"*_\u201c]*(?:captain|cap'n)[\"*_\u201d]*\s*(?:[,!.?:;\u2013\u2014]|$)"
    r"|\b(?:(?:hello|hi|hey|aye|yes|sure|certainly|absolutely|indeed|ahoy|howdy|greetings|thanks|thank you|okay|ok|"
    r"alright|all right|of course|good (?:morning|day|afternoon|evening|night)|arr+)[,!]?\s+[\"*_\u201c]*captain\b"
    r"(?![ \t]+(?-i:[A-Z][a-z])|'s|\u2019s)"
    r"|(?:dear|welcome|well|right|my|oh)[,!]?\s+[\"*_\u201c]*captain\b(?![ \t]+\w|'s|\u2019s))",
    re.IGNORECASE | re.MULTILINE,
)


def begins_with_dear_friend(text: str) -> bool:
    """Return whether the text begins with `Dear friend,`, in any case, perhaps in quotation marks or emphasis."""
    return re.match(r"[\s*_#>\"\u201c]*dear friend[*_]*,", text, re.IGNORECASE) is not None


def ends_with_hope(text: str) -> bool:
    """Return whether the text ends with `Hope this helps!`, in any case."""
    return without_trimmings(text).casefold().endswith("hope this helps!")


def has_example(text: str) -> bool:
    """Return whether `for example` occurs, in any case, with three words or more after it, perhaps at the beginning."""
    found = re.search(r"\bfor example\b(.*)", text, re.IGNORECASE | re.DOTALL)
    return found is not None and count_words(found[1]) >= 3  # noqa: PLR2004


def has_two_paragraphs(text: str) -> bool:
    """Return whether there are two paragraphs of five words or more. Lists, tables and headings are no paragraphs."""
    blocks = paragraphs(text)
    is_plain = not list_items(text) and not table_rows(text) and not count_headings(text)
    return is_plain and len(blocks) == 2 and all(count_words(block) >= 5 for block in blocks)  # noqa: PLR2004


def is_quoted(text: str) -> bool:
    """Return whether double quotation marks, straight or curly, enclose the whole text.

    `"Sleep" is "rest"` begins and ends with such marks too, but the first mark inside closes what the first one opened.
    """
    if len(text) < 3 or text[0] not in _OPENING or text[-1] not in _CLOSING:  # noqa: PLR2004
        return False
    inner = re.search(f"[{_OPENING}{_CLOSING}]", text[1:-1])
    before_it = text[inner.start()] if inner else " "
    return before_it in " \t\n([-\u2014"


_OPENING, _CLOSING = '"\u201c\u201e\u00ab', '"\u201d\u201c\u00bb'


def has_three_figures(text: str) -> bool:
    """Return whether there are three numbers in digits. Marks of list items and `Step 1` do not count; `7-9` is two."""
    mark = re.compile(r"^[\s#*_]*(?:step\s+)?\d{1,3}[.):](?:\s|\*|$)", re.IGNORECASE | re.MULTILINE)
    unmarked = re.sub(r"\b(?:step|point|tip)s?\s+\d+\b", "", mark.sub("", text), flags=re.IGNORECASE)
    return len(re.findall(r"\d+(?:[.,:]\d+)*", unmarked)) >= 3  # noqa: PLR2004


def has_only_questions(text: str) -> bool:
    """Return whether all sentences are questions. One is enough."""
    asked = [_is_question(each) for each in sentences(text)]
    return bool(asked) and all(asked)


def has_three_points(text: str) -> bool:
    """Return whether the topmost lists have three items in all. Text may surround them.

    In a list that begins with a number, bullets are below the numbers, even if they are not indented.
    """
    items = top_items(text)
    if items and items[0].number is not None:
        items = [item for item in items if item.number is not None]
    return len(items) == 3  # noqa: PLR2004


CHECKERS: dict[str, Callable[[str], bool]] = {
    "one_sentence": is_one_sentence,
    "numbered_list": is_numbered_list,
    "bullet_points": is_bulleted_list,
    "prose": is_prose,
    "lowercase": is_lowercase,
    "uppercase": is_uppercase,
    "emojis": has_many_emojis,
    "french": lambda text: is_language(text, "fr"),
    "spanish": lambda text: is_language(text, "es"),
    "german": lambda text: is_language(text, "de"),
    "pirate": is_piratical,
    "closing_question": ends_with_question,
    "exclamations": is_enthusiastic,
    "at_most_35_words": has_at_most_35_words,
    "at_least_100_words": has_at_least_100_words,
    "no_commas": has_no_comma,
    "bold_terms": has_bold_terms,
    "headings": has_headings,
    "table": has_table,
    "json": is_json,
    "summary_first": begins_with_summary,
    "call_me_captain": addresses_captain,
    "dear_friend": begins_with_dear_friend,
    "closing_phrase": ends_with_hope,
    "example": has_example,
    "two_paragraphs": has_two_paragraphs,
    "quotation_marks": is_quoted,
    "figures": has_three_figures,
    "only_questions": has_only_questions,
    "three_points": has_three_points,
}
"""The checker of each wish, by its name. They get the text without spaces around it."""

NEEDS_THE_END = frozenset(
    {
        *("one_sentence", "at_most_35_words", "two_paragraphs", "three_points"),  # more would have followed
        *("closing_question", "closing_phrase", "quotation_marks", "json"),  # the end is what is asked for
    }
)
"""Wishes that an answer does not keep if the token limit cut it off. The others are judged by what is there."""
