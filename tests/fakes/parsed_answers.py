"""Parse the text of answers, in any pieces."""

from collections.abc import Iterable
from itertools import pairwise
from typing import Any, NamedTuple

from langchain_core.messages import AIMessageChunk

from langchain_amulet.answers.parser import AnswerParser, AnswerSyntax, knows_reasoning, response_template
from langchain_amulet.prompts.renderer import PromptRenderer
from tests.fakes.tool_templates import FAMILIES, tool_tokenizer

TOOLS: list[dict[str, Any]] = [
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


class ParsedAnswer(NamedTuple):
    """The parts of a parsed answer."""

    content: str
    reasoning: str
    calls: list[tuple[str, Any]]
    invalid: list[tuple[str | None, str | None]]


def syntax_of(family: str, prefix: str = "") -> AnswerSyntax:
    """The answer syntax of a model family."""
    if responses := FAMILIES[family].responses:
        anchor = responses["start_anchor"]
        return AnswerSyntax(responses, (anchor if isinstance(anchor, str) else anchor[0]) + prefix, TOOLS, shown=None)
    tokenizer = tool_tokenizer(family)
    template = response_template(
        PromptRenderer(tokenizer).tool_format, NAMES, has_reasoning=bool(prefix) or knows_reasoning(tokenizer)
    )
    return AnswerSyntax(template, prefix, TOOLS)


def parse(pieces: Iterable[str], syntax: AnswerSyntax) -> ParsedAnswer:
    """Parse the pieces of an answer, and merge the resulting chunks as LangChain does."""
    parser = AnswerParser(syntax)
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
    assert all(call["id"] for call in message.tool_calls), "agents refer to calls by their ids"
    return ParsedAnswer(
        message.text,
        message.additional_kwargs.get("reasoning_content", ""),
        [(call["name"], call["args"]) for call in message.tool_calls],
        [(call["name"], call["args"]) for call in message.invalid_tool_calls],
    )


def cut(text: str, borders: Iterable[int]) -> list[str]:
    """Split a text at these positions."""
    positions = [0, *sorted({border for border in borders if 0 < border < len(text)}), len(text)]
    return [text[start:end] for start, end in pairwise(positions)]
