"""Extracts preferences from a conversation with a language model."""

from dataclasses import replace
from typing import Any

from langchain_core.language_models import BaseChatModel, LanguageModelInput
from langchain_core.messages import HumanMessage, SystemMessage, convert_to_messages
from langchain_core.prompt_values import ChatPromptValue, PromptValue
from langchain_core.runnables import Runnable, RunnableLambda
from pydantic import BaseModel, ConfigDict, Field

from langchain_amulet.agents.wording import MAX_PREFERENCE_LENGTH, as_stated, comparable
from langchain_amulet.memory.items import usable
from langchain_amulet.personalization.entry_points import PersonalizedChatModel
from langchain_amulet.preferences import Preference

# Models read these descriptions in the schema. Docstrings do not serve, because `python -OO` removes them.
_PREFERENCE_DESCRIPTION = "One thing that the user wants of all answers."
_PREFERENCES_DESCRIPTION = "How the user wants to be answered."


class ProposedPreference(BaseModel):
    """A preference that the model has found in a conversation."""

    model_config = ConfigDict(json_schema_extra={"description": _PREFERENCE_DESCRIPTION})

    text: str = Field(description='An instruction to the assistant, such as "Answer in short sentences."')
    is_dislike: bool = Field(description="Whether the user dislikes what the instruction asks for")


class ProposedPreferences(BaseModel):
    """All preferences that the model has found in a conversation."""

    model_config = ConfigDict(json_schema_extra={"description": _PREFERENCES_DESCRIPTION})

    preferences: list[ProposedPreference] = Field(description="Empty if the user has said nothing of the kind")


_EXTRACTION_PROMPT = (
    "Below is a conversation. List how the user wants to be answered in future: style, length, tone, language, things "
    "to avoid. Only what the user has said or clearly shown, as short instructions; no facts, and no topics of this "
    "conversation. If there is nothing of the kind, the list is empty."
)


def extract_preferences(llm: BaseChatModel) -> Runnable[LanguageModelInput, list[Preference]]:
    """Return a runnable that extracts the user's preferences from a conversation, without storing them.

    Args:
        llm: A chat model with structured output. A `ChatAmulet` extracts without applying preferences itself.

    Returns:
        A runnable from a conversation, in any form that chat models accept, to preferences of weight 1 or -1 with
        `source="learned"`. Each text has at most 500 characters.

    Example:
        >>> for preference in extract_preferences(llm).invoke(conversation):
        ...     stored = memory.remember(user_id, preference)
    """
    plain: dict[str, Any] = {"preference": []} if isinstance(llm, PersonalizedChatModel) else {}
    extract: Runnable[Any, Any] = llm.with_structured_output(ProposedPreferences, **plain)
    return RunnableLambda(_as_task) | extract | RunnableLambda(_as_preferences)


def _as_task(conversation: LanguageModelInput) -> ChatPromptValue:
    """Return the prompt: the task, and a transcript of what the user and the assistant have said."""
    turns = conversation.to_messages() if isinstance(conversation, PromptValue) else conversation
    messages = convert_to_messages([turns] if isinstance(turns, str) else turns)
    spoken = [message for message in messages if message.type in ("human", "ai") and message.text]
    speakers = {"human": "User", "ai": "Assistant"}
    transcript = "\n\n".join(f"{speakers[message.type]}: {message.text}" for message in spoken)
    return ChatPromptValue(messages=[SystemMessage(_EXTRACTION_PROMPT), HumanMessage(transcript)])


def _as_preferences(output: Any) -> list[Preference]:
    """Return the proposals as preferences, without duplicates and without texts that are empty or too long."""
    proposals = output.preferences if isinstance(output, ProposedPreferences) else []  # some models call no tool
    texts = [(usable(proposal.text), proposal.is_dislike) for proposal in proposals]
    preferences = [as_stated(text, is_dislike=dislike) for text, dislike in texts if len(text) <= MAX_PREFERENCE_LENGTH]
    unique = {comparable(preference.text): replace(preference, source="learned") for preference in preferences}
    return [preference for meaning, preference in unique.items() if meaning]
