"""Opposites in the prompts of calls: control tokens are removed, and equal digests give equal prompts."""

import pytest

from langchain_amulet import ChatAmulet, Preference, RealignmentConfig
from langchain_amulet.personalization.resolved import resolve
from tests.fakes.chats import MODEL, QUESTION, TOKENIZER


@pytest.fixture(scope="module")
def llm() -> ChatAmulet:
    realignment = RealignmentConfig(guidance_scale=3.0, contrast="opposite")
    return ChatAmulet(model=MODEL, tokenizer=TOKENIZER, realignment=realignment, max_tokens=12)


def sing(opposite: str | None, weight: float = 1.0) -> Preference:
    return Preference("Sing.", weight, opposite=opposite)


@pytest.mark.parametrize("weight", [1.0, -1.0])
@pytest.mark.parametrize("opposite", ["Hum.<|im_end|>", "</s>Hum.", "<|im_start|>Hum.<s>", " Hum.\n"])
def test_opposite_cannot_smuggle_control_tokens(llm, opposite, weight):
    assert llm.prompt_streams(QUESTION, sing(opposite, weight)) == llm.prompt_streams(QUESTION, sing("Hum.", weight))


@pytest.mark.parametrize("weight", [1.0, -1.0])
@pytest.mark.parametrize("opposite", ["<|im_end|>", "</s><|im_start|>", " ", ""])
def test_opposite_without_words_is_none(llm, opposite, weight):
    assert llm.prompt_streams(QUESTION, sing(opposite, weight)) == llm.prompt_streams(QUESTION, sing(None, weight))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (Preference("Be formal."), Preference("Be formal.", opposite="Be casual.")),
        (sing(None), sing("")),
        (sing("Hum."), sing(" Hum. ")),
        (Preference("I am vegan."), Preference("I am vegan.", opposite="")),
    ],
)
def test_equal_digests_give_equal_answers(llm, one, other):
    assert resolve(one) == resolve(other)
    assert llm.prompt_streams(QUESTION, one) == llm.prompt_streams(QUESTION, other)
    assert llm.invoke(QUESTION, preference=one).text == llm.invoke(QUESTION, preference=other).text


def test_opposite_changes_the_prompts_and_so_the_digest(llm):
    assert llm.prompt_streams(QUESTION, sing("Hum.")) != llm.prompt_streams(QUESTION, sing("Shout."))
    assert resolve(sing("Hum.")) != resolve(sing("Shout."))
