"""Tool calls in a stream of text: names and arguments as they come."""

import json
import re
import secrets
import string
from collections.abc import Collection, Iterator
from typing import Any

from langchain_core.messages.tool import ToolCallChunk, tool_call_chunk

# A call as most models write it, up to the brace of its arguments, which can then be passed on while they come.
_HEAD = re.compile(r'\{\s*"name"\s*:\s*("(?:[^"\\]|\\.)*")\s*,\s*"(?:arguments|parameters)"\s*:\s*\{')
_BARE_NAME = re.compile(r"(?<![^\s\[\]{},;\"'])([^\s\[\]{},;\"'`]+)\s*(?:\[CALL_ID\]\S+\s*)?(?:\[ARGS\]\s*)?$")
_ID_ALPHABET = string.ascii_letters + string.digits
# LangChain completes partial JSON, and an agent would run half of a call. A bracket that closes nothing it refuses.
_SPOILER = "]"
_ID_LENGTH = 9  # Mistral's templates take ids of nine letters and digits, and no others


def new_id() -> str:
    """An id for a tool call."""
    return "".join(secrets.choice(_ID_ALPHABET) for _ in range(_ID_LENGTH))


def whole_call(name: str, arguments: Any, index: int) -> ToolCallChunk:
    """A call in one chunk."""
    args = arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)
    return tool_call_chunk(name=name, args=args if _is_object(args) else args + _SPOILER, id=new_id(), index=index)


def invalid_call(text: str, index: int) -> ToolCallChunk:
    """A chunk that LangChain makes an invalid tool call: its arguments are the text, and no JSON."""
    args = json.dumps(text, ensure_ascii=False) + _SPOILER
    return tool_call_chunk(name="", args=args, id=new_id(), index=index)


class CallStream:
    """Reads one part of an answer that holds tool calls: JSON objects, or names with objects behind them.

    Args:
        index: Number of the first call in the answer.
        names: Of the tools bound; other words before an object are no names.
    """

    def __init__(self, index: int, names: Collection[str] = ()) -> None:
        self._index = index
        self._names = names
        self._outside = ""  # text since the last call
        self._has_any = False
        self._restart()

    def _restart(self) -> None:
        self._json = _Braces()
        self._text = ""  # of the object under way
        self._args: str | None = None  # those that have come, once the name has
        self._num_sent = 0  # characters of them that were passed on
        self._args_depth = 0  # braces around them

    @property
    def rest(self) -> str:
        """Words behind the last call."""
        return self._outside.strip(" \n\t,;]`") if self._has_any else ""

    def push(self, text: str) -> Iterator[ToolCallChunk]:
        """Take some text; yields what has become certain."""
        for character in text:
            yield from self._step(character)
        yield from self._flush()

    def close(self) -> Iterator[ToolCallChunk]:
        """Take the end of the part; a call that is not whole comes out as an invalid one."""
        if self._json.depth == 0:
            if self._outside.strip() and not self._has_any:
                yield invalid_call(self._outside, self._index)
            return
        if self._args is None:
            yield invalid_call(self._text, self._index)
        elif self._json.depth > self._args_depth:
            self._args += self._json.spoiler
            yield from self._flush()
        self._next()

    def _step(self, character: str) -> Iterator[ToolCallChunk]:
        depth_before = self._json.depth
        self._json.push(character)
        if depth_before == 0 == self._json.depth:
            self._outside += character
            return
        self._text += character
        if depth_before == 0:
            yield from self._begin()
            return
        if self._args is not None and depth_before > self._args_depth:
            self._args += character
        elif self._args is None and character == "{" and (head := _HEAD.fullmatch(self._text)):
            yield self._start(_name(head[1]), depth=1)
        if self._json.depth == 0:
            yield from self._end()

    def _begin(self) -> Iterator[ToolCallChunk]:
        """An object begins; a name before it makes it the arguments of that tool."""
        name = _BARE_NAME.search(self._outside)
        self._outside, self._has_any = "", True
        if name and name[1] in self._names:
            yield self._start(name[1], depth=0)

    def _start(self, name: str, *, depth: int) -> ToolCallChunk:
        self._args, self._args_depth = "{", depth
        return tool_call_chunk(name=name, args="", id=new_id(), index=self._index)

    def _end(self) -> Iterator[ToolCallChunk]:
        """An object is whole."""
        if self._args is None:
            yield self._read_whole()
        else:
            if not _is_object(self._args):
                self._args += _SPOILER
            yield from self._flush()
        self._next()

    def _flush(self) -> Iterator[ToolCallChunk]:
        if self._args is not None and self._num_sent < len(self._args):
            new, self._num_sent = self._args[self._num_sent :], len(self._args)
            yield tool_call_chunk(args=new, index=self._index)

    def _next(self) -> None:
        self._index += 1
        self._restart()

    def _read_whole(self) -> ToolCallChunk:
        """A call whose parts come in another order, or no call."""
        try:
            call = json.loads(self._text)
        except (ValueError, RecursionError):
            return invalid_call(self._text, self._index)
        call = call.get("function", call) if isinstance(call.get("function"), dict) else call
        arguments = call.get("arguments", call.get("parameters", {}))
        if not isinstance(call.get("name"), str):
            return invalid_call(self._text, self._index)
        return whole_call(call["name"], arguments, self._index)


class _Braces:
    """How deep a text is within a JSON object."""

    def __init__(self) -> None:
        self._closers: list[str] = []
        self._is_in_string = self._is_escaped = False

    @property
    def depth(self) -> int:
        return len(self._closers)

    @property
    def spoiler(self) -> str:
        """What makes the text so far no beginning of any JSON."""
        ending = ("\\" if self._is_escaped else "") + ('"' if self._is_in_string else "")
        return ending + ("}" if self._closers[-1] == "]" else "]")

    def push(self, character: str) -> None:
        if self._is_in_string:
            self._is_in_string = self._is_escaped or character != '"'
            self._is_escaped = character == "\\" and not self._is_escaped
        elif character == "{" or (character == "[" and self._closers):
            self._closers.append("}" if character == "{" else "]")
        elif character == '"':
            self._is_in_string = bool(self._closers)
        elif self._closers and character == self._closers[-1]:
            self._closers.pop()


def _is_object(text: str) -> bool:
    try:
        return isinstance(json.loads(text), dict)
    except (ValueError, RecursionError):
        return False


def _name(literal: str) -> str:
    """A name in quotes; as it stands if its escapes are none of JSON."""
    try:
        return str(json.loads(literal))
    except ValueError:
        return literal[1:-1]
