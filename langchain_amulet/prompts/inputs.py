"""What a caller gives to be rendered, and which of its texts must not write control tokens into the prompt."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

from langchain_amulet.exceptions import MessageError
from langchain_amulet.prompts.control_tokens import ControlTokens
from langchain_amulet.prompts.conversation import Turn

_ROLES = ("system", "user", "assistant", "tool")
_CALL = ("name", "arguments")
_DESCRIPTION = ("name", "description")
_OWN_ROLES = ("system", "assistant")  # written by the application and the model


class Inputs(NamedTuple):
    """Everything of a prompt except preferences and what the chat template itself writes."""

    turns: list[Turn]
    tools: list[dict[str, Any]]
    """In OpenAI's format."""
    instructions: str
    """Text to add to the system message; may be empty."""
    documents: Any = None
    """The chat template's argument of this name."""

    def broken(self, tokens: ControlTokens, mark: str) -> "Inputs":
        """Return a copy with a break in each control token; in system and AI texts, only in those that mark turns.

        Raises:
            MessageError: The nesting is too deep for Python's stack.
        """
        broken = partial(tokens.broken, mark=mark)
        copy = Inputs(*map_texts(self, broken))
        for turn, original in zip(copy.turns, self.turns, strict=True):
            if original["role"] in _ROLES:
                turn["role"] = original["role"]
            if original["role"] in _OWN_ROLES:
                turn["content"] = broken(original["content"], is_own=True)
        return copy

    def edged(self, tokens: ControlTokens, mark: str) -> "Inputs":
        """Return a copy with breaks around texts that the template might complete to a control token.

        Texts on which templates base decisions, such as roles and the types of parameters, stay as they are.
        """
        edged = partial(tokens.edged, mark=mark)
        turns = [_with_calls(_changed(turn, ("content", "name"), edged), edged) for turn in self.turns]
        tools = [{**tool, "function": _changed(tool["function"], _DESCRIPTION, edged)} for tool in self.tools]
        return Inputs(turns, tools, edged(self.instructions), self.documents)


def _with_calls(turn: Turn, change: Callable[[str], str]) -> Turn:
    if "tool_calls" not in turn:
        return turn
    calls = [{**call, "function": _changed(call["function"], _CALL, change)} for call in turn["tool_calls"]]
    return {**turn, "tool_calls": calls}


def _changed(values: dict[str, Any], keys: tuple[str, ...], change: Callable[[str], str]) -> dict[str, Any]:
    return values | {key: map_texts(values[key], change) for key in keys if key in values}


def texts_of(value: Any) -> Iterator[str]:
    """Iterate over all strings in nested dicts and lists, keys included."""
    todo = [value]
    while todo:
        item = todo.pop()
        if isinstance(item, str):
            yield item
        elif isinstance(item, dict):
            todo += [*item, *item.values()]
        elif isinstance(item, list | tuple):
            todo += item


def map_texts(value: Any, change: Callable[[str], str]) -> Any:
    """Return a copy of nested dicts and lists in which all strings are changed, keys included.

    Raises:
        MessageError: The nesting is too deep for Python's stack.
    """
    try:
        return _map_texts(value, change)
    except RecursionError:
        pass
    msg = "Messages or tools are nested too deeply to be rendered. Pass arguments and schemas with fewer levels."
    raise MessageError(msg)


def _map_texts(value: Any, change: Callable[[str], str]) -> Any:
    if isinstance(value, str):
        return change(value)
    if isinstance(value, dict):
        return {_map_texts(key, change): _map_texts(item, change) for key, item in value.items()}
    return [_map_texts(item, change) for item in value] if isinstance(value, list | tuple) else value
