"""Parses the text stream of an answer into content, reasoning and tool calls."""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from langchain_core.messages.tool import ToolCallChunk
from transformers import PreTrainedTokenizerFast
from transformers.utils.chat_parsing import ResponseParser

from langchain_amulet.answers.tool_call_stream import ToolCallStream, invalid_call, is_bound, whole_call
from langchain_amulet.structured.tool_formats import ToolFormat

REASONING_TAGS = ("<think>", "</think>")
PARSED_TOKENS = frozenset(
    {*REASONING_TAGS, "<tool_call>", "</tool_call>", "[TOOL_CALLS]", "[ARGS]", "[CALL_ID]", "<|python_tag|>"}
)
"""Special tokens that separate the parts of an answer."""
_END = "\0"  # fed after the answer; does not appear in a model's output
_REASONING_FIELDS = ("reasoning_content", "thinking", "reasoning")


def response_template(
    tool_format: ToolFormat | None, tool_names: Sequence[str] = (), *, has_reasoning: bool = True
) -> dict[str, Any]:
    """Return a template for transformers' response parser that leaves tool calls as text.

    Args:
        tool_format: The model's format of tool calls; `None` if the answer cannot contain any.
        tool_names: Names of the bound tools.
        has_reasoning: Whether the model writes reasoning between `REASONING_TAGS`.
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
    """How to find reasoning and tool calls in the text of an answer."""

    template: Mapping[str, Any]
    """A response template of transformers: the tokenizer's own, or the result of `response_template`."""
    prefix: str = ""
    """Text at the end of the prompt that belongs to the answer, such as an open `<think>`."""
    tools: Sequence[dict[str, Any]] = ()
    """The bound tools in OpenAI's format; their schemas give the types of arguments written without quotes."""
    shown: Collection[str] | None = PARSED_TOKENS
    """Special tokens that the decoded text must contain for the parser; `None` means all."""


@dataclass(slots=True)
class Delta:
    """What one piece of text adds to the parts of an answer."""

    content: str = ""
    reasoning: str = ""
    tool_calls: list[ToolCallChunk] = field(default_factory=list)

    def __bool__(self) -> bool:
        """Return whether any part is not empty."""
        return bool(self.content or self.reasoning or self.tool_calls)


class AnswerParser:
    """Splits a streamed answer into content, reasoning and tool calls; the result does not depend on chunk boundaries.

    Transformers' response parser finds the parts. Names and arguments of tool calls are emitted as the model writes
    them. A call that is incomplete or not valid JSON, or that calls a tool that is not bound, is emitted such that
    LangChain reports it as an `invalid_tool_call`.

    Args:
        syntax: How to find the parts.
    """

    def __init__(self, syntax: AnswerSyntax) -> None:
        self._new_parser = partial(ResponseParser, dict(syntax.template), prefix="", tools=list(syntax.tools))
        self._parser = self._new_parser(prefix=syntax.prefix)
        calls = syntax.template["fields"].get("tool_calls", {})
        self._calls_are_text = calls.get("content") == "text"
        self._has_closing_mark = bool({"close", "close_pattern"} & calls.keys())
        self._names = {tool["function"]["name"] for tool in syntax.tools}
        self._calls: ToolCallStream | None = None
        self._num_calls = 0
        self.errors: dict[str, str] = {}
        """By id of an invalid call, what is wrong with it, if it calls a tool that is not bound."""
        self._raw = ""  # text of the current region of calls, if the template parses the calls
        self._is_in_call = False  # whether the text is within a region of calls
        self._started_fields: set[str] = set()

    @property
    def has_tool_calls(self) -> bool:
        """Whether the answer contains a tool call, possibly incomplete."""
        return self._num_calls > 0

    def push(self, text: str) -> Delta:
        """Parse more text; return what it adds to the answer."""
        delta = Delta()
        self._push(text, delta)
        return delta

    def finish(self, text: str = "") -> Delta:
        """Parse the last text and end the answer; return what they add to it."""
        delta = Delta()
        self._push(text, delta)
        if not self._calls_are_text and self._has_closing_mark and self._is_cut_short(delta):
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
        # A template that parses calls may fail and lose the events of a whole piece, so it gets single characters.
        for piece in [text] if self._calls_are_text else text:
            try:
                events = self._parser.feed(piece)
            except ValueError:  # the template cannot parse the model's text
                self._add(delta, [invalid_call(self._raw, self._num_calls)])
                self._is_in_call, self._raw = False, ""
                self._parser, events = self._new_parser(), []  # the old parser cannot continue after an error
            self._read(events, delta)

    def _is_cut_short(self, delta: Delta) -> bool:
        """Return whether the answer ends within a call, which the template would accept as complete."""
        self._push(_END, delta)  # the parser recognises a closing mark only if more text follows
        delta.content, delta.reasoning = delta.content.rstrip(_END), delta.reasoning.rstrip(_END)
        self._raw = self._raw.rstrip(_END)
        return self._is_in_call

    def _read(self, events: Sequence[Mapping[str, Any]], delta: Delta) -> None:
        for event in events:
            if event["field"] == "tool_calls":
                self._add(delta, self._tool_call_chunks(event))
                if event["type"] == "region_close" and self._calls_are_text and self._calls is not None:
                    delta.content += self._calls.rest
            elif event["type"] == "region_chunk" and event["field"] == "content":
                delta.content += self._stripped(event)
            elif event["type"] == "region_chunk" and event["field"] in _REASONING_FIELDS:
                delta.reasoning += self._stripped(event)

    def _stripped(self, event: Mapping[str, Any]) -> str:
        """Return the text of an event, without whitespace at the start of a field."""
        text: str = event["text"] if event["field"] in self._started_fields else event["text"].lstrip()
        if text:
            self._started_fields.add(event["field"])
        return text

    def _tool_call_chunks(self, event: Mapping[str, Any]) -> Iterator[ToolCallChunk]:
        kind = event["type"]
        self._is_in_call = kind != "region_close"
        if kind == "region_open":
            self._raw, self._calls = "", ToolCallStream(self._num_calls, self._names)
        elif not self._calls_are_text:
            self._raw += event.get("text", "")
            if kind == "region_close":
                value = event["value"]
                for number, call in enumerate(value if isinstance(value, list) else [value], start=self._num_calls):
                    yield whole_call(call, self._raw, number, self._names)
        elif self._calls is not None:
            yield from self._calls.push(event["text"]) if kind == "region_chunk" else self._calls.close()

    def _add(self, delta: Delta, chunks: Iterable[ToolCallChunk]) -> None:
        for chunk in chunks:
            if chunk["name"] and chunk["id"] and not is_bound(chunk["name"], self._names):
                self.errors[chunk["id"]] = (
                    f"The model called {chunk['name']!r}, which is not bound. Bound tools: {sorted(self._names)}."
                )
            last = delta.tool_calls[-1] if delta.tool_calls else None
            if last is not None and last["index"] == chunk["index"]:  # LangChain merges chunks across messages only
                last["args"] = (last["args"] or "") + (chunk["args"] or "")
            else:
                delta.tool_calls.append(chunk)
            self._num_calls = max(self._num_calls, (chunk["index"] if isinstance(chunk["index"], int) else 0) + 1)


def knows_reasoning(tokenizer: PreTrainedTokenizerFast) -> bool:
    """Return whether the model writes reasoning between `REASONING_TAGS`."""
    opening, _ = REASONING_TAGS
    return opening in str(tokenizer.chat_template) or opening in tokenizer.added_tokens_encoder


def opened_reasoning(prompt: str) -> str:
    """Return the opening tag of the reasoning if the prompt ends with it, else an empty string."""
    opening, _ = REASONING_TAGS
    before, tag, after = prompt.rpartition(opening)
    return opening if tag and not after.strip() and before else ""
