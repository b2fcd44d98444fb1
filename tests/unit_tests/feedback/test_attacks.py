"""Feedback while a user is forgotten, and wrong arguments of a learner."""

import pytest

from langchain_amulet import ChatAmulet, PreferenceMemory
from langchain_amulet.exceptions import InvalidParameterError, StoredPreferenceError
from langchain_amulet.feedback import FeedbackLearner
from langchain_amulet.memory.items import key_of
from langchain_amulet.memory.lengths import MAX_TEXT_LENGTH
from tests.fakes.chat_templates import byte_tokenizer
from tests.fakes.models import tiny_model

BRIEF, KIND = "Be brief.", "Be kind to everyone!"
FEEDBACK = ("preference_feedback", "alice")


@pytest.fixture(scope="module")
def llm() -> ChatAmulet:
    return ChatAmulet(model=tiny_model("qwen2", seed=5), tokenizer=byte_tokenizer())


@pytest.fixture
def memory() -> PreferenceMemory:
    memory = PreferenceMemory()
    memory.remember("alice", BRIEF)
    memory.remember("alice", KIND)
    return memory


class Forgetting(ChatAmulet):
    """A model during whose computation of evidence the user forgets."""

    def evidence(self, *arguments):
        evidence = super().evidence(*arguments)
        self.metadata["forget"]()
        return evidence

    async def aevidence(self, *arguments):
        evidence = await super().aevidence(*arguments)
        self.metadata["forget"]()
        return evidence


async def record(memory: PreferenceMemory, forget, *, is_async: bool) -> None:
    llm = Forgetting(model=tiny_model("qwen2", seed=5), tokenizer=byte_tokenizer(), metadata={"forget": forget})
    learner = FeedbackLearner(llm, memory)
    if is_async:
        await learner.arecord("alice", "Why?", "Because.", liked=True)
    else:
        learner.record("alice", "Why?", "Because.", liked=True)


@pytest.mark.parametrize("is_async", [False, True])
async def test_preference_forgotten_during_feedback_leaves_no_evidence(memory, is_async):
    await record(memory, lambda: memory.forget("alice", BRIEF), is_async=is_async)
    [item] = memory.store.search(FEEDBACK)
    assert item.value["evidence"].keys() == {key_of(KIND)}


@pytest.mark.parametrize("is_async", [False, True])
async def test_user_forgotten_during_feedback_leaves_nothing(memory, is_async):
    await record(memory, lambda: memory.forget_user("alice"), is_async=is_async)
    assert memory.store.search(()) == []


def test_wrong_response_is_refused(llm, memory):
    with pytest.raises(InvalidParameterError, match="string or an AIMessage, got NoneType"):
        FeedbackLearner(llm, memory).record("alice", "Why?", None, liked=True)


def test_wrong_candidates_are_refused(llm, memory):
    with pytest.raises(InvalidParameterError, match="Shorten it"):
        FeedbackLearner(llm, memory, candidates=["x" * (MAX_TEXT_LENGTH + 1)])
    with pytest.raises(InvalidParameterError, match="got one text"):
        FeedbackLearner(llm, memory, candidates=BRIEF)


@pytest.mark.parametrize(
    "wrong", [{"at_ns": 10**30}, {"at_ns": True}, {"evidence": {"a": 1e300}}, {"evidence": {"a": True}}]
)
def test_stored_feedback_that_cannot_be_used_is_named(llm, memory, wrong):
    memory.store.put(FEEDBACK, "1", {"kind": "liked", "evidence": {"a": 0.5}, "at_ns": 1, **wrong})
    with pytest.raises(StoredPreferenceError, match="Delete the item"):
        FeedbackLearner(llm, memory).explain("alice")


def test_largest_evidence_that_is_accepted_can_be_fitted(llm, memory):
    for number, gain in enumerate((1e6, -1e6, 1e-300, 0.5)):
        evidence = {key_of(BRIEF): gain, key_of(KIND): -gain}
        memory.store.put(FEEDBACK, str(number), {"kind": "comparison", "evidence": evidence, "at_ns": number})
    reports = FeedbackLearner(llm, memory).explain("alice").weights
    assert all(abs(report.fitted_weight) <= 1 for report in reports)
