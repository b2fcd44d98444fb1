"""Tools with which an agent remembers, lists and forgets the preferences of its user."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import Annotated, Any, TypeAlias

from langchain.tools import ToolRuntime
from langchain_core.tools import BaseTool, StructuredTool, ToolException
from pydantic import Field

from langchain_amulet.agents.wording import MAX_PREFERENCE_LENGTH, as_stated, comparable
from langchain_amulet.exceptions import AmuletError, UserIdError
from langchain_amulet.memory.preference_memory import PreferenceMemory, as_memory
from langchain_amulet.memory.sources import PreferenceSource
from langchain_amulet.personalization.lookup import Lookup, find_lookup
from langchain_amulet.preferences import Preference

MAX_PREFERENCES = 50
"""Maximum number of preferences per user; at this number, `remember_preference` refuses further ones."""

# Models read the descriptions of the tools and of their arguments.
REMEMBER_DESCRIPTION = (
    "Remember how the user wants to be answered from now on: style, length, tone, language, things to avoid. Call it "
    'when the user says so, as in "please keep it short in future"; not for facts, nor for a wish about one answer '
    "alone."
)
LIST_DESCRIPTION = "List all that is remembered of how the user wants to be answered."
FORGET_DESCRIPTION = (
    "Forget one thing that is remembered of how the user wants to be answered, when the user takes it back."
)


def preference_tools(memory: PreferenceMemory | PreferenceSource = None) -> list[BaseTool]:
    """Return the tools `remember_preference`, `list_preferences` and `forget_preference`, for an agent's tools.

    The tools act for the user of the run: the user whom the platform has authenticated, or `user_id` in the run's
    config or context. The model cannot choose the user. Errors of the model, such as a text that is too long, are
    reported to it as the tool's result.

    Args:
        memory: A `PreferenceMemory`, or a store for one. `None`: the agent's store.

    Raises:
        StoreTypeError: `memory` is neither a `PreferenceMemory` nor a supported store.

    Example:
        >>> [tool.name for tool in preference_tools()]
        ['remember_preference', 'list_preferences', 'forget_preference']
    """
    tools = _PreferenceTools(as_memory(memory))
    return [
        _tool("remember_preference", REMEMBER_DESCRIPTION, tools.remember, tools.aremember),
        _tool("list_preferences", LIST_DESCRIPTION, tools.list, tools.alist),
        _tool("forget_preference", FORGET_DESCRIPTION, tools.forget, tools.aforget),
    ]


def _tool(name: str, description: str, func: Callable[..., str], coroutine: Callable[..., Awaitable[str]]) -> BaseTool:
    return StructuredTool.from_function(func, coroutine, name, description, handle_tool_error=True)


_Runtime: TypeAlias = ToolRuntime[Any, Any]  # pydantic warns if a context is not of the declared type
_Instruction = Annotated[
    str, Field(description='One short instruction to the assistant, such as "Answer in one sentence."')
]
_IsDislike = Annotated[
    bool,
    Field(description='True if the user dislikes what the instruction asks for, such as "Use technical terms."'),
]
_ListedText = Annotated[str, Field(description="Its text, as list_preferences shows it.")]


class _PreferenceTools:
    """The functions of the tools, sync and async; LangChain hides `runtime` from the model."""

    def __init__(self, memory: PreferenceMemory | None) -> None:
        self._memory = memory

    def remember(self, preference: _Instruction, runtime: _Runtime, *, is_dislike: _IsDislike = False) -> str:
        """Remember a preference of the user, unless it is remembered already."""
        memory, user_id = self._lookup(runtime)
        proposed = _as_preference(preference, is_dislike=is_dislike)
        known = memory.recall(user_id)
        merged = _merge(known, proposed)
        if merged not in known:
            memory.remember(user_id, merged)
        return _remembered(merged)

    async def aremember(self, preference: str, runtime: _Runtime, *, is_dislike: bool = False) -> str:
        """Async `remember`."""
        memory, user_id = self._lookup(runtime)
        proposed = _as_preference(preference, is_dislike=is_dislike)
        known = await memory.arecall(user_id)
        merged = _merge(known, proposed)
        if merged not in known:
            await memory.aremember(user_id, merged)
        return _remembered(merged)

    def list(self, runtime: _Runtime) -> str:
        """List the user's preferences, one per line."""
        memory, user_id = self._lookup(runtime)
        return _listing(memory.recall(user_id))

    async def alist(self, runtime: _Runtime) -> str:
        """Async `list`."""
        memory, user_id = self._lookup(runtime)
        return _listing(await memory.arecall(user_id))

    def forget(self, preference: _ListedText, runtime: _Runtime) -> str:
        """Forget the preferences of the user that have this text."""
        memory, user_id = self._lookup(runtime)
        texts = _matching_texts(preference, memory.recall(user_id))
        for text in texts or [
            preference
        ]:  # recall() does not return texts of earlier versions, but forget() deletes them
            memory.forget(user_id, text)
        return _forgotten(texts, memory.recall(user_id))

    async def aforget(self, preference: str, runtime: _Runtime) -> str:
        """Async `forget`."""
        memory, user_id = self._lookup(runtime)
        texts = _matching_texts(preference, await memory.arecall(user_id))
        for text in texts or [preference]:
            await memory.aforget(user_id, text)
        return _forgotten(texts, await memory.arecall(user_id))

    def _lookup(self, runtime: _Runtime) -> Lookup:
        lookup = find_lookup(runtime.config, self._memory, runtime)
        if lookup is None:
            msg = (
                "The preference tools need a user id and a store. Run the agent with context=... that has a user_id, "
                'or with {"configurable": {"user_id": ...}}; and create it with store=..., or the tools with '
                "preference_tools(memory)."
            )
            raise UserIdError(msg)
        return lookup


def _as_preference(text: str, *, is_dislike: bool) -> Preference:
    """Return the proposed preference, or raise `ToolException` with a message for the model."""
    if not any(character.isalnum() for character in text):
        msg = 'The preference is empty. Give one short instruction, such as "Answer in one sentence."'
        raise ToolException(msg)
    if len(text) > MAX_PREFERENCE_LENGTH:
        msg = (
            f"The preference has {len(text)} characters; {MAX_PREFERENCE_LENGTH} are allowed. Nothing was remembered. "
            "Give one short instruction; call the tool again for each further one."
        )
        raise ToolException(msg)
    try:
        return as_stated(text, is_dislike=is_dislike)
    except AmuletError as error:
        raise ToolException(str(error)) from error


def _merge(known: Sequence[Preference], proposed: Preference) -> Preference:
    """Return the preference to remember: a known one with the same meaning and the new sign, else the proposed one."""
    for preference in known:
        if comparable(preference.text) == comparable(proposed.text):
            return preference if preference.weight * proposed.weight > 0 else replace(proposed, text=preference.text)
    if len(known) >= MAX_PREFERENCES:
        msg = f"{len(known)} preferences are remembered already, and {MAX_PREFERENCES} allowed. Forget some of them."
        raise ToolException(msg)
    return proposed


def _matching_texts(text: str, known: Sequence[Preference]) -> list[str]:
    """Return the text if it is known, else all known texts with the same meaning, since models copy inexactly."""
    texts = [preference.text for preference in known]
    return [text] if text in texts else [other for other in texts if comparable(other) == comparable(text)]


def _listing(preferences: Sequence[Preference]) -> str:
    if not preferences:
        return "Nothing is remembered."
    return "\n".join(f"- {'(avoid) ' if item.weight < 0 else ''}{' '.join(item.text.split())}" for item in preferences)


def _remembered(preference: Preference) -> str:
    return f'Remembered{" to avoid" if preference.weight < 0 else ""}: "{preference.text}"'


def _forgotten(texts: Sequence[str], left: Sequence[Preference]) -> str:
    if not texts:
        return f"No such preference is remembered. What is remembered:\n{_listing(left)}"
    if any(preference.text in texts for preference in left):
        return "It cannot be forgotten here: another program has remembered it."
    return "Forgotten: " + ", ".join(f'"{text}"' for text in texts)
