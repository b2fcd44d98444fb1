"""How families of models write tool calls."""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

TOOL_PROMPT = """\
You may call functions to assist with the user query.

You are provided with function signatures within <tools></tools> XML tags:
<tools>
{tools}
</tools>

If a function fits the query, answer with a call and nothing else, as is done here with other functions. \
If none fits, answer in words.

User: Who are you?
Assistant: I am a helpful assistant.

User: What is 2 + 5?
Assistant: <tool_call>
{{"name": "add", "arguments": {{"a": 2, "b": 5}}}}
</tool_call>

User: Play some jazz.
Assistant: <tool_call>
{{"name": "play_music", "arguments": {{"genre": "jazz"}}}}
</tool_call>"""
"""For models whose chat template knows no tools, in the words that many were trained on. `tools`: one JSON object per
line. Small models call a tool of their own accord only where they have seen it done."""

_ANY_NAME = r"[^\"\\]+"


@dataclass(frozen=True, slots=True)
class ToolFormat:
    """The syntax of tool calls.

    opening prefix call (separator call)* suffix,   call = before NAME between ARGUMENTS after
    """

    opening: str
    """Begins the calls; empty if they begin as an answer does."""
    before: str
    between: str
    after: str
    separator: str
    prefix: str = ""
    suffix: str = ""
    closing: str = ""
    """Ends a part of the answer that holds calls; empty if only the end of the answer does."""
    is_native: bool = True
    """Whether the model's own chat template writes tools and calls, so that it has learned them so."""
    is_known: bool = True
    """Whether calls that the model makes of its own accord are in this format too."""

    @property
    def is_leading(self) -> bool:
        """Whether calls stand only at the beginning of an answer, and are all of it."""
        return not self.opening

    @property
    def marker(self) -> str:
        """What tells in a stream of text that calls begin."""
        return self.opening or self.before

    @property
    def continuation(self) -> str:
        """What follows the marker, up to the name of the first tool."""
        return self.prefix + self.before if self.opening else ""

    def write(self, name: str, arguments: Any) -> str:
        """One call, as it stands in an answer."""
        call = f"{self.before}{name}{self.between}{json.dumps(arguments, ensure_ascii=False)}{self.after}"
        return f"{self.opening}{self.prefix}{call}{self.suffix}"

    def opening_pattern(self, names: Sequence[str]) -> str:
        """A regular expression of where a part of the answer that holds calls begins; names of the tools bound."""
        leading = rf"\A\s*(?:<\|python_tag\|>|```(?:json)?)?\s*(?={_call_start(names)})"
        return rf"\s*{re.escape(self.opening)}|{leading}" if self.opening else leading


def _call_start(names: Sequence[str]) -> str:
    any_name = "|".join(map(re.escape, names)) or _ANY_NAME
    return rf'\{{\s*"name"\s*:\s*"(?:{any_name})"\s*,\s*"(?:arguments|parameters)"\s*:'


HERMES = ToolFormat(
    opening="<tool_call>",
    before='\n{"name": "',
    between='", "arguments": ',
    after="}\n</tool_call>",
    separator="\n<tool_call>",
    closing="</tool_call>",
)
"""Hermes, Qwen 2.5 and 3, and many others."""

GENERIC = replace(HERMES, is_native=False)
"""Any other model, told by `TOOL_PROMPT`."""

OTHER = replace(HERMES, is_known=False)
"""Models that write tools in a way of their own, which their tokenizer can read. Calls that are forced, and so follow a
grammar, are of the generic form."""

LLAMA3 = ToolFormat(opening="", before='{"name": "', between='", "parameters": ', after="}", separator="; ")
"""Llama 3.1 to 3.3."""

MISTRAL = ToolFormat(
    opening="[TOOL_CALLS]",
    prefix=" [",
    before='{"name": "',
    between='", "arguments": ',
    after="}",
    separator=", ",
    suffix="]",
)
"""Mistral 7B v0.3, Nemo and their contemporaries."""

MISTRAL_V11 = ToolFormat(opening="[TOOL_CALLS]", before="", between="[ARGS]", after="", separator="[TOOL_CALLS]")
"""Mistral's models since mid-2025."""


def detect(call: str, name: str) -> ToolFormat | None:
    """Tell from one call, as a chat template has written it, which format it is.

    Args:
        call: A conversation that ends in the call of one tool.
        name: The tool's name.

    Returns:
        `None` for formats that are not known here.
    """
    if not re.search(rf"\b{re.escape(name)}\b", call):
        return None
    for family in (HERMES, MISTRAL_V11, MISTRAL, LLAMA3):
        if re.search(_pattern(family, name), call):
            return family
    return None


def _pattern(family: ToolFormat, name: str) -> str:
    """One call in this format, whatever its blanks."""
    parts = [*re.split(r"\s+", family.opening + family.prefix + family.before), name]
    call_id = [r"(?:\[CALL_ID\]\S+?)?"] if family is MISTRAL_V11 else []
    after = [re.escape(part) for part in re.split(r"\s+", family.between)]
    return r"\s*".join([*(re.escape(part) for part in parts if part), *call_id, *after])
