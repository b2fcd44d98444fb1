"""From a stream of text to content, reasoning and tool calls, as they come."""

import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from langchain_core.messages.tool import ToolCallChunk
from transformers import PreTrainedTokenizerFast
from transformers.utils.chat_parsing import ResponseParser

from langchain_amulet.answers.tool_call_stream import CallStream, invalid_call, whole_call
from langchain_amulet.structured.tool_formats import ToolFormat

REASONING_TAGS = ("<think>", "</think>")
MARKS = frozenset(
    {*REASONING_TAGS, "<tool_call>", "</tool_call>", "[TOOL_CALLS]", "[ARGS]", "[CALL_ID]", "<|python_tag|>"}
)
_END = "\0"  # no model writes it
_REASONING_FIELDS = ("reasoning_content", "thinking", "reasoning")


def response_template(
    tool_format: ToolFormat | None, tool_names: Sequence[str] = (), *, has_reasoning: bool = True
) -> dict[str, Any]:
    """A template for transformers' response parser that leaves calls as text.

    Args:
        tool_format: How tool calls are written; `None` if there are none to look for.
        tool_names: Names of the tools bound.
        has_reasoning: Whether the model marks what it thinks, so that the marks are no part of its words.
    """
    fields: dict[str, Any] = {"content": {"content": "text"}}
    if has_reasoning:
        opening, closing = REASONING_TAGS
        fields["reasoning_content"] = {"open": opening, "close": closing, "content": "text"}
    if tool_format is not None:
        calls = {"open_pattern": tool_format.opening_pattern(tool_names), "repeats": True, "content": "text"}
        fields["tool_calls"] = {**calls, "close": tool_format.closing} if tool_format.closing else calls
    return {"start_anchor_pattern": r"\A", "fields": fields}


@dataclass(frozen=True, slots=True)
class AnswerSyntax:
    """How the parts of an answer are told apart."""

    template: Mapping[str, Any]
    """A response template of transformers: the tokenizer's own, or of `response_template`."""
    written: str = ""
    """How the prompt has begun the answer, such as an opened `<think>`."""
    tools: Sequence[dict[str, Any]] = ()
    """The tools bound, as OpenAI writes them, which say what types a foreign format's arguments have."""
    shown: Collection[str] | None = MARKS
    """Control tokens that tell the parts apart; `None` is all."""


@dataclass(slots=True)
class Delta:
    """What has become certain of an answer."""

    content: str = ""
    reasoning: str = ""
    tool_calls: list[ToolCallChunk] = field(default_factory=list)

    def __bool__(self) -> bool:
        """Whether there is anything."""
        return bool(self.content or self.reasoning or self.tool_calls)


class AnswerParser:
    """Tells an answer's parts from each other while it streams, whatever pieces its text comes in.

    The parts are found by transformers' own response parser. Within one that holds tool calls, names and arguments are
    passed on as they come; a call that ends too early, or is no JSON, comes out so that LangChain makes it an
    `invalid_tool_call`.

    """

    def __init__(self, reading: AnswerSyntax) -> None:
        self._new_parser = partial(ResponseParser, dict(reading.template), prefix="", tools=list(reading.tools))
        self._parser = self._new_parser(prefix=reading.written)
        calls = reading.template["fields"].get("tool_calls", {})
        self._leaves_calls = calls.get("content") == "text"
        self._has_end_mark = bool({"close", "close_pattern"} & calls.keys())
        self._names = {tool["function"]["name"] for tool in reading.tools}
        self._calls: CallStream | None = None
        self._num_calls = 0
        self._raw = ""  # of a part whose calls the template reads itself
        self._is_in_call = False  # of these
        self._begun: set[str] = set()

    @property
    def has_tool_calls(self) -> bool:
        """Whether a tool call has begun."""
        return self._num_calls > 0

    def push(self, text: str) -> Delta:
        """Take some text."""
        delta = Delta()
        self._push(text, delta)
        return delta

    def finish(self, text: str = "") -> Delta:
        """Take the last text, and the end of the answer."""
        delta = Delta()
        self._push(text, delta)
        if not self._leaves_calls and self._has_end_mark and self._is_cut_short(delta):
            self._add(delta, [invalid_call(self._raw, self._num_calls)])
            return delta
        try:
            _, events = self._parser.finalize()
        except ValueError:
            self._add(delta, [invalid_call(self._raw, self._num_calls)])
        else:
            self._read(events, delta)
        return delta

    def _push(self, text: str, delta: Delta) -> None:
        # One character at a time where errors can come, because the events before them are lost with them.
        for piece in [text] if self._leaves_calls else text:
            try:
                events = self._parser.feed(piece)
            except ValueError:  # the template cannot read what the model has written
                self._add(delta, [invalid_call(self._raw, self._num_calls)])
                self._is_in_call, self._raw = False, ""
                self._parser, events = self._new_parser(), []  # the old one stays where it has failed
            self._read(events, delta)

    def _is_cut_short(self, delta: Delta) -> bool:
        """Whether the answer ends within a call, which the template would take for a whole one."""
        self._push(_END, delta)  # a closing mark at the very end is not taken until something follows it
        delta.content, delta.reasoning = delta.content.rstrip(_END), delta.reasoning.rstrip(_END)
        self._raw = self._raw.rstrip(_END)
        return self._is_in_call

    def _read(self, events: Sequence[Mapping[str, Any]], delta: Delta) -> None:
        for event in events:
            if event["field"] == "tool_calls":
                self._add(delta, self._tool_calls(event))
                if event["type"] == "region_close" and self._leaves_calls and self._calls is not None:
                    delta.content += self._calls.rest
            elif event["type"] == "region_chunk" and event["field"] == "content":
                delta.content += self._stripped(event)
            elif event["type"] == "region_chunk" and event["field"] in _REASONING_FIELDS:
                delta.reasoning += self._stripped(event)

    def _stripped(self, event: Mapping[str, Any]) -> str:
        """Blank lines around tags belong to neither part."""
        text: str = event["text"] if event["field"] in self._begun else event["text"].lstrip()
        if text:
            self._begun.add(event["field"])
        return text

    def _tool_calls(self, event: Mapping[str, Any]) -> Iterator[ToolCallChunk]:
        kind = event["type"]
        self._is_in_call = kind != "region_close"
        if kind == "region_open":
            self._raw, self._calls = "", CallStream(self._num_calls, self._names)
        elif not self._leaves_calls:
            self._raw += event.get("text", "")
            if kind == "region_close":
                yield from _read_calls(event["value"], self._num_calls, self._raw)
        elif self._calls is not None:
            yield from self._calls.push(event["text"]) if kind == "region_chunk" else self._calls.close()

    def _add(self, delta: Delta, chunks: Iterable[ToolCallChunk]) -> None:
        for chunk in chunks:
            last = delta.tool_calls[-1] if delta.tool_calls else None
            if last is not None and last["index"] == chunk["index"]:  # LangChain joins only what comes in two messages
                last["args"] = (last["args"] or "") + (chunk["args"] or "")
            else:
                delta.tool_calls.append(chunk)
            self._num_calls = max(self._num_calls, (chunk["index"] if isinstance(chunk["index"], int) else 0) + 1)


def _read_calls(value: Any, index: int, raw: str) -> Iterator[ToolCallChunk]:
    """Calls as the tokenizer's own template has read them: each a `function` with its name and arguments."""
    for number, call in enumerate(value if isinstance(value, list) else [value], start=index):
        function = call.get("function", call) if isinstance(call, dict) else {}
        if isinstance(function.get("name"), str):
            yield whole_call(function["name"], function.get("arguments") or {}, number)
        else:
            yield invalid_call(raw, number)


def knows_reasoning(tokenizer: PreTrainedTokenizerFast) -> bool:
    """Whether the model marks what it thinks."""
    opening, _ = REASONING_TAGS
    return opening in str(tokenizer.chat_template) or opening in tokenizer.added_tokens_encoder


def opened_reasoning(prompt: str) -> str:
    """What a prompt has begun of the answer: its unclosed `<think>`, if it ends in one."""
    opening, closing = REASONING_TAGS
    before, tag, behind = prompt.rpartition(opening)
    return opening if tag and closing not in behind and re.fullmatch(r"\s*", behind) and before else ""
