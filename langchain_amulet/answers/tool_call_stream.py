"""Parses tool calls from a text stream, and emits names and arguments as the model writes them."""

import io
import json
import re
import secrets
import string
from collections.abc import Collection, Iterator
from typing import Any

from langchain_core.messages.tool import ToolCallChunk, tool_call_chunk

# The usual form of a call, up to the opening brace of its arguments. After it, arguments are streamed.
_CALL_START = re.compile(r'\{\s*"name"\s*:\s*("(?:[^"\\]|\\.)*")\s*,\s*"(?:arguments|parameters)"\s*:\s*\{')
_BARE_NAME = re.compile(
    r"(?<![^\s\[\]{},;\"'])([^\s\[\]{},;\"'`]+)\s*(?:\[CALL_ID\]\S{1,64}\s*)?(?:\[ARGS\]\s*)?(?P<null>null\s*)?$"
)
_BARE_NAME_LENGTH = 512  # characters before an object in which its name is searched
_ID_ALPHABET = string.ascii_letters + string.digits
# Makes arguments invalid JSON. LangChain completes partial JSON, so an agent would run an incomplete call; but it does
# not repair an unmatched closing bracket.
_BAD_SUFFIX = "]"
_ID_LENGTH = 9  # Mistral's templates accept only ids of nine letters and digits


def new_id() -> str:
    """Return a random id for a tool call."""
    return "".join(secrets.choice(_ID_ALPHABET) for _ in range(_ID_LENGTH))


def whole_call(call: Any, raw: str, index: int, names: Collection[str]) -> ToolCallChunk:
    """Return a complete call as one chunk.

    Args:
        call: A parsed call: `{"name": ..., "arguments": ...}`, or one in OpenAI's format. Without arguments, or with
            `null`, they are an empty object.
        raw: The text of the call, which an invalid call reports if `call` is not a call.
        index: Index of the call in the answer.
        names: Names of the bound tools; empty if any name is valid. A call of another tool is an invalid call, as is
            one whose arguments are not a JSON object.
    """
    function = call if isinstance(call, dict) else {}
    function = function["function"] if isinstance(function.get("function"), dict) else function
    name, arguments = function.get("name"), function.get("arguments", function.get("parameters"))
    if not isinstance(name, str):
        return invalid_call(raw, index)
    args = (
        arguments
        if isinstance(arguments, str)
        else json.dumps({} if arguments is None else arguments, ensure_ascii=False)
    )
    is_valid = is_bound(name, names) and _is_object(args)
    return tool_call_chunk(name=name, args=args if is_valid else args + _BAD_SUFFIX, id=new_id(), index=index)


def is_bound(name: str, names: Collection[str]) -> bool:
    """Return whether a tool of this name may be called; if `names` is empty, any may."""
    return not names or name in names


def invalid_call(text: str, index: int) -> ToolCallChunk:
    """Return a chunk that LangChain reports as an `invalid_tool_call` with the text as its arguments."""
    args = json.dumps(text, ensure_ascii=False) + _BAD_SUFFIX
    return tool_call_chunk(name="", args=args, id=new_id(), index=index)


class ToolCallStream:
    """Parses a region of an answer that holds tool calls: JSON objects, or tool names followed by JSON objects.

    Args:
        index: Index of the first call of the region in the answer.
        names: Names of the bound tools; a call of another one is an invalid call. Only these are tool names if they
            precede an object. If empty, any tool may be called.
    """

    def __init__(self, index: int, names: Collection[str] = ()) -> None:
        self._index = index
        self._names = names
        self._outside = io.StringIO()  # text after the last call
        self._has_any = False
        self._restart()

    def _restart(self) -> None:
        self._nesting = _JsonNesting()
        self._text = io.StringIO()  # the current object so far
        self._args: io.StringIO | None = None  # the current call's arguments so far, once its name is known
        self._num_sent = 0  # number of characters of the arguments that have been emitted
        self._args_depth = 0  # nesting depth of the arguments
        self._is_bound = True
        self._may_start = True  # whether the object may still turn out to be a call in the usual form

    @property
    def rest(self) -> str:
        """Text after the last call."""
        return self._outside.getvalue().strip(" \n\t,;]`") if self._has_any else ""

    def push(self, text: str) -> Iterator[ToolCallChunk]:
        """Parse more text; yield the new chunks."""
        for character in text:
            yield from self._step(character)
        yield from self._flush()

    def close(self) -> Iterator[ToolCallChunk]:
        """End the region; yield the rest. An incomplete call becomes an invalid call."""
        if self._nesting.depth == 0:
            if not self._has_any:
                yield from self._close_text(self._outside.getvalue())
            return
        if self._args is None:
            yield invalid_call(self._text.getvalue(), self._index)
        elif self._nesting.depth > self._args_depth:
            self._args.write(self._nesting.invalid_suffix)
            yield from self._flush()
        self._next()

    def _close_text(self, text: str) -> Iterator[ToolCallChunk]:
        """End a region without an object: it may hold a name with `null` as arguments."""
        name = _BARE_NAME.search(text[-_BARE_NAME_LENGTH:])
        if name and name["null"] and name[1] in self._names:
            yield whole_call({"name": name[1]}, text, self._index, self._names)
        elif text.strip():
            yield invalid_call(text, self._index)

    def _step(self, character: str) -> Iterator[ToolCallChunk]:
        depth_before = self._nesting.depth
        self._nesting.push(character)
        if depth_before == 0 == self._nesting.depth:
            self._outside.write(character)
            return
        self._text.write(character)
        if depth_before == 0:
            yield from self._begin()
            return
        if self._args is not None and depth_before > self._args_depth:
            self._args.write(character)
        elif depth_before == 1 and self._nesting.depth > 1 and self._may_start:
            self._may_start = False  # the arguments are the first object within a call in the usual form
            if start := _CALL_START.fullmatch(self._text.getvalue()):
                yield self._start(_name(start[1]), depth=1)
        if self._nesting.depth == 0:
            yield from self._end()

    def _begin(self) -> Iterator[ToolCallChunk]:
        """Start an object. If a tool name precedes it, the object holds the arguments of that tool."""
        name = _BARE_NAME.search(self._outside.getvalue()[-_BARE_NAME_LENGTH:])
        self._outside, self._has_any = io.StringIO(), True
        if name and not name["null"] and name[1] in self._names:
            yield self._start(name[1], depth=0)

    def _start(self, name: str, *, depth: int) -> ToolCallChunk:
        self._args, self._args_depth, self._may_start = io.StringIO(), depth, False
        self._args.write("{")
        self._is_bound = is_bound(name, self._names)
        return tool_call_chunk(name=name, args="", id=new_id(), index=self._index)

    def _end(self) -> Iterator[ToolCallChunk]:
        """Complete an object."""
        if self._args is None:
            yield self._parse_complete()
        else:
            if not self._is_bound or not _is_object(self._args.getvalue()):
                self._args.write(_BAD_SUFFIX)
            yield from self._flush()
        self._next()

    def _flush(self) -> Iterator[ToolCallChunk]:
        if self._args is not None and self._num_sent < self._args.tell():
            self._args.seek(self._num_sent)
            new = self._args.read()
            self._num_sent += len(new)
            yield tool_call_chunk(args=new, index=self._index)

    def _next(self) -> None:
        self._index += 1
        self._restart()

    def _parse_complete(self) -> ToolCallChunk:
        """Return the chunk of a complete object whose keys are in another order, or which is not a call."""
        text = self._text.getvalue()
        try:
            call = json.loads(text)
        except (ValueError, RecursionError):
            return invalid_call(text, self._index)
        return whole_call(call, text, self._index, self._names)


class _JsonNesting:
    """Tracks how deeply brackets and braces are nested in a JSON object."""

    def __init__(self) -> None:
        self._closers: list[str] = []
        self._is_in_string = self._is_escaped = False

    @property
    def depth(self) -> int:
        return len(self._closers)

    @property
    def invalid_suffix(self) -> str:
        """A suffix that makes the text so far invalid JSON, however it continues."""
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
    """Decode a quoted name. If it is not valid JSON, remove only its quotes."""
    try:
        return str(json.loads(literal))
    except ValueError:
        return literal[1:-1]
