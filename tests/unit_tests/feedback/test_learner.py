"""Learning weights from likes and comparisons, over a memory and a tiny random model."""

import json
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from langchain_core.messages import AIMessage, HumanMessage
from langgraph.store.memory import InMemoryStore
from langgraph.store.sqlite import SqliteStore

from langchain_amulet import ChatAmulet, Preference, PreferenceMemory
from langchain_amulet.exceptions import InvalidParameterError, StoreTimeoutError, StoreTypeError
from langchain_amulet.feedback import Explanation, FeedbackLearner, LearningConfig
from langchain_amulet.memory.items import key_of
from tests.fakes.chat_templates import byte_tokenizer
from tests.fakes.models import tiny_model

BRIEF, KIND = "Be brief.", "Be kind to everyone!"
QUESTION = "Why?"
ANSWERS = ("Because.", "It is so since it was made so.", "No.", "Who knows?", "Ask me another day.")


@pytest.fixture(scope="module")
def llm() -> ChatAmulet:
    return ChatAmulet(model=tiny_model("qwen2", seed=5), tokenizer=byte_tokenizer())


@pytest.fixture
def memory() -> PreferenceMemory:
    memory = PreferenceMemory(InMemoryStore())
    memory.remember("alice", BRIEF, 0.0, source="learned")
    memory.remember("alice", KIND, 0.0, source="learned")
    return memory


@pytest.fixture
def learner(llm, memory) -> FeedbackLearner:
    return FeedbackLearner(llm, memory)


def weights(memory: PreferenceMemory, user_id: str = "alice") -> dict[str, float]:
    return {preference.text: preference.weight for preference in memory.recall(user_id)}


def ranked(llm: ChatAmulet, text: str) -> list[str]:
    """The answers, by falling evidence for a preference."""
    return sorted(ANSWERS, key=lambda answer: -llm.evidence(QUESTION, answer, [text])[0])


def test_comparisons_move_the_weight_towards_the_preferred_response(llm, memory, learner):
    first, *_, last = ranked(llm, BRIEF)
    for _ in range(5):
        learner.record_comparison("alice", QUESTION, better=first, worse=last)
    assert weights(memory)[BRIEF] > 0.5
    for _ in range(25):
        learner.record_comparison("alice", QUESTION, better=last, worse=first)
    assert weights(memory)[BRIEF] < -0.5


def test_likes_and_dislikes_move_weights_too(llm, memory, learner):
    first, *_, last = ranked(llm, KIND)
    for _ in range(4):
        learner.record("alice", [HumanMessage(QUESTION)], AIMessage(first), liked=True)
        learner.record("alice", [HumanMessage(QUESTION)], AIMessage(last), liked=False)
    assert weights(memory)[KIND] > 0.5


def test_learned_weights_are_at_most_one_and_used_by_the_next_answer(llm, memory, learner):
    first, *_, last = ranked(llm, BRIEF)
    learner.record_comparison("alice", QUESTION, better=first, worse=last)
    assert 0 < max(map(abs, weights(memory).values())) <= 1
    asking = ChatAmulet(model=llm.model, tokenizer=llm.tokenizer, memory=memory, max_tokens=8, temperature=0)
    answer = asking.invoke(QUESTION, {"configurable": {"user_id": "alice"}})
    assert answer.text == asking.invoke(QUESTION, preference=memory.recall("alice")).text
    assert answer.response_metadata["amulet"]["num_streams"] > 1


def test_weights_of_other_users_do_not_move(memory, learner):
    memory.remember("bob", BRIEF, 0.25)
    learner.record_comparison("alice", QUESTION, better=ANSWERS[0], worse=ANSWERS[1])
    assert weights(memory, "bob") == {BRIEF: 0.25}


def test_judged_texts_are_not_stored(memory, learner):
    learner.record("alice", "My secret question?", "A secret answer.", liked=True)
    stored = json.dumps([item.value for item in memory.store.search(("preference_feedback", "alice"), limit=100)])
    assert "liked" in stored
    assert all(word not in stored for word in ("secret", "Be brief", "Be kind"))


def test_explanations_sum_up_to_the_weights(memory, learner):
    ids = [
        learner.record_comparison("alice", QUESTION, better=ANSWERS[0], worse=ANSWERS[1]),
        learner.record("alice", QUESTION, ANSWERS[2], liked=False),
        learner.record("alice", QUESTION, ANSWERS[3], liked=True),
    ]
    explanation = learner.explain("alice")
    assert [effect.feedback_id for effect in explanation.feedback] == ids
    assert [effect.kind for effect in explanation.feedback] == ["comparison", "disliked", "liked"]
    assert {report.preference.text: report.preference.weight for report in explanation.weights} == weights(memory)
    assert {report.preference.text: report.fitted_weight for report in explanation.weights} == pytest.approx(
        weights(memory)
    )
    for report in explanation.weights:
        moved = sum(effect.effects[report.preference.text] for effect in explanation.feedback)
        assert report.start + moved == pytest.approx(report.preference.weight, abs=1e-4)
        assert report.std_error > 0
    assert explanation.confidence == pytest.approx(max(map(abs, weights(memory).values())))


def test_repr_of_explanations_contains_no_text(learner):
    learner.record("alice", QUESTION, ANSWERS[2], liked=True)
    assert "brief" not in repr(learner.explain("alice"))


def test_stated_preferences_start_at_their_stated_weights(memory, learner):
    memory.remember("bob", BRIEF)
    memory.remember("bob", KIND, -0.5)
    learner.record("bob", QUESTION, ANSWERS[0], liked=True)
    explanation = learner.explain("bob")
    assert explanation.weights[0].start > 0.5
    assert explanation.weights[0].preference.source == "stated"
    assert weights(memory, "bob")[BRIEF] > 0.5
    assert weights(memory, "bob")[KIND] < 0


def test_weights_that_were_learned_are_not_mistaken_for_stated_ones(llm, memory, learner):
    memory.remember("bob", BRIEF)
    first, *_, last = ranked(llm, BRIEF)
    for _ in range(30):
        learner.record_comparison("bob", QUESTION, better=last, worse=first)
    turned = learner.explain("bob").weights[0]
    assert turned.preference.weight < 0 < turned.start


def test_an_updated_stated_weight_is_the_new_start(memory, learner):
    memory.remember("bob", BRIEF)
    learner.record("bob", QUESTION, ANSWERS[0], liked=True)
    memory.update("bob", BRIEF, weight=-1.0)
    learner.record("bob", QUESTION, ANSWERS[0], liked=True)
    assert learner.explain("bob").weights[0].start < 0


def test_feedback_of_a_user_without_preferences_is_stored(learner):
    learner.record("carol", QUESTION, ANSWERS[0], liked=True)
    assert learner.explain("carol") == Explanation([], learner.explain("carol").feedback, 0.0)
    assert len(learner.explain("carol").feedback) == 1


def test_candidates_are_proposed_once_feedback_supports_them(llm, memory):
    learner = FeedbackLearner(llm, memory, candidates=["Tell a story."])
    assert learner.propose("dave") == []
    first, *_, last = ranked(llm, "Tell a story.")
    for _ in range(12):
        learner.record_comparison("dave", QUESTION, better=first, worse=last)
        learner.record_comparison("erin", QUESTION, better=last, worse=first)
        learner.record_comparison("fred", QUESTION, better=first, worse=first)
    assert [proposal.weight < 0 for proposal in learner.propose("erin")] == [True]
    assert learner.propose("fred") == []
    more = FeedbackLearner(llm, memory, candidates=["Tell a story.", "Sing."])  # "Sing." has no evidence
    assert [proposal.text for proposal in more.propose("dave")] == ["Tell a story."]
    proposals = learner.propose("dave")
    assert "Tell a story." in [proposal.text for proposal in proposals if proposal.weight > 0]
    assert all(proposal.source == "learned" for proposal in proposals)
    assert memory.recall("dave") == []
    for proposal in proposals:
        memory.remember("dave", proposal)
    assert learner.propose("dave") == []


async def test_async_equals_sync(llm, memory):
    async_memory = PreferenceMemory(InMemoryStore())
    async_memory.import_("alice", memory.export("alice"))
    learner = FeedbackLearner(llm, memory, candidates=["Tell a story."])
    async_learner = FeedbackLearner(llm, async_memory, candidates=["Tell a story."])
    learner.record("alice", QUESTION, ANSWERS[0], liked=True)
    learner.record_comparison("alice", QUESTION, ANSWERS[1], ANSWERS[2])
    await async_learner.arecord("alice", QUESTION, ANSWERS[0], liked=True)
    await async_learner.arecord_comparison("alice", QUESTION, ANSWERS[1], ANSWERS[2])
    assert weights(async_memory) == pytest.approx(weights(memory))
    assert (await async_learner.aexplain("alice")).weights == learner.explain("alice").weights
    first, *_, last = ranked(llm, "Tell a story.")
    for _ in range(12):
        learner.record_comparison("dave", QUESTION, first, last)
        await async_learner.arecord_comparison("dave", QUESTION, first, last)
    assert await async_learner.apropose("dave") == learner.propose("dave") != []


def test_feedback_survives_a_restart(llm, tmp_path):
    explanations = []
    for run in range(2):
        with SqliteStore.from_conn_string(str(tmp_path / "memory.db")) as store:
            memory = PreferenceMemory(store)
            if run == 0:
                memory.remember("alice", BRIEF)
                FeedbackLearner(llm, memory).record("alice", QUESTION, ANSWERS[0], liked=True)
            explanations.append(FeedbackLearner(llm, memory).explain("alice"))
    assert explanations[0] == explanations[1]


def test_feedback_of_many_threads_is_stored_completely(learner):
    with ThreadPoolExecutor(8) as threads:
        ids = [*threads.map(lambda i: learner.record("alice", QUESTION, ANSWERS[i % 5], liked=i % 2 == 0), range(16))]
    explanation = learner.explain("alice")
    assert {effect.feedback_id for effect in explanation.feedback} == set(ids)


def test_forgetting_a_user_forgets_their_feedback(memory, learner):
    learner.record("alice", QUESTION, ANSWERS[0], liked=True)
    memory.forget_user("alice")
    assert learner.explain("alice") == Explanation([], [], 0.0)


def test_feedback_does_not_bring_back_a_forgotten_preference(memory, learner):
    learner.record("alice", QUESTION, ANSWERS[0], liked=True)
    memory.forget("alice", BRIEF)
    learner.record("alice", QUESTION, ANSWERS[0], liked=True)
    assert [*weights(memory)] == [KIND]


@pytest.fixture
def interrupted(memory, learner, monkeypatch):
    """Call a function while the weights for a piece of feedback are fitted."""

    def interrupt(during_fit) -> None:
        fit = learner._fit

        def interrupted_fit(data, *candidates):
            monkeypatch.setattr(learner, "_fit", fit)
            during_fit()
            return fit(data, *candidates)

        monkeypatch.setattr(learner, "_fit", interrupted_fit)
        learner.record("bob", QUESTION, ANSWERS[0], liked=True)

    memory.remember("bob", BRIEF)
    memory.remember("bob", KIND, -0.5)
    return interrupt


def test_preferences_forgotten_during_a_fit_do_not_come_back(memory, interrupted):
    interrupted(lambda: memory.forget("bob", BRIEF))
    assert [*weights(memory, "bob")] == [KIND]
    assert key_of(BRIEF) not in json.dumps(memory.export("bob"))
    interrupted(lambda: memory.forget_user("bob"))
    assert {name: value for name, value in memory.export("bob").items() if isinstance(value, dict) and value} == {}


def test_weights_stated_during_a_fit_are_kept(memory, interrupted):
    interrupted(lambda: memory.update("bob", BRIEF, weight=-1.0))
    assert weights(memory, "bob")[BRIEF] == -1.0
    interrupted(lambda: memory.update("bob", KIND, new_text="Be rude."))
    assert weights(memory, "bob")["Be rude."] == -0.5


def test_concurrent_learners_do_not_take_learned_weights_for_stated_ones(memory, learner, interrupted):
    interrupted(lambda: learner.record("bob", QUESTION, ANSWERS[1], liked=False))
    learner.record("bob", QUESTION, ANSWERS[2], liked=True)
    explanation = learner.explain("bob")
    ratio = explanation.weights[1].start / explanation.weights[0].start
    assert ratio == pytest.approx(-0.5)  # the ratio of the stated weights
    assert weights(memory, "bob") == {report.preference.text: report.fitted_weight for report in explanation.weights}


def test_restating_the_original_weight_resets_the_learned_one(memory, learner):
    memory.remember("bob", BRIEF, 0.25)
    learner.record("bob", QUESTION, ANSWERS[0], liked=True)
    assert weights(memory, "bob") != {BRIEF: 0.25}
    memory.remember("bob", BRIEF, 0.25)
    assert weights(memory, "bob") == {BRIEF: 0.25}
    learner.record("bob", QUESTION, ANSWERS[0], liked=True)
    memory.update("bob", BRIEF, weight=0.25)
    assert weights(memory, "bob") == {BRIEF: 0.25}


def test_updating_other_fields_keeps_the_learned_weight(memory, learner):
    learner.record("alice", QUESTION, ANSWERS[0], liked=True)
    learned = weights(memory)[BRIEF]
    assert memory.update("alice", BRIEF, source="stated") == Preference(BRIEF, learned, "stated")
    assert weights(memory)[BRIEF] == learned


def test_forgetting_a_preference_deletes_its_evidence(memory, learner):
    learner.record("alice", QUESTION, ANSWERS[0], liked=True)
    learner.record("alice", QUESTION, ANSWERS[1], liked=False)
    memory.forget("alice", BRIEF)
    stored = json.dumps(memory.export("alice"))
    assert key_of(KIND) in stored
    assert key_of(BRIEF) not in stored
    assert len(learner.explain("alice").feedback) == 2


def test_feedback_is_exported_and_imported(memory, learner):
    learner.record("alice", QUESTION, ANSWERS[0], liked=True)
    memory.import_("bob", memory.export("alice"))
    assert learner.explain("bob") == learner.explain("alice")
    assert weights(memory, "bob") == weights(memory)


def test_outdated_feedback_is_deleted(llm, memory):
    learner = FeedbackLearner(llm, memory, config=LearningConfig(half_life=0.2))
    ids = [learner.record("alice", QUESTION, ANSWERS[i % 5], liked=True) for i in range(7)]
    assert [effect.feedback_id for effect in learner.explain("alice").feedback] == ids[-4:]
    assert [*memory.export("alice")["preference_feedback"]] == ids[-4:]


def test_explanations_without_feedback_show_the_effective_weights(memory, learner):
    memory.remember("bob", BRIEF, 0.5)
    memory.remember("bob", KIND, 0.0, source="learned")
    brief, kind = learner.explain("bob").weights
    assert (brief.fitted_weight, brief.start, kind.fitted_weight) == (0.5, 0.5, 0.0)
    assert all(report.std_error > 0.1 for report in learner.explain("alice").weights)


def test_duplicate_items_of_other_programs_count_once(llm):
    store = InMemoryStore()
    for key in "ab":
        store.put(("memories", "alice"), key, {"content": BRIEF})
        store.put(("preferences", "alice"), key, {"text": KIND, "weight": 0.5})
    memory = PreferenceMemory(store, langmem_namespace=("memories", "{langgraph_user_id}"))
    FeedbackLearner(llm, memory).record("alice", QUESTION, ANSWERS[0], liked=True)
    assert [*weights(memory)] == [BRIEF, KIND]
    assert 0.5 not in weights(memory).values()


async def test_async_learners_fit_in_a_thread(learner, monkeypatch):
    fit, threads = learner._fit, []
    monkeypatch.setattr(learner, "_fit", lambda *args: threads.append(threading.get_ident()) or fit(*args))
    await learner.arecord("alice", QUESTION, ANSWERS[0], liked=True)
    await learner.aexplain("alice")
    await learner.apropose("alice")
    assert len(threads) == 3
    assert threading.get_ident() not in threads


def test_explain_times_out_if_the_store_is_stuck(llm):
    class Stuck(InMemoryStore):
        def batch(self, ops):
            time.sleep(0.5)
            return super().batch(ops)

    learner = FeedbackLearner(llm, PreferenceMemory(Stuck(), read_timeout=0.05))
    with pytest.raises(StoreTimeoutError):
        learner.explain("alice")


def test_fits_are_not_added_to_the_history(memory, learner):
    before = memory.history("alice")
    learner.record("alice", QUESTION, ANSWERS[0], liked=True)
    assert memory.history("alice") == before


def test_an_empty_response_is_refused_and_nothing_is_stored(learner):
    with pytest.raises(InvalidParameterError):
        learner.record("alice", QUESTION, "", liked=True)
    assert learner.explain("alice").feedback == []


def test_a_read_only_memory_is_refused(llm):
    with pytest.raises(StoreTypeError, match="can be written"):
        FeedbackLearner(llm, PreferenceMemory({"alice": BRIEF}))


def test_weights_follow_faster_with_a_shorter_half_life(llm, memory):
    first, *_, last = ranked(llm, BRIEF)
    for user_id, half_life in (("slow", 100.0), ("fast", 1.0)):
        memory.remember(user_id, Preference(BRIEF, 0.0, "learned"))
        learner = FeedbackLearner(llm, memory, config=LearningConfig(half_life=half_life))
        for better, worse in ((first, last), (first, last), (last, first)):
            learner.record_comparison(user_id, QUESTION, better=better, worse=worse)
    assert weights(memory, "fast")[BRIEF] < weights(memory, "slow")[BRIEF]


def test_without_scipy_the_error_names_the_extra():
    script = "import sys; sys.modules['scipy'] = None; import langchain_amulet.feedback.bradley_terry"
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert "pip install 'langchain-amulet[feedback]'" in run.stderr
