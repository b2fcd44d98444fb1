"""Answers read from their text, in whatever pieces it comes."""

from collections.abc import Iterable
from itertools import pairwise
from typing import Any, NamedTuple

from langchain_core.messages import AIMessageChunk

from langchain_amulet.answers.parser import AnswerParser, AnswerSyntax, knows_reasoning, response_template
from langchain_amulet.prompts.renderer import PromptRenderer
from tests.fakes.tool_templates import FAMILIES, tool_tokenizer

TOOLS = [
    {
        "type": "function",
        "function": {
            "name": name,
            "description": "",
            "parameters": {
                "type": "object",
                "properties": {
                    "text": {"type": "string"},
                    "number": {"type": "integer"},
                    "inner": {"type": "object"},
                    "items": {"type": "array"},
                },
            },
        },
    }
    for name in ("search", "get_weather")
]
NAMES = [tool["function"]["name"] for tool in TOOLS]


class Read(NamedTuple):
    """What became of an answer."""

    content: str
    reasoning: str
    calls: list[tuple[str, Any]]
    invalid: list[tuple[str | None, str | None]]


def reading(family: str, written: str = "") -> AnswerSyntax:
    """How the answers of this family's models are read."""
    if responses := FAMILIES[family].responses:
        anchor = responses["start_anchor"]
        return AnswerSyntax(responses, (anchor if isinstance(anchor, str) else anchor[0]) + written, TOOLS, shown=None)
    tokenizer = tool_tokenizer(family)
    template = response_template(
        PromptRenderer(tokenizer).tool_format, NAMES, has_reasoning=bool(written) or knows_reasoning(tokenizer)
    )
    return AnswerSyntax(template, written, TOOLS)


def read(pieces: Iterable[str], how: AnswerSyntax) -> Read:
    """Feed an answer's pieces, and join the chunks that they become as LangChain does."""
    parser = AnswerParser(how)
    deltas = [*map(parser.push, pieces), parser.finish()]
    chunks = [
        AIMessageChunk(
            content=delta.content,
            additional_kwargs={"reasoning_content": delta.reasoning} if delta.reasoning else {},
            tool_call_chunks=delta.tool_calls,
            chunk_position="last" if number == len(deltas) else None,
        )
        for number, delta in enumerate(deltas, start=1)
    ]
    message = sum(chunks[1:], start=chunks[0])
    assert parser.has_tool_calls == bool(message.tool_calls or message.invalid_tool_calls)
    assert all(call["id"] for call in message.tool_calls), "agents answer calls by their ids"
    return Read(
        message.text,
        message.additional_kwargs.get("reasoning_content", ""),
        [(call["name"], call["args"]) for call in message.tool_calls],
        [(call["name"], call["args"]) for call in message.invalid_tool_calls],
    )


def cut(text: str, borders: Iterable[int]) -> list[str]:
    """The text in pieces that end at these places."""
    places = [0, *sorted({border for border in borders if 0 < border < len(text)}), len(text)]
    return [text[start:end] for start, end in pairwise(places)]
