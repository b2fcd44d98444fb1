"""Tools by which an agent's user manages their preferences."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import Annotated, Any, TypeAlias

from langchain.tools import ToolRuntime
from langchain_core.tools import BaseTool, StructuredTool, ToolException
from pydantic import Field

from langchain_amulet.agents.wording import MAX_PREFERENCE_LENGTH, essence, stated
from langchain_amulet.exceptions import AmuletError, UserIdError
from langchain_amulet.memory.preference_memory import PreferenceMemory, as_memory
from langchain_amulet.memory.sources import PreferenceSource
from langchain_amulet.personalization.lookup import Lookup, find_lookup
from langchain_amulet.preferences import Preference

MAX_PREFERENCES = 50


def preference_tools(memory: PreferenceMemory | PreferenceSource = None) -> list[BaseTool]:
    """The tools `remember_preference`, `list_preferences` and `forget_preference`, for an agent's tools.

    They act for the user of the run, whom the model cannot choose: the one that the platform has authenticated, or
    `user_id` in the run's config or context. What a model gets wrong, such as a text that is too long, it is told.

    Args:
        memory: Where preferences are kept. `None`: in the agent's store.

    Raises:
        StoreTypeError: `memory` is none, and no store either.

    Example:
        >>> [tool.name for tool in preference_tools()]
        ['remember_preference', 'list_preferences', 'forget_preference']
    """
    tools = _PreferenceTools(as_memory(memory))
    return [
        _tool("remember_preference", tools.remember, tools.aremember),
        _tool("list_preferences", tools.list, tools.alist),
        _tool("forget_preference", tools.forget, tools.aforget),
    ]


def _tool(name: str, func: Callable[..., str], coroutine: Callable[..., Awaitable[str]]) -> BaseTool:
    description = " ".join((func.__doc__ or "").split())
    return StructuredTool.from_function(func, coroutine, name, description, handle_tool_error=True)


_Runtime: TypeAlias = ToolRuntime[Any, Any]  # of any context: pydantic warns of what is none of the type
_Instruction = Annotated[
    str, Field(description='One short instruction to the assistant, such as "Answer in one sentence."')
]
_IsDislike = Annotated[
    bool,
    Field(description='True if the user dislikes what the instruction asks for, such as "Use technical terms."'),
]
_Listed = Annotated[str, Field(description="Its text, as list_preferences shows it.")]


class _PreferenceTools:
    """What the tools do; models read the docstrings of the sync ones."""

    def __init__(self, memory: PreferenceMemory | None) -> None:
        self._memory = memory

    def remember(self, preference: _Instruction, runtime: _Runtime, *, is_dislike: _IsDislike = False) -> str:
        """Remember how the user wants to be answered from now on: style, length, tone, language, things to avoid.

        Call it when the user says so, as in "please keep it short in future"; not for facts, nor for a wish about one
        answer alone.
        """
        memory, user_id = self._lookup(runtime)
        given = _checked(preference, is_dislike=is_dislike)
        known = memory.recall(user_id)
        wanted = _among(known, given)
        if wanted not in known:
            memory.remember(user_id, wanted)
        return _told_of_remembering(wanted)

    async def aremember(self, preference: str, runtime: _Runtime, *, is_dislike: bool = False) -> str:
        memory, user_id = self._lookup(runtime)
        given = _checked(preference, is_dislike=is_dislike)
        known = await memory.arecall(user_id)
        wanted = _among(known, given)
        if wanted not in known:
            await memory.aremember(user_id, wanted)
        return _told_of_remembering(wanted)

    def list(self, runtime: _Runtime) -> str:
        """List all that is remembered of how the user wants to be answered."""
        memory, user_id = self._lookup(runtime)
        return _listing(memory.recall(user_id))

    async def alist(self, runtime: _Runtime) -> str:
        memory, user_id = self._lookup(runtime)
        return _listing(await memory.arecall(user_id))

    def forget(self, preference: _Listed, runtime: _Runtime) -> str:
        """Forget one thing that is remembered of how the user wants to be answered, when the user takes it back."""
        memory, user_id = self._lookup(runtime)
        texts = _texts_like(preference, memory.recall(user_id))
        for text in texts or [preference]:  # earlier versions of a preference have texts of their own
            memory.forget(user_id, text)
        return _told_of_forgetting(texts, memory.recall(user_id))

    async def aforget(self, preference: str, runtime: _Runtime) -> str:
        memory, user_id = self._lookup(runtime)
        texts = _texts_like(preference, await memory.arecall(user_id))
        for text in texts or [preference]:
            await memory.aforget(user_id, text)
        return _told_of_forgetting(texts, await memory.arecall(user_id))

    def _lookup(self, runtime: _Runtime) -> Lookup:
        lookup = find_lookup(runtime.config, self._memory, runtime)
        if lookup is None:
            msg = (
                "The tools for preferences need to know whose they are, and where to keep them. Run the agent with "
                'context=... that has a user_id, or with {"configurable": {"user_id": ...}}; and create it with '
                "store=..., or the tools with preference_tools(memory)."
            )
            raise UserIdError(msg)
        return lookup


def _checked(text: str, *, is_dislike: bool) -> Preference:
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
        return stated(text, is_dislike=is_dislike)
    except AmuletError as error:
        raise ToolException(str(error)) from error


def _among(known: Sequence[Preference], given: Preference) -> Preference:
    """The preference as it is known already, or as it is to be remembered."""
    for each in known:
        if essence(each.text) == essence(given.text):
            return each if each.weight * given.weight > 0 else replace(given, text=each.text)
    if len(known) >= MAX_PREFERENCES:
        msg = f"{len(known)} preferences are remembered already, and {MAX_PREFERENCES} allowed. Forget some of them."
        raise ToolException(msg)
    return given


def _texts_like(text: str, known: Sequence[Preference]) -> list[str]:
    """The known texts that a model may mean, which do not copy exactly."""
    texts = [each.text for each in known]
    return [text] if text in texts else [each for each in texts if essence(each) == essence(text)]


def _listing(preferences: Sequence[Preference]) -> str:
    if not preferences:
        return "Nothing is remembered."
    return "\n".join(f"- {'(avoid) ' if each.weight < 0 else ''}{' '.join(each.text.split())}" for each in preferences)


def _told_of_remembering(preference: Preference) -> str:
    return f'Remembered{" to avoid" if preference.weight < 0 else ""}: "{preference.text}"'


def _told_of_forgetting(texts: Sequence[str], left: Sequence[Preference]) -> str:
    if not texts:
        return f"No such preference is remembered. What is remembered:\n{_listing(left)}"
    if any(each.text in texts for each in left):
        return "It cannot be forgotten here: another program has remembered it."
    return "Forgotten: " + ", ".join(f'"{text}"' for text in texts)
