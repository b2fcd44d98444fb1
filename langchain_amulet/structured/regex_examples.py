"""Short texts that match a regular expression, with which an answer can end a string that follows a pattern."""

import math
import re
from collections.abc import Callable
from typing import NamedTuple, TypeAlias

_Test: TypeAlias = Callable[[str], bool]
"""Returns whether a class of characters contains a character."""

_MAX_LENGTH = 2048  # characters of an example
_MAX_TRIALS = 100_000  # of characters as members of classes
_MAX_DEPTH = 64  # groups within groups, and classes within classes
_TRIED = "xA0 -_.:/@a,;b1"  # characters that are tried first as members of a class
_PRINTABLE = "".join(map(chr, range(32, 127))) + "é漢\n\t"

_FLAGS_ONLY = re.compile(r"\?[imsUux-]+\)")
_LOOKAROUND = re.compile(r"\?<?[=!]")
_GROUP_NAME = re.compile(r"\?P?<[^>=!]+>|\?[imsUux-]*:")
_COUNT = re.compile(r"\{(\d+)(,?)(\d*)\}")
_QUANTIFIER_KIND = re.compile(r"[?+]")
_CODE_POINT = re.compile(r"u\{([0-9A-Fa-f]+)\}|x\{([0-9A-Fa-f]+)\}|u([0-9A-Fa-f]{4})|x([0-9A-Fa-f]{2})")
_PROPERTY = re.compile(r"([pP])(?:\{\^?(?:\w+=)?(\w+)\}|(\w))")
_POSIX = re.compile(r"\[:(\^?)(\w+):\]")

_CONTROL = {"n": "\n", "t": "\t", "r": "\r", "f": "\f", "v": "\v", "a": "\a", "0": "\0"}
_SHORTHANDS: dict[str, _Test] = {
    "d": lambda character: character in "0123456789",
    "w": lambda character: character.isascii() and (character.isalnum() or character == "_"),
    "s": str.isspace,
}
_NAMED: dict[str, _Test] = {  # Unicode properties and POSIX classes
    "lu": str.isupper,
    "upper": str.isupper,
    "n": str.isdigit,
    "nd": str.isdigit,
    "digit": str.isdigit,
    "zs": str.isspace,
    "space": str.isspace,
    "p": lambda character: character in "-_.:/@,;",
    "punct": lambda character: character in "-_.:/@,;",
    "alnum": str.isalnum,
}


class _UnreadableError(Exception):
    """The expression has a part that is not understood here, or its matches are too long."""


class _Match(NamedTuple):
    """A short text that matches a part of an expression, and how to lengthen it."""

    text: str
    position: int = 0
    unit: str = ""
    """Text that may be inserted at `position`, up to `most` times; empty if none is known."""
    most: float = 0

    @property
    def room(self) -> float:
        """The most characters that may be inserted."""
        return len(self.unit) * self.most if self.unit else 0


def example_of(pattern: str, min_length: int = 0) -> str | None:
    """Return a short text that probably matches the expression.

    Lookarounds are ignored and anchors match everywhere, so the caller has to check the text.

    Args:
        pattern: A regular expression in the syntax of JavaScript or of Rust's regex crate.
        min_length: The least number of characters, if a repetition allows as many.

    Returns:
        The text; `None` if the expression is not understood, or its matches have more than 2,048 characters.
    """
    try:
        match = _Parser(pattern).parse()
    except _UnreadableError:
        return None
    num_missing = min(min_length, _MAX_LENGTH) - len(match.text)
    if num_missing <= 0 or not match.room:
        return match.text
    more = match.unit * int(min(-(-num_missing // len(match.unit)), match.most))
    return match.text[: match.position] + more + match.text[match.position :]


class _Parser:
    """Reads an expression from left to right, and matches each part with as little text as possible."""

    def __init__(self, pattern: str) -> None:
        self._pattern = pattern
        self._position = 0
        self._depth = 0
        self._num_trials = 0
        self._seen: list[str] = []  # characters with which ranges of characters begin

    def parse(self) -> _Match:
        match = self._alternatives()
        if self._peek():
            raise _UnreadableError
        return match

    def _peek(self) -> str:
        """Return the next character; empty at the end."""
        return self._pattern[self._position : self._position + 1]

    def _next(self) -> str:
        character = self._peek()
        if not character:
            raise _UnreadableError
        self._position += 1
        return character

    def _take(self, syntax: re.Pattern[str]) -> re.Match[str] | None:
        """Skip what matches the syntax at this position, and return it."""
        match = syntax.match(self._pattern, self._position)
        if match:
            self._position = match.end()
        return match

    def _alternatives(self) -> _Match:
        matches = [self._sequence()]
        while self._peek() == "|":
            self._next()
            matches.append(self._sequence())
        return min(matches, key=lambda match: len(match.text))

    def _sequence(self) -> _Match:
        whole = _Match("")
        while self._peek() not in ("", "|", ")"):
            whole = _joined(whole, self._repeated(self._part()))
        return whole

    def _part(self) -> _Match:
        character = self._next()
        if character == "(":
            return self._group()
        if character in "^$" or (character == "\\" and self._peek() in tuple("bBAzZ")):
            self._position += character == "\\"
            return _Match("")
        if character == "[":
            return _Match(self._member(self._class()))
        if character == "\\":
            return _Match(self._member(self._escape()))
        return _Match("x" if character == "." else character)

    def _group(self) -> _Match:
        if self._take(_FLAGS_ONLY):
            return _Match("")
        self._enter()
        is_ignored = self._take(_LOOKAROUND) is not None
        if not (is_ignored or self._take(_GROUP_NAME) or self._peek() != "?"):
            raise _UnreadableError
        match = self._alternatives()
        if self._next() != ")":
            raise _UnreadableError
        self._depth -= 1
        return _Match("") if is_ignored else match

    def _repeated(self, match: _Match) -> _Match:
        """Read the quantifiers of a part, and repeat its match as rarely as they allow."""
        while self._peek() in ("*", "+", "?") or _COUNT.match(self._pattern, self._position):
            count = self._take(_COUNT)
            if count:
                least, most = int(count[1]), float(count[3] or (math.inf if count[2] else count[1]))
            else:
                sign = self._next()
                least, most = int(sign == "+"), math.inf if sign in "*+" else 1
            match = _times(match, least, most)
            self._take(_QUANTIFIER_KIND)  # lazy or possessive
        return match

    def _class(self) -> _Test:
        """Read a class of characters, after its opening bracket."""
        is_negated = self._peek() == "^"
        self._position += is_negated
        tests: list[_Test] = []
        while self._peek() != "]" or not tests:
            tests.append(self._class_item())
        self._next()
        return lambda character: is_negated != any(test(character) for test in tests)

    def _class_item(self) -> _Test:
        if posix := self._take(_POSIX):
            return _named(posix[2], is_negated=bool(posix[1]))
        character = self._next()
        if character == "[":
            return self._inner_class()
        first = self._escape() if character == "\\" else character
        if not isinstance(first, str):
            return first
        self._seen.append(first)
        last = self._end_of_range() or first
        return lambda other: first <= other <= last

    def _end_of_range(self) -> str | None:
        """Read the end of a range of characters; `None` if no range stands here."""
        following = self._pattern[self._position : self._position + 2]
        if following[:1] != "-" or following[1:] in ("]", ""):
            return None
        self._next()
        character = self._next()
        last = self._escape() if character == "\\" else character
        if not isinstance(last, str):
            raise _UnreadableError
        return last

    def _inner_class(self) -> _Test:
        self._enter()
        test = self._class()
        self._depth -= 1
        return test

    def _enter(self) -> None:
        self._depth += 1
        if self._depth > _MAX_DEPTH:
            raise _UnreadableError

    def _member(self, characters: str | _Test) -> str:
        """Return a member of a class of characters."""
        if isinstance(characters, str):
            return characters
        tried: tuple[str, ...] = (*_TRIED, *_PRINTABLE, *self._seen)
        for character in tried:
            self._num_trials += 1
            if self._num_trials > _MAX_TRIALS:
                raise _UnreadableError
            if characters(character):
                return character
        raise _UnreadableError

    def _escape(self) -> str | _Test:
        """Read what follows a backslash: one character, or a class."""
        if code := self._take(_CODE_POINT):
            return chr(min(int(next(filter(None, code.groups())), 16), 0x10FFFF))
        if unicode_property := self._take(_PROPERTY):
            sign, name, letter = unicode_property.groups()
            return _named(name or letter, is_negated=sign == "P")
        character = self._next()
        if (test := _SHORTHANDS.get(character.lower())) is not None:
            return test if character.islower() else lambda other: not test(other)
        if character.isdigit() and character != "0":
            raise _UnreadableError  # a back-reference
        return _CONTROL.get(character, character)


def _named(name: str, *, is_negated: bool) -> _Test:
    """Return the test of a Unicode property or POSIX class; unknown ones are taken for letters."""
    test = _NAMED.get(name.lower(), str.isalpha)
    return lambda character: is_negated != test(character)


def _joined(first: _Match, second: _Match) -> _Match:
    _check_length(len(first.text) + len(second.text))
    if first.room >= second.room:
        return first._replace(text=first.text + second.text)
    return second._replace(text=first.text + second.text, position=len(first.text) + second.position)


def _times(match: _Match, least: int, most: float) -> _Match:
    _check_length(len(match.text) * least)
    if match.text and most > least:
        return _Match(match.text * least, len(match.text) * least, match.text, most - least)
    return match._replace(text=match.text * least) if least else _Match("")


def _check_length(length: int) -> None:
    if length > _MAX_LENGTH:
        raise _UnreadableError
