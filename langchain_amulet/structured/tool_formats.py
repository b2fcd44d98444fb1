"""The syntaxes in which model families write tool calls, and their detection."""

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
"""Describes tools to models whose chat template does not support them. `tools`: one JSON object per line.

The wording is that of Hermes' and Qwen's templates. The examples are there because small models rarely call a tool
without them.
"""

# Models write few blanks. With unlimited ones, reading a run of n blanks would take up to n³ steps.
_BLANKS = r"\s{0,32}"
_ANY_NAME = r"[^\"\\]{1,128}"


@dataclass(frozen=True, slots=True)
class ToolFormat:
    """The syntax of the tool calls of one family of models.

    calls = opening prefix call (separator call)* suffix

    call = before NAME between ARGUMENTS after
    """

    opening: str
    """Text that begins the calls; empty if they are the whole answer and begin without a marker."""
    before: str
    between: str
    after: str
    separator: str
    prefix: str = ""
    suffix: str = ""
    closing: str = ""
    """Text that ends the calls; empty if the answer ends with them."""
    is_native: bool = True
    """Whether the chat template itself writes tools and calls in this format."""
    is_known: bool = True
    """Whether calls that are not forced also have this format."""

    @property
    def is_leading(self) -> bool:
        """Whether calls can only begin an answer, and nothing follows them."""
        return not self.opening

    @property
    def marker(self) -> str:
        """The text after which an answer that was free text continues with calls."""
        return self.opening or self.before

    @property
    def continuation(self) -> str:
        """The text between the marker and the name of the first tool."""
        return self.prefix + self.before if self.opening else ""

    def write(self, name: str, arguments: Any) -> str:
        """Return one call as the model writes it."""
        written = json.dumps(arguments, ensure_ascii=False)
        call = f"{self.before}{self.spell(name)}{self.between}{written}{self.after}"
        return f"{self.opening}{self.prefix}{call}{self.suffix}"

    def spell(self, name: str) -> str:
        """Return a tool's name as it stands in a call: escaped where it is within quotes."""
        return json.dumps(name, ensure_ascii=False)[1:-1] if self.before.endswith('"') else name

    def opening_pattern(self, names: Sequence[str]) -> str:
        """Return a regular expression that matches the beginning of the calls.

        Args:
            names: The names of the bound tools; empty to match any name.
        """
        leading = rf"\A{_BLANKS}(?:<\|python_tag\|>|```(?:json)?)?{_BLANKS}(?={_call_start(names)})"
        return rf"{_BLANKS}{re.escape(self.opening)}|{leading}" if self.opening else leading


def _call_start(names: Sequence[str]) -> str:
    spellings = (re.escape(json.dumps(name, ensure_ascii=False)[1:-1]) for name in names)
    any_name = "|".join(spellings) or _ANY_NAME
    b = _BLANKS
    return rf'\{{{b}"name"{b}:{b}"(?:{any_name})"{b},{b}"(?:arguments|parameters)"{b}:'


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
"""Models whose chat template does not support tools; `TOOL_PROMPT` describes the format to them."""

OTHER = replace(HERMES, is_known=False)
"""Models with a format that is not listed here, but that their tokenizer can parse; forced calls use Hermes' format."""

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
"""Mistral 7B v0.3, Nemo, and other models of 2024."""

MISTRAL_V11 = ToolFormat(opening="[TOOL_CALLS]", before="", between="[ARGS]", after="", separator="[TOOL_CALLS]")
"""Mistral's models since mid-2025 (tokenizer v11 and later)."""


def detect(call: str, name: str) -> ToolFormat | None:
    """Return the format of a call that a chat template has rendered, or `None` if it is not listed here.

    Args:
        call: A rendered conversation that ends with a call of one tool.
        name: The tool's name.
    """
    if not re.search(rf"\b{re.escape(name)}\b", call):
        return None
    for family in (HERMES, MISTRAL_V11, MISTRAL, LLAMA3):
        if re.search(_pattern(family, name), call):
            return family
    return None


def _pattern(family: ToolFormat, name: str) -> str:
    """Return a regular expression that matches a call in this format, with any whitespace."""
    parts = [*re.split(r"\s+", family.opening + family.prefix + family.before), name]
    call_id = [r"(?:\[CALL_ID\]\S+?)?"] if family is MISTRAL_V11 else []
    after = [re.escape(part) for part in re.split(r"\s+", family.between)]
    return r"\s*".join([*(re.escape(part) for part in parts if part), *call_id, *after])
