"""Converts LangChain messages to the turns of chat templates."""

import hashlib
import re
from collections import Counter, deque
from collections.abc import Sequence
from itertools import groupby
from typing import Any, TypeAlias

from langchain_core.messages import (
    AIMessage,
    BaseMessage,
    HumanMessage,
    SystemMessage,
    ToolMessage,
    merge_message_runs,
)

from langchain_amulet.exceptions import MessageError
from langchain_amulet.structured.tool_formats import ToolFormat

Turn: TypeAlias = dict[str, Any]
"""A message as chat templates expect it: `role`, `content`, and optionally `tool_calls` or `tool_call_id`."""

_ROLES = ((HumanMessage, "user"), (AIMessage, "assistant"), (SystemMessage, "system"), (ToolMessage, "tool"))
_CALL_BLOCKS = {
    "tool_use",
    "tool_call",
    "tool_call_chunk",
    "invalid_tool_call",
    "server_tool_call",
    "server_tool_result",
}
_HIDDEN_BLOCKS = {*_CALL_BLOCKS, "reasoning", "thinking", "non_standard"}
_MISTRAL_ID = re.compile(r"[a-zA-Z0-9]{9}")


def to_conversation(messages: Sequence[BaseMessage]) -> list[Turn]:
    """Convert messages to turns; consecutive messages of the same role become one turn.

    Raises:
        MessageError: There are no messages, or one contains something other than text.
    """
    if not messages:
        msg = "There are no messages to answer. Pass at least one HumanMessage."
        raise MessageError(msg)
    return [_to_turn(message) for message in merge_message_runs(messages)]


def check_messages(messages: Sequence[BaseMessage]) -> None:
    """Check that all messages can be read, before LangChain's own code reads them.

    Raises:
        MessageError: `messages` is not a list of messages, or one contains something other than text.
    """
    if not isinstance(messages, list | tuple):
        msg = f"Messages must be a list, got {type(messages).__name__}. Write [HumanMessage(...)]."
        raise MessageError(msg)
    for message in messages:
        if not isinstance(message, BaseMessage):
            msg = f"A message must be a LangChain message such as HumanMessage(...), got {type(message).__name__}."
            raise MessageError(msg)
        _text_of(message)


def _to_turn(message: BaseMessage) -> Turn:
    # A ChatMessage has the role as an attribute.
    role = next((role for kind, role in _ROLES if isinstance(message, kind)), getattr(message, "role", None))
    if role is None:
        msg = (
            f"A {type(message).__name__} has no role in a chat template. Use system, human, AI, tool or chat messages."
        )
        raise MessageError(msg)
    turn: Turn = {"role": role, "content": _text_of(message)}
    if isinstance(message, AIMessage) and message.tool_calls:
        turn["tool_calls"] = [
            {
                "type": "function",
                "id": _short_id(call["id"] or ""),
                "function": {"name": call["name"], "arguments": call["args"]},
            }
            for call in message.tool_calls
        ]
    if isinstance(message, ToolMessage):
        if message.status == "error":
            turn = append({**turn, "content": "Error:"}, turn["content"], separator=" ")
        turn |= {"tool_call_id": _short_id(message.tool_call_id), "name": message.name or ""}
    return turn


def _short_id(call_id: str) -> str:
    """Return an id of nine letters and digits, as Mistral's templates require; most other templates ignore ids."""
    return call_id if _MISTRAL_ID.fullmatch(call_id) else hashlib.sha256(call_id.encode()).hexdigest()[:9]


def _text_of(message: BaseMessage) -> str:
    if isinstance(message.content, str):
        return message.content
    if not isinstance(message.content, list):
        msg = f"The content of a message must be a string or a list of parts, got {type(message.content).__name__}."
        raise MessageError(msg)
    return "".join(map(_text_of_block, message.content))


def _text_of_block(block: str | dict[str, Any]) -> str:
    if isinstance(block, str):
        return block
    kind = block.get("type") if isinstance(block, dict) else type(block).__name__
    if kind == "text":
        text = block.get("text")
        if not isinstance(text, str):
            msg = f'A part of type "text" must have a string as its "text", got {type(text).__name__}.'
            raise MessageError(msg)
        return text
    if isinstance(kind, str) and kind in _HIDDEN_BLOCKS:  # in `tool_calls`, or not shown to the model again
        return ""
    msg = f"This model reads text only; a message has a block of type {kind!r}. Remove it, or describe it in words."
    raise MessageError(msg)


def append(turn: Turn, text: str, *, separator: str = "\n\n") -> Turn:
    """Return a copy of the turn with a text appended; an empty text or content needs no separator."""
    return {**turn, "content": separator.join(filter(None, (turn["content"], text)))}


def fold_system_into_user(conversation: list[Turn]) -> list[Turn]:
    """Move the system text to the start of the first user turn, for templates without a system role."""
    if conversation[0]["role"] != "system":
        return conversation
    system, *rest = conversation
    if not rest or rest[0]["role"] != "user":
        return [{"role": "user", "content": system["content"]}, *rest]
    return [append(system | {"role": "user"}, rest[0]["content"]), *rest[1:]]


def one_call_per_turn(conversation: list[Turn]) -> list[Turn]:
    """Split a turn with several calls into one turn per call, followed by its result.

    Some templates accept only one call per turn. Results belong to the last turn with calls before them, since ids may
    occur again in later turns.
    """
    split: list[Turn] = []
    answered: list[Turn] = []  # a turn with several calls, and what follows it
    for turn in conversation:
        if turn.get("tool_calls"):
            split += _one_call_per_turn(answered)
            answered = []
        answered.append(turn)
    return [*split, *_one_call_per_turn(answered)]


def _one_call_per_turn(turns: list[Turn]) -> list[Turn]:
    """Split the first turn, if it has several calls, and move the results behind their calls."""
    calls = turns[0].get("tool_calls", ()) if turns else ()
    if len(calls) < 2:  # noqa: PLR2004 - several
        return turns
    first, *rest = turns
    results: dict[str, deque[Turn]] = {call["id"]: deque() for call in calls}
    others: list[Turn] = []
    for turn in rest:
        (results.get(turn["tool_call_id"], others) if turn["role"] == "tool" else others).append(turn)
    num_left = Counter(call["id"] for call in calls)
    split: list[Turn] = []
    for number, call in enumerate(calls):
        own = results[call["id"]]
        num_left[call["id"]] -= 1
        # Calls with the same id take one result each, in order; the last one takes all that are left.
        taken = [own.popleft() for _ in range(min(1, len(own)) if num_left[call["id"]] else len(own))]
        split += [{**first, "content": "" if number else first["content"], "tool_calls": [call]}, *taken]
    return [*split, *others]


def without_tools(conversation: list[Turn], tool_format: ToolFormat) -> list[Turn]:
    """Write calls as assistant text and results as user turns, for templates without tool support."""
    turns = [_without_tools(turn, tool_format) for turn in conversation]
    merged = []
    for role, consecutive in groupby(turns, key=lambda turn: turn["role"]):
        group = list(consecutive)
        merged.append(
            {"role": role, "content": "\n\n".join(turn["content"] for turn in group)} if group[1:] else group[0]
        )
    return merged


def _without_tools(turn: Turn, tool_format: ToolFormat) -> Turn:
    if turn["role"] == "tool":
        return {"role": "user", "content": f"<tool_response>\n{turn['content']}\n</tool_response>"}
    calls = [tool_format.write(**call["function"]) for call in turn.get("tool_calls", ())]
    return append({"role": turn["role"], "content": turn["content"]}, "\n".join(calls), separator="\n")
