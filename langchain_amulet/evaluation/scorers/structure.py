"""Finds the parts of answers that checkers count: sentences, paragraphs, list items, tables, emojis."""

import re
from typing import NamedTuple

_MARKDOWN_FENCE = re.compile(
    r"^[ \t]*```(?:markdown|md)[ \t]*\n(.*?)(?:^[ \t]*```[ \t]*$|\Z)", re.MULTILINE | re.DOTALL
)
_FENCE = re.compile(r"^[ \t]*```.*?(?:^[ \t]*```[ \t]*$|\Z)", re.MULTILINE | re.DOTALL)
_HEADING = re.compile(r"^ {0,3}#{1,6}[ \t]+\S", re.MULTILINE)
_BULLET = re.compile(r"^([ \t]*)[-*+\u2022\u25e6\u2013\u25cf\u25cb\u25aa\u2023\u2043\u00b7][ \t]+(?=\S)")
_NUMBER = re.compile(
    r"^([ \t]*)(?:#{1,6}[ \t]+)?(?:\*\*|__)?(?:(\d{1,3})[.)]|\((\d{1,3})\)|step[ \t]+(\d{1,3})[.:)])(?:\*\*|__)?"
    r"[ \t]+(?=\S)",
    re.IGNORECASE,
)
_SEPARATOR = re.compile(r"^[ \t]*\|?[ \t]*:?-+:?[ \t]*(?:\|[ \t]*:?-+:?[ \t]*)+\|?[ \t]*$")

_SENTENCE_END = re.compile(r"[.!?\u2026\u3002\uff01\uff1f]+[\"'\u2019\u201d\u00bb)\]*_]*(?=\s|$)|[\u3002\uff01\uff1f]+")
_NEVER_LAST = re.compile(
    r"(?:^|[\s(])(?:dr|mr|mrs|ms|prof|st|vs|e\.g|i\.e|cf|approx|z\.b|d\.h|sr|sra|mme|mt|capt|gen|sen|gov|rev)\.$",
    re.IGNORECASE,
)
_SELDOM_LAST = re.compile(r"(?:^|[\s(])(?:etc|a\.m|p\.m|inc|ltd|jr|ph\.d|Ph\.D|[a-z](?:\.[a-z])+|[A-Z](?:\.[A-Z])*)\.$")

_PICTURE = (
    "(?:[\U0001f300-\U0001f3fa\U0001f400-\U0001faff]\ufe0f?[\U0001f3fb-\U0001f3ff]?"
    "|[\u2600-\u27bf\u2190-\u21ff\u2b05-\u2b07\u2934\u2935]\ufe0f"
    "|[\u231a\u231b\u23e9-\u23ec\u23f0\u23f3\u25fd\u25fe\u2614\u2615\u2648-\u2653\u267f\u2693\u26a1\u26aa\u26ab\u26bd"
    "\u26be\u26c4\u26c5\u26ce\u26d4\u26ea\u26f2\u26f3\u26f5\u26fa\u26fd\u2705\u270a\u270b\u2728\u274c\u274e\u2753-\u2755"
    "\u2757\u2764\u2795-\u2797\u27b0\u27bf\u2b1b\u2b1c\u2b50\u2b55])"
)
_EMOJI = re.compile(f"[\U0001f1e6-\U0001f1ff]{{2}}|[0-9#*]\ufe0f?\u20e3|{_PICTURE}(?:\u200d{_PICTURE})*")


class ListItem(NamedTuple):
    """An item of a list in Markdown."""

    indent: int
    """Spaces before its mark. A tab counts as four."""
    number: int | None
    """Its number, or `None` for a bullet."""
    text: str
    """What follows the mark on its line."""


def without_code(text: str) -> str:
    """Return the text without blocks of code in fences. A fence of Markdown holds an answer, and only its marks go."""
    return _FENCE.sub("", _MARKDOWN_FENCE.sub(r"\1", text))


def count_words(text: str) -> int:
    """Return the number of pieces between spaces that have a letter or a digit. `well-known` and `don't` are one."""
    return sum(any(character.isalnum() for character in piece) for piece in text.split())


def count_headings(text: str) -> int:
    """Return the number of lines that begin with one to six `#` and a space, outside code."""
    return len(_HEADING.findall(without_code(text)))


def count_emojis(text: str) -> int:
    """Return the number of emojis. Flags, skin tones and joined ones count once; characters such as ✓ and → do not."""
    return len(_EMOJI.findall(text))


def without_emojis(text: str) -> str:
    """Return the text with its emojis removed."""
    return _EMOJI.sub("", text)


def list_item(line: str) -> ListItem | None:
    """Return the list item that a line begins, or `None`.

    Marks are `1.`, `1)`, `(1)`, `Step 1:`, `-`, `*`, `+`, `–`, `•` and round or square bullets like it.
    """
    if found := _NUMBER.match(line):
        number = int(found[2] or found[3] or found[4])
        return ListItem(len(found[1].expandtabs(4)), number, line[found.end() :])
    if (found := _BULLET.match(line)) and not re.fullmatch(r"[ \t]*([-*_])(?:[ \t]*\1)+[ \t]*", line):  # a rule: * * *
        return ListItem(len(found[1].expandtabs(4)), None, line[found.end() :])
    return None


def list_items(text: str) -> list[ListItem]:
    """Return all list items outside code."""
    return [item for line in without_code(text).splitlines() if (item := list_item(line))]


def top_items(text: str) -> list[ListItem]:
    """Return the list items that are indented least. Up to one space more counts as equal."""
    items = list_items(text)
    least = min((item.indent for item in items), default=0)
    return [item for item in items if item.indent <= least + 1]


def table_rows(text: str) -> int:
    """Return the most rows below the header of a Markdown table with two columns or more; 0 without a table."""
    lines, most = without_code(text).splitlines(), 0
    for place, line in enumerate(lines):
        if place and _SEPARATOR.match(line) and "|" in lines[place - 1]:
            below = lines[place + 1 :]
            most = max(most, next((i for i, row in enumerate(below) if "|" not in row), len(below)))
    return most


def paragraphs(text: str) -> list[str]:
    """Return the blocks between blank lines, or the lines of a text without blank lines. Rules (`***`) are dropped."""
    blocks = re.split(r"\n[ \t]*\n", text.strip())
    blocks = blocks if len(blocks) > 1 else text.strip().splitlines()
    return [block.strip() for block in blocks if re.search(r"\w", block)]


def sentences(text: str) -> list[str]:
    """Return the sentences. Each line is at least one; marks of list items and headings are removed.

    A sentence ends at `.`, `!`, `?` or `…` before a space, except after abbreviations and inside quoted speech that the
    sentence goes on after. A last piece without such an end is a sentence too.
    """
    pieces: list[str] = []
    for line in text.splitlines():
        item = list_item(line)
        pieces += _sentences_of_line(item.text if item else re.sub(r"^\s*#{1,6}\s+", "", line))
    return [piece for piece in pieces if re.search(r"\w", piece)]


def _sentences_of_line(line: str) -> list[str]:
    pieces, start = [], 0
    for end in _SENTENCE_END.finditer(line):
        if _ends_sentence(line, start, end.end()):
            pieces.append(line[start : end.end()].strip())
            start = end.end()
    return [*pieces, line[start:].strip()]


def _ends_sentence(line: str, start: int, at: int) -> bool:
    """Return whether the full stop, question or exclamation mark before `at` ends a sentence."""
    before, after = line[start:at], line[at:].lstrip()
    if _NEVER_LAST.search(before):
        return False
    goes_on = after[:1].islower()
    if _SELDOM_LAST.search(before):
        return not goes_on and bool(after)
    return not (goes_on and before[-1:] in "\"'\u2019\u201d\u00bb)")
