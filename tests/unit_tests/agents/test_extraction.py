"""Extraction of preferences from conversations."""

import pytest
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage, ToolMessage
from langchain_core.prompt_values import ChatPromptValue

from langchain_amulet import Preference
from langchain_amulet.agents import MAX_PREFERENCE_LENGTH, extract_preferences
from tests.fakes.agents import ALICE_IN_CONFIG, Scripted, calling, store_of
from tests.fakes.roomy import roomy_chat

PROPOSED = calling(
    "ProposedPreferences",
    preferences=[
        {"text": "Answer in one sentence.", "is_dislike": False},
        {"text": "Use jargon.", "is_dislike": True},
        {"text": "Avoid lists.", "is_dislike": True},
        {"text": "answer in one  sentence", "is_dislike": False},
        {"text": " ", "is_dislike": False},
    ],
)
CONVERSATION = [
    SystemMessage("You are a helpful assistant."),
    HumanMessage("Why is the sky blue? And please, always answer in one sentence."),
    AIMessage("", tool_calls=[{"name": "search", "args": {}, "id": "1"}]),
    ToolMessage("Rayleigh scattering.", tool_call_id="1"),
    AIMessage("Air scatters blue light most."),
]


async def test_conversation_becomes_proposed_preferences():
    extract = extract_preferences(Scripted(replies=[PROPOSED]))
    due = [
        Preference("answer in one sentence", 1.0, "learned"),
        Preference("Use jargon.", -1.0, "learned"),
        Preference("Avoid lists.", 1.0, "learned"),
    ]
    assert extract.invoke(CONVERSATION) == await extract.ainvoke(CONVERSATION) == due
    assert extract.batch([CONVERSATION] * 2) == await extract.abatch([CONVERSATION] * 2) == [due, due]


@pytest.mark.parametrize(
    ("conversation", "transcript"),
    [
        ("Be brief.", "User: Be brief."),
        ([("human", "Be brief."), ("ai", "Yes.")], "User: Be brief.\n\nAssistant: Yes."),
        (
            [{"role": "user", "content": "Be brief."}, {"role": "assistant", "content": "Yes."}],
            "User: Be brief.\n\nAssistant: Yes.",
        ),
        (ChatPromptValue(messages=[HumanMessage("Be brief.")]), "User: Be brief."),
        (CONVERSATION, f"User: {CONVERSATION[1].text}\n\nAssistant: Air scatters blue light most."),
    ],
)
def test_prompt_is_the_task_and_a_transcript(conversation, transcript):
    llm = Scripted(replies=[PROPOSED])
    extract_preferences(llm).invoke(conversation)
    [[task, read]] = llm.seen
    assert task.type == "system"
    assert "wants to be answered" in task.text
    assert read.text == transcript


@pytest.mark.parametrize("reply", [calling("ProposedPreferences", preferences=[]), AIMessage("There are none.")])
def test_reply_without_proposals_gives_no_preference(reply):
    assert extract_preferences(Scripted(replies=[reply])).invoke("Why?") == []


def test_proposals_that_are_empty_or_too_long_are_left_out():
    texts = ["Be\0 brief\ud800.", "x" * (MAX_PREFERENCE_LENGTH + 1), "\0"]
    proposed = [{"text": text, "is_dislike": False} for text in texts]
    llm = Scripted(replies=[calling("ProposedPreferences", preferences=proposed)])
    assert extract_preferences(llm).invoke("Why?") == [Preference("Be brief.", source="learned")]


async def test_chat_amulet_follows_its_grammar_and_no_preferences():
    store = store_of(alice="Be brief.")
    personal = roomy_chat(memory=store, max_tokens=60)  # its own preference is ignored as well
    extract = extract_preferences(personal)
    preferences = extract.invoke(CONVERSATION, ALICE_IN_CONFIG)
    assert preferences
    assert all(isinstance(preference, Preference) and preference.source == "learned" for preference in preferences)
    assert await extract.ainvoke(CONVERSATION, ALICE_IN_CONFIG) == preferences
    assert extract.batch(["Why?", CONVERSATION], ALICE_IN_CONFIG)[1] == preferences
    assert store.num_lookups == 0
    nobody = extract_preferences(roomy_chat(preference=None, max_tokens=60))
    assert nobody.invoke(CONVERSATION) == preferences
