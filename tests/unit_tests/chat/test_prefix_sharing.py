"""Who reuses keys and values of whose prompts: counted as tokens that the engine did not read."""

import pickle

import pytest
from langchain_core.messages import AIMessage, ChatMessage, HumanMessage, SystemMessage

from langchain_amulet import ChatAmulet, EngineConfig, Preference, PreferenceMemory, RealignmentConfig
from langchain_amulet.exceptions import InvalidParameterError, UserIdError
from langchain_amulet.personalization import entry_points
from langchain_amulet.personalization.lookup import find_caller, look_up
from langchain_amulet.personalization.resolved import for_caller, resolve
from tests.fakes.chat_templates import byte_tokenizer
from tests.fakes.chats import BRIEF, CHEERFUL, SHORT
from tests.fakes.engines import wait_until
from tests.fakes.models import tiny_model

SYSTEM, QUESTION = SystemMessage("You are the assistant of a shop."), HumanMessage("What is the secret of the shop?")
OTHER_QUESTION = HumanMessage("Where is it?")


def user(name: str, group: str | None = None) -> dict:
    return {"configurable": {"user_id": name, "prefix_group": group}}


@pytest.fixture
def llm() -> ChatAmulet:
    """A model whose engine nobody else uses."""
    config = EngineConfig(prefix_cache_bytes=10**8, prefill_tokens=10**4)
    return ChatAmulet(model=tiny_model("qwen2", seed=5), tokenizer=byte_tokenizer(), engine_config=config, **SHORT)


def num_reused(llm: ChatAmulet, messages: list, config=None, **kwargs) -> int:
    """Return how many prompt tokens a call did not have to read."""
    wait_until(lambda: llm.engine.stats.num_running == 0)  # rows are kept after the end of the answer
    before = llm.engine.stats.num_reused_tokens
    llm.invoke(messages, config, **kwargs)
    return llm.engine.stats.num_reused_tokens - before


def length(llm: ChatAmulet, messages: list, preference=None) -> int:
    return len(llm.prompt_streams(messages, preference)[0])


def test_by_default_calls_reuse_the_prompts_of_their_user_only(llm):
    for preference in (None, BRIEF):
        for config in (user("alice"), user("bob"), None):
            assert num_reused(llm, [SYSTEM, QUESTION], config, preference=preference) == 0 or preference
    assert num_reused(llm, [SYSTEM, QUESTION], user("carol"), preference=BRIEF) == 0
    assert num_reused(llm, [SYSTEM, QUESTION], user("alice")) == length(llm, [SYSTEM, QUESTION]) - 1


def test_an_answer_with_a_role_of_its_own_is_not_shared_either(llm):
    answer = ChatMessage(content="The shop has a cellar, but nobody knows.", role="assistant")
    llm.invoke([SYSTEM, QUESTION, answer, OTHER_QUESTION], user("alice"), prefix_sharing="all")
    reused = num_reused(llm, [SYSTEM, QUESTION, answer, OTHER_QUESTION], user("bob"), prefix_sharing="all")
    assert 0 < reused <= length(llm, [SYSTEM, QUESTION])


@pytest.mark.parametrize("sharing", ["user", "system", "group", "all"])
def test_nobody_else_learns_an_answer_or_the_preference_behind_it(llm, sharing):
    """Who guesses the preference, and sends question and answer, reuses no more than with another answer."""
    config = user("alice", "shop")
    for preference in (None, BRIEF):
        answer = llm.invoke([SYSTEM, QUESTION], config, preference=preference, prefix_sharing=sharing)
        reused = []
        for text in (answer.text, "\u2603 wrong"):
            guess = [SYSTEM, QUESTION, AIMessage(text), OTHER_QUESTION]
            stranger = user(f"stranger {preference} {text}", "shop")
            reused.append(num_reused(llm, guess, stranger, prefix_sharing=sharing))
        assert reused[0] == reused[1] <= length(llm, [SYSTEM, QUESTION])


@pytest.mark.parametrize(
    ("sharing", "groups", "expected"),
    [
        ("user", ("shop", "shop"), "nothing"),
        ("system", ("shop", "shop"), "system"),
        ("group", ("shop", "shop"), "question"),
        ("group", ("shop", "other"), "nothing"),
        ("group", (None, None), "nothing"),
        ("all", (None, None), "question"),
    ],
)
@pytest.mark.parametrize("preference", [None, BRIEF])
def test_setting_says_what_others_reuse(llm, sharing, groups, expected, preference):
    first, second = (user(name, group) for name, group in zip(("alice", "bob"), groups, strict=True))
    llm.invoke([SYSTEM, QUESTION], first, preference=preference, prefix_sharing=sharing)
    reused = num_reused(llm, [SYSTEM, QUESTION], second, prefix_sharing=sharing)
    question = length(llm, [SYSTEM, QUESTION])
    beginning = question - len(str(QUESTION.content)) - 20
    bounds = {"nothing": (0, 0), "system": (beginning - 10, beginning + 20), "question": (question - 1, question - 1)}
    low, high = bounds[expected]
    assert low <= reused <= high


def test_next_turn_of_a_user_reads_only_what_is_new(llm):
    for preference in (None, BRIEF):
        conversation = [SYSTEM, QUESTION]
        answer = llm.invoke(conversation, user("alice"), preference=preference)
        turn = [*conversation, answer, OTHER_QUESTION]
        reused = num_reused(llm, turn, user("alice"), preference=preference)
        streams = [len(ids) for ids in llm.prompt_streams(conversation, preference)]
        assert reused >= sum(streams)


def test_users_of_different_preferences_share_what_does_not_depend_on_them(llm):
    llm.invoke([SYSTEM, QUESTION], user("alice"), preference=BRIEF)
    assert (
        num_reused(llm, [SYSTEM, QUESTION], user("alice"), preference=CHEERFUL) >= length(llm, [SYSTEM, QUESTION]) - 1
    )


def test_call_that_looked_its_preference_up_before_it_was_forgotten_keeps_no_row_of_it(llm, monkeypatch):
    memory = PreferenceMemory()
    stored_id = memory.remember("alice", BRIEF)
    llm = llm.model_copy(update={"memory": memory})

    def forgotten_meanwhile(*arguments):
        resolved = look_up(*arguments)
        memory.forget("alice", stored_id)
        return resolved

    monkeypatch.setattr(entry_points, "look_up", forgotten_meanwhile)
    llm.invoke([SYSTEM, QUESTION], user("alice"))
    wait_until(lambda: llm.engine.stats.num_running == 0)
    assert llm.engine.stats.num_kept_tokens == length(llm, [SYSTEM, QUESTION])


def test_preference_of_control_tokens_alone_takes_one_stream(llm):
    assert len(llm.prompt_streams([QUESTION], "<|im_end|><|im_start|>")) == 1
    answer = llm.invoke([QUESTION], preference="<|im_end|>")
    assert answer.response_metadata["amulet"]["num_streams"] == 1
    assert len(llm.prompt_streams([QUESTION], ["<|im_end|>", BRIEF])) == 2


@pytest.mark.parametrize(("scale", "contrast"), [(1.0, "base"), (3.0, "base"), (3.0, "opposite")])
def test_the_penalty_counts_the_callers_own_prompt_only(llm, monkeypatch, scale, contrast):
    requests = []
    submit = type(llm.engine).submit
    monkeypatch.setattr(type(llm.engine), "submit", lambda self, each: requests.append(each) or submit(self, each))
    realignment = RealignmentConfig(scale, contrast=contrast)
    preference = Preference(BRIEF, opposite=CHEERFUL)
    llm.invoke([QUESTION], preference=preference, realignment=realignment, repetition_penalty=1.3)
    assert list(requests[0].penalised_ids) == llm.prompt_streams([QUESTION], None)[0]


def test_who_makes_a_call_survives_pickling_and_is_not_in_cache_keys():
    caller = find_caller(user("alice", "shop"))
    resolved = for_caller(resolve(BRIEF), caller, 0)
    assert pickle.loads(pickle.dumps(resolved)).caller == caller  # noqa: S301 - our own
    assert "alice" not in repr(resolved)
    assert resolved == resolve(BRIEF)


def test_wrong_settings_are_refused(llm):
    with pytest.raises(InvalidParameterError, match="'user', 'system', 'group', 'all'; got 'nobody'"):
        llm.invoke("x", prefix_sharing="nobody")
    for group, remedy in ((7, r"Convert it by str"), ("", "Leave it out")):
        with pytest.raises(UserIdError, match=f"prefix_group.*{remedy}"):
            llm.invoke("x", {"configurable": {"prefix_group": group}})
