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
    return {each.text: each.weight for each in memory.recall(user_id)}


def ranked(llm: ChatAmulet, text: str) -> list[str]:
    """Answers, those first that a preference makes likeliest."""
    return sorted(ANSWERS, key=lambda answer: -llm.evidence(QUESTION, answer, [text])[0])


def test_who_prefers_what_a_preference_favours_gets_it_a_positive_weight(llm, memory, learner):
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


def test_nobody_elses_weights_move(memory, learner):
    memory.remember("bob", BRIEF, 0.25)
    learner.record_comparison("alice", QUESTION, better=ANSWERS[0], worse=ANSWERS[1])
    assert weights(memory, "bob") == {BRIEF: 0.25}


def test_what_was_judged_is_not_kept(memory, learner):
    learner.record("alice", "My secret question?", "A secret answer.", liked=True)
    kept = json.dumps([item.value for item in memory.store.search(("preference_feedback", "alice"), limit=100)])
    assert "liked" in kept
    assert all(word not in kept for word in ("secret", "Be brief", "Be kind"))


def test_explanations_sum_up_to_the_weights(memory, learner):
    ids = [
        learner.record_comparison("alice", QUESTION, better=ANSWERS[0], worse=ANSWERS[1]),
        learner.record("alice", QUESTION, ANSWERS[2], liked=False),
        learner.record("alice", QUESTION, ANSWERS[3], liked=True),
    ]
    told = learner.explain("alice")
    assert [each.feedback_id for each in told.feedback] == ids
    assert [each.kind for each in told.feedback] == ["comparison", "disliked", "liked"]
    assert {each.preference.text: each.preference.weight for each in told.weights} == weights(memory)
    assert {each.preference.text: each.fitted_weight for each in told.weights} == pytest.approx(weights(memory))
    for report in told.weights:
        moved = sum(each.effects[report.preference.text] for each in told.feedback)
        assert report.start + moved == pytest.approx(report.preference.weight, abs=1e-4)
        assert report.std_error > 0
    assert told.confidence == pytest.approx(max(map(abs, weights(memory).values())))


def test_explanations_show_no_text_where_they_are_printed(learner):
    learner.record("alice", QUESTION, ANSWERS[2], liked=True)
    assert "brief" not in repr(learner.explain("alice"))


def test_who_has_said_what_they_prefer_starts_from_there(memory, learner):
    memory.remember("bob", BRIEF)
    memory.remember("bob", KIND, -0.5)
    learner.record("bob", QUESTION, ANSWERS[0], liked=True)
    told = learner.explain("bob")
    assert told.weights[0].start > 0.5
    assert told.weights[0].preference.source == "stated"
    assert weights(memory, "bob")[BRIEF] > 0.5
    assert weights(memory, "bob")[KIND] < 0


def test_weights_that_were_learned_are_not_mistaken_for_stated_ones(llm, memory, learner):
    memory.remember("bob", BRIEF)
    first, *_, last = ranked(llm, BRIEF)
    for _ in range(30):
        learner.record_comparison("bob", QUESTION, better=last, worse=first)
    turned = learner.explain("bob").weights[0]
    assert turned.preference.weight < 0 < turned.start


def test_a_weight_that_the_user_states_anew_is_where_they_start_from(memory, learner):
    memory.remember("bob", BRIEF)
    learner.record("bob", QUESTION, ANSWERS[0], liked=True)
    memory.update("bob", BRIEF, weight=-1.0)
    learner.record("bob", QUESTION, ANSWERS[0], liked=True)
    assert learner.explain("bob").weights[0].start < 0


def test_feedback_before_any_preference_is_kept_and_harmless(learner):
    learner.record("carol", QUESTION, ANSWERS[0], liked=True)
    assert learner.explain("carol") == Explanation([], learner.explain("carol").feedback, 0.0)
    assert len(learner.explain("carol").feedback) == 1


def test_candidates_are_proposed_once_feedback_speaks_for_them(llm, memory):
    learner = FeedbackLearner(llm, memory, candidates=["Tell a story."])
    assert learner.propose("dave") == []
    first, *_, last = ranked(llm, "Tell a story.")
    for _ in range(12):
        learner.record_comparison("dave", QUESTION, better=first, worse=last)
        learner.record_comparison("erin", QUESTION, better=last, worse=first)
        learner.record_comparison("fred", QUESTION, better=first, worse=first)
    assert [each.weight < 0 for each in learner.propose("erin")] == [True]
    assert learner.propose("fred") == []
    more = FeedbackLearner(llm, memory, candidates=["Tell a story.", "Sing."])  # of which nothing is known
    assert [each.text for each in more.propose("dave")] == ["Tell a story."]
    proposals = learner.propose("dave")
    assert "Tell a story." in [each.text for each in proposals if each.weight > 0]
    assert all(each.source == "learned" for each in proposals)
    assert memory.recall("dave") == []
    for each in proposals:
        memory.remember("dave", each)
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
    told = []
    for run in range(2):
        with SqliteStore.from_conn_string(str(tmp_path / "memory.db")) as store:
            memory = PreferenceMemory(store)
            if run == 0:
                memory.remember("alice", BRIEF)
                FeedbackLearner(llm, memory).record("alice", QUESTION, ANSWERS[0], liked=True)
            told.append(FeedbackLearner(llm, memory).explain("alice"))
    assert told[0] == told[1]


def test_feedback_of_many_threads_is_all_kept(learner):
    with ThreadPoolExecutor(8) as threads:
        ids = [*threads.map(lambda i: learner.record("alice", QUESTION, ANSWERS[i % 5], liked=i % 2 == 0), range(16))]
    told = learner.explain("alice")
    assert {each.feedback_id for each in told.feedback} == set(ids)


def test_forgetting_a_user_forgets_their_feedback(memory, learner):
    learner.record("alice", QUESTION, ANSWERS[0], liked=True)
    memory.forget_user("alice")
    assert learner.explain("alice") == Explanation([], [], 0.0)


def test_a_forgotten_preference_does_not_come_back(memory, learner):
    learner.record("alice", QUESTION, ANSWERS[0], liked=True)
    memory.forget("alice", BRIEF)
    learner.record("alice", QUESTION, ANSWERS[0], liked=True)
    assert [*weights(memory)] == [KIND]


@pytest.fixture
def interrupted(memory, learner, monkeypatch):
    """Has others do something while the weights of a piece of feedback are fitted."""

    def interrupt(what_others_do) -> None:
        fit = learner._fit

        def interrupted_fit(known, *candidates):
            monkeypatch.setattr(learner, "_fit", fit)
            what_others_do()
            return fit(known, *candidates)

        monkeypatch.setattr(learner, "_fit", interrupted_fit)
        learner.record("bob", QUESTION, ANSWERS[0], liked=True)

    memory.remember("bob", BRIEF)
    memory.remember("bob", KIND, -0.5)
    return interrupt


def test_what_is_forgotten_while_weights_are_learned_does_not_come_back(memory, interrupted):
    interrupted(lambda: memory.forget("bob", BRIEF))
    assert [*weights(memory, "bob")] == [KIND]
    assert key_of(BRIEF) not in json.dumps(memory.export("bob"))
    interrupted(lambda: memory.forget_user("bob"))
    assert {name: value for name, value in memory.export("bob").items() if isinstance(value, dict) and value} == {}


def test_what_users_say_while_weights_are_learned_stands(memory, interrupted):
    interrupted(lambda: memory.update("bob", BRIEF, weight=-1.0))
    assert weights(memory, "bob")[BRIEF] == -1.0
    interrupted(lambda: memory.update("bob", KIND, new_text="Be rude."))
    assert weights(memory, "bob")["Be rude."] == -0.5


def test_learners_at_the_same_time_take_no_learned_weight_for_a_stated_one(memory, learner, interrupted):
    interrupted(lambda: learner.record("bob", QUESTION, ANSWERS[1], liked=False))
    learner.record("bob", QUESTION, ANSWERS[2], liked=True)
    told = learner.explain("bob")
    ratio = told.weights[1].start / told.weights[0].start
    assert ratio == pytest.approx(-0.5)  # as bob has stated them
    assert weights(memory, "bob") == {each.preference.text: each.fitted_weight for each in told.weights}


def test_a_weight_that_the_user_states_as_it_was_at_first_counts_again(memory, learner):
    memory.remember("bob", BRIEF, 0.25)
    learner.record("bob", QUESTION, ANSWERS[0], liked=True)
    assert weights(memory, "bob") != {BRIEF: 0.25}
    memory.remember("bob", BRIEF, 0.25)
    assert weights(memory, "bob") == {BRIEF: 0.25}
    learner.record("bob", QUESTION, ANSWERS[0], liked=True)
    memory.update("bob", BRIEF, weight=0.25)
    assert weights(memory, "bob") == {BRIEF: 0.25}


def test_changing_anything_but_weight_and_text_keeps_what_was_learned(memory, learner):
    learner.record("alice", QUESTION, ANSWERS[0], liked=True)
    learned = weights(memory)[BRIEF]
    assert memory.update("alice", BRIEF, source="stated") == Preference(BRIEF, learned, "stated")
    assert weights(memory)[BRIEF] == learned


def test_forgetting_a_preference_forgets_what_feedback_told_of_it(memory, learner):
    learner.record("alice", QUESTION, ANSWERS[0], liked=True)
    learner.record("alice", QUESTION, ANSWERS[1], liked=False)
    memory.forget("alice", BRIEF)
    kept = json.dumps(memory.export("alice"))
    assert key_of(KIND) in kept
    assert key_of(BRIEF) not in kept
    assert len(learner.explain("alice").feedback) == 2


def test_feedback_moves_with_its_user(memory, learner):
    learner.record("alice", QUESTION, ANSWERS[0], liked=True)
    memory.import_("bob", memory.export("alice"))
    assert learner.explain("bob") == learner.explain("alice")
    assert weights(memory, "bob") == weights(memory)


def test_feedback_that_counts_no_more_is_deleted(llm, memory):
    learner = FeedbackLearner(llm, memory, config=LearningConfig(half_life=0.2))
    ids = [learner.record("alice", QUESTION, ANSWERS[i % 5], liked=True) for i in range(7)]
    assert [each.feedback_id for each in learner.explain("alice").feedback] == ids[-4:]
    assert [*memory.export("alice")["preference_feedback"]] == ids[-4:]


def test_explanations_of_no_feedback_show_the_weights_that_count(memory, learner):
    memory.remember("bob", BRIEF, 0.5)
    memory.remember("bob", KIND, 0.0, source="learned")
    brief, kind = learner.explain("bob").weights
    assert (brief.fitted_weight, brief.start, kind.fitted_weight) == (0.5, 0.5, 0.0)
    assert all(each.std_error > 0.1 for each in learner.explain("alice").weights)


def test_memories_told_twice_by_another_program_count_once(llm):
    store = InMemoryStore()
    for key in "ab":
        store.put(("memories", "alice"), key, {"content": BRIEF})
        store.put(("preferences", "alice"), key, {"text": KIND, "weight": 0.5})
    memory = PreferenceMemory(store, langmem_namespace=("memories", "{langgraph_user_id}"))
    FeedbackLearner(llm, memory).record("alice", QUESTION, ANSWERS[0], liked=True)
    assert [*weights(memory)] == [BRIEF, KIND]
    assert 0.5 not in weights(memory).values()


async def test_async_learners_hold_up_nobody_while_they_fit(learner, monkeypatch):
    fit, threads = learner._fit, []
    monkeypatch.setattr(learner, "_fit", lambda *known: threads.append(threading.get_ident()) or fit(*known))
    await learner.arecord("alice", QUESTION, ANSWERS[0], liked=True)
    await learner.aexplain("alice")
    await learner.apropose("alice")
    assert len(threads) == 3
    assert threading.get_ident() not in threads


def test_explaining_a_store_that_is_stuck_ends_in_time(llm):
    class Stuck(InMemoryStore):
        def batch(self, ops):
            time.sleep(0.5)
            return super().batch(ops)

    learner = FeedbackLearner(llm, PreferenceMemory(Stuck(), read_timeout=0.05))
    with pytest.raises(StoreTimeoutError):
        learner.explain("alice")


def test_the_history_tells_of_what_users_said_and_not_of_every_fit(memory, learner):
    before = memory.history("alice")
    learner.record("alice", QUESTION, ANSWERS[0], liked=True)
    assert memory.history("alice") == before


def test_an_empty_response_is_refused_and_nothing_is_kept(learner):
    with pytest.raises(InvalidParameterError):
        learner.record("alice", QUESTION, "", liked=True)
    assert learner.explain("alice").feedback == []


def test_a_memory_that_cannot_be_written_is_refused(llm):
    with pytest.raises(StoreTypeError, match="can be written"):
        FeedbackLearner(llm, PreferenceMemory({"alice": BRIEF}))


def test_shorter_half_lives_follow_faster(llm, memory):
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
