"""For LangChain's agents: answers as the run's user prefers, and tools by which users say what they prefer."""

import re
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import Annotated, Any, TypeAlias, get_args

from langchain_core.language_models import BaseChatModel, LanguageModelInput
from langchain_core.messages import HumanMessage, SystemMessage, convert_to_messages
from langchain_core.prompt_values import ChatPromptValue, PromptValue
from langchain_core.runnables import Runnable, RunnableBinding, RunnableLambda
from langchain_core.tools import BaseTool, StructuredTool, ToolException
from pydantic import BaseModel, Field

from langchain_amulet.exceptions import AmuletError, InvalidParameterError, MissingExtraError, UserIdError
from langchain_amulet.memory.items import usable
from langchain_amulet.memory.preference_memory import PreferenceMemory
from langchain_amulet.memory.sources import PreferenceSource
from langchain_amulet.personalization.entry_points import ResolvingChatModel
from langchain_amulet.personalization.lookup import Lookup, OnStoreError, alook_up, find_lookup, look_up
from langchain_amulet.personalization.resolved import ResolvedPreferences, resolve
from langchain_amulet.preferences import Preference

try:
    from langchain.agents.middleware import AgentMiddleware, ModelRequest, ModelResponse
    from langchain.tools import ToolRuntime
except ImportError as error:
    msg = "langchain_amulet.agents needs LangChain's agents. Install them: pip install 'langchain-amulet[agents]'"
    raise MissingExtraError(msg) from error

MAX_PREFERENCES = 50
MAX_PREFERENCE_LENGTH = 500


class AmuletMiddleware(AgentMiddleware[Any, Any]):
    """Lets every model call of an agent answer as the run's user prefers.

    `ChatAmulet` finds out by itself who is asking, where the agent runs with a store and a user id in its context or
    config. With this, the memory, the fallback and the policy for stores that fail are the agent's: one model may serve
    several agents that remember different things. What is left out here is as the model has it.

    Preferences are looked up once per model call. Calls that are given a `preference=` already, and calls of other chat
    models, are left as they are. List it after middleware that changes the model, such as `ModelFallbackMiddleware`,
    so that it sees which model is called.

    Args:
        memory: Where preferences are kept. `None`: in the model's memory, else in the agent's store.
        preference: What to prefer for users of whom nothing is remembered.
        on_store_error: `"raise"` the store's error, or answer without preferences (`"plain"`).

    Raises:
        StoreTypeError: `memory` is none, and no store either.
        PreferenceError: `preference` is none.
        InvalidParameterError: `on_store_error` is none of the two.
    """

    def __init__(
        self,
        memory: PreferenceMemory | PreferenceSource = None,
        *,
        preference: Any = None,
        on_store_error: OnStoreError | None = None,
    ) -> None:
        super().__init__()
        if on_store_error not in (None, *get_args(OnStoreError)):
            msg = f'on_store_error is "raise" or "plain", got {on_store_error!r}.'
            raise InvalidParameterError(msg)
        self._memory = _as_memory(memory)
        self._default = None if preference is None else resolve(preference)
        self._on_store_error = on_store_error

    def wrap_model_call(
        self, request: ModelRequest[Any], handler: Callable[[ModelRequest[Any]], ModelResponse[Any]]
    ) -> ModelResponse[Any]:
        """Look up what the run's user prefers, and call the model with it."""
        if (model := _model_to_prefer(request)) is None:
            return handler(request)
        return handler(_with(request, look_up(*self._question(model, request))))

    async def awrap_model_call(
        self, request: ModelRequest[Any], handler: Callable[[ModelRequest[Any]], Awaitable[ModelResponse[Any]]]
    ) -> ModelResponse[Any]:
        """Async `wrap_model_call`."""
        if (model := _model_to_prefer(request)) is None:
            return await handler(request)
        return await handler(_with(request, await alook_up(*self._question(model, request))))

    def _question(
        self, model: ResolvingChatModel, request: ModelRequest[Any]
    ) -> tuple[Lookup | None, ResolvedPreferences, OnStoreError]:
        memory = model.memory if self._memory is None else self._memory
        default = resolve(model.preference) if self._default is None else self._default
        return find_lookup(None, memory, request.runtime), default, self._on_store_error or model.on_store_error


def _as_memory(given: PreferenceMemory | PreferenceSource) -> PreferenceMemory | None:
    return given if given is None or isinstance(given, PreferenceMemory) else PreferenceMemory(given)


def _model_to_prefer(request: ModelRequest[Any]) -> ResolvingChatModel | None:
    """The model to be called, if it knows preferences and has not been given any."""
    model: Any = request.model
    given = {*request.model_settings}
    while isinstance(model, RunnableBinding):
        given |= {*model.kwargs}
        model = model.bound
    return model if isinstance(model, ResolvingChatModel) and "preference" not in given else None


def _with(request: ModelRequest[Any], resolved: ResolvedPreferences) -> ModelRequest[Any]:
    return request.override(model_settings={**request.model_settings, "preference": resolved})


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
    tools = _PreferenceTools(_as_memory(memory))
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


# "Avoid jargon." as a dislike would steer the model towards jargon.
_NEGATION = re.compile(r"(?:avoid|do not|don['\u2019]t|never|no|not|stop|without)\b", re.IGNORECASE)
_BEFORE = re.compile(r"(?:-\s+)?(?:\(avoid\)\s+)?", re.IGNORECASE)  # ... a text in a listing
_QUOTES = " \"'\u2018\u2019\u201c\u201d"


def _stated(text: str, *, is_dislike: bool) -> Preference:
    """What a model says that a user has said. Models often negate dislikes once more; that is an instruction."""
    text = " ".join(text.split())
    return Preference(text, -1.0 if is_dislike and not _NEGATION.match(text) else 1.0)


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
        return _stated(text, is_dislike=is_dislike)
    except AmuletError as error:
        raise ToolException(str(error)) from error


def _among(known: Sequence[Preference], given: Preference) -> Preference:
    """The preference as it is known already, or as it is to be remembered."""
    for each in known:
        if _essence(each.text) == _essence(given.text):
            return each if each.weight * given.weight > 0 else replace(given, text=each.text)
    if len(known) >= MAX_PREFERENCES:
        msg = f"{len(known)} preferences are remembered already, and {MAX_PREFERENCES} allowed. Forget some of them."
        raise ToolException(msg)
    return given


def _texts_like(text: str, known: Sequence[Preference]) -> list[str]:
    """The known texts that a model may mean, which do not copy exactly."""
    texts = [each.text for each in known]
    return [text] if text in texts else [each for each in texts if _essence(each) == _essence(text)]


def _essence(text: str) -> str:
    """A text without case, spacing, quotes, final stops and what a listing puts before it."""
    words = " ".join(text.casefold().split())
    return _BEFORE.sub("", words.strip(_QUOTES), count=1).strip(_QUOTES + ".!")


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


class ProposedPreference(BaseModel):
    """One thing that the user wants of all answers."""

    text: str = Field(description='An instruction to the assistant, such as "Answer in short sentences."')
    is_dislike: bool = Field(description="Whether the user dislikes what the instruction asks for")


class ProposedPreferences(BaseModel):
    """How the user wants to be answered."""

    preferences: list[ProposedPreference] = Field(description="Empty if the user has said nothing of the kind")


_EXTRACTION_PROMPT = (
    "Below is a conversation. List how the user wants to be answered in future: style, length, tone, language, things "
    "to avoid. Only what the user has said or clearly shown, as short instructions; no facts, and no topics of this "
    "conversation. If there is nothing of the kind, the list is empty."
)


def extract_preferences(llm: BaseChatModel) -> Runnable[LanguageModelInput, list[Preference]]:
    """A runnable from a conversation to the preferences that the user shows in it, for you to remember or not.

    Args:
        llm: Any chat model with structured output. `ChatAmulet` reads the conversation without anyone's preferences.

    Returns:
        Takes what a chat model takes; returns preferences of weight 1 and -1 with `source="learned"`, each text at most
        500 characters long.

    Example:
        >>> for preference in extract_preferences(llm).invoke(conversation):  # doctest: +SKIP
        ...     memory.remember(user_id, preference)
    """
    plain: dict[str, Any] = {"preference": []} if isinstance(llm, ResolvingChatModel) else {}
    extract: Runnable[Any, Any] = llm.with_structured_output(ProposedPreferences, **plain)
    return RunnableLambda(_as_task) | extract | RunnableLambda(_as_preferences)


def _as_task(conversation: LanguageModelInput) -> ChatPromptValue:
    given = conversation.to_messages() if isinstance(conversation, PromptValue) else conversation
    messages = convert_to_messages([given] if isinstance(given, str) else given)
    spoken = [message for message in messages if message.type in ("human", "ai") and message.text]
    transcript = "\n\n".join(f"{'User' if each.type == 'human' else 'Assistant'}: {each.text}" for each in spoken)
    return ChatPromptValue(messages=[SystemMessage(_EXTRACTION_PROMPT), HumanMessage(transcript)])


def _as_preferences(found: Any) -> list[Preference]:
    proposals = found.preferences if isinstance(found, ProposedPreferences) else []  # models may call no tool
    texts = [(usable(each.text), each.is_dislike) for each in proposals]
    proposed = [_stated(text, is_dislike=dislike) for text, dislike in texts if len(text) <= MAX_PREFERENCE_LENGTH]
    unique = {_essence(each.text): replace(each, source="learned") for each in proposed}
    return [each for essence, each in unique.items() if essence]
