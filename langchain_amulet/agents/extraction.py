"""Extracting preferences from a conversation with a language model."""

from dataclasses import replace
from typing import Any

from langchain_core.language_models import BaseChatModel, LanguageModelInput
from langchain_core.messages import HumanMessage, SystemMessage, convert_to_messages
from langchain_core.prompt_values import ChatPromptValue, PromptValue
from langchain_core.runnables import Runnable, RunnableLambda
from pydantic import BaseModel, Field

from langchain_amulet.agents.wording import MAX_PREFERENCE_LENGTH, essence, stated
from langchain_amulet.memory.items import usable
from langchain_amulet.personalization.entry_points import PersonalizedChatModel
from langchain_amulet.preferences import Preference


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
        >>> for preference in extract_preferences(llm).invoke(conversation):
        ...     stored = memory.remember(user_id, preference)
    """
    plain: dict[str, Any] = {"preference": []} if isinstance(llm, PersonalizedChatModel) else {}
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
    proposed = [stated(text, is_dislike=dislike) for text, dislike in texts if len(text) <= MAX_PREFERENCE_LENGTH]
    unique = {essence(each.text): replace(each, source="learned") for each in proposed}
    return [each for essence, each in unique.items() if essence]
