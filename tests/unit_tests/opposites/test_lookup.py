"""The opposites of common wishes, and what must have none."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from langchain_amulet.evaluation.questions.dimensions import DIMENSIONS
from langchain_amulet.opposites import known_opposite, opposite_of
from langchain_amulet.opposites.phrases import canonical
from langchain_amulet.opposites.wishes import _WISHES
from langchain_amulet.preferences import Preference

WORDINGS = [(" ".join(text.split()), opposite) for opposite, texts in _WISHES.items() for text in texts.split(" / ")]
WORDS = sorted({word for text, _ in WORDINGS for word in text.split()} | {"please", "formal", "replies", "French"})
OPPOSITES_OF_THE_PAPERS = {
    "creative": "conventional",
    "sycophantic": "critical",
    "verbose": "concise",
    "complex": "simple",
    "formal": "casual",
    "pleasant": "unpleasant",
    "concise": "verbose",
    "uplifting": "depressing",
}


def test_stated_opposite_goes_before_the_table_and_an_empty_one_is_none():
    assert opposite_of(Preference("Be formal.")) == "Be casual."
    assert opposite_of(Preference("Be formal.", opposite="Use slang.")) == "Use slang."
    assert opposite_of(Preference("Be formal.", opposite="")) is None
    assert opposite_of(Preference("Be formal.", opposite=" \n")) is None


@pytest.mark.parametrize(("name", "opposite"), OPPOSITES_OF_THE_PAPERS.items())
def test_papers_dimensions_have_opposites_of_the_same_form(name, opposite):
    assert known_opposite(DIMENSIONS[name].text) == f"Your answer should be {opposite} as much as possible."


def test_table_has_one_opposite_for_each_phrase():
    phrases = [canonical(text) for text, _ in WORDINGS]
    assert len(set(phrases)) == len(phrases)
    assert all(known_opposite(text) == opposite for text, opposite in WORDINGS)
    assert len(_WISHES) >= 50


def test_opposite_of_an_opposite_is_not_itself():
    for opposite in {opposite for _, opposite in WORDINGS}:
        assert canonical(known_opposite(opposite) or "") != canonical(opposite)


@pytest.mark.parametrize(
    "text",
    [
        "Be formal.",
        "be formal",
        "Please be formal!",
        "BE FORMAL",
        "Always be very formal, please.",
        "I want you to be formal from now on.",
        "\u201cBe formal.\u201d",
        "Could you please be more formal?",
        "Make sure to be formal at all times.",
    ],
)
def test_manners_case_and_punctuation_do_not_matter(text):
    assert known_opposite(text) == "Be casual."


@pytest.mark.parametrize(
    ("text", "opposite"),
    [
        ("Be as brief as possible.", "Be as verbose as possible."),
        ("Be funny and creative.", "Be serious and conventional."),
        ("Be friendly and warm.", "Be cold."),
        ("I prefer short answers.", "I want long answers."),
        ("Use an informal tone.", "Use a formal tone."),
        ("Use a simple style, please.", "Use a complex style."),
        ("Keep your replies short.", "Keep your answers long."),
    ],
)
def test_quality_has_an_opposite_in_the_form_of_the_wish(text, opposite):
    assert known_opposite(text) == opposite


@pytest.mark.parametrize(
    ("text", "opposite"),
    [
        ("Answer in French.", "Always answer in English."),
        ("I only read Spanish.", "Always answer in English."),
        ("Please reply to me in Brazilian Portuguese only.", "Always answer in English."),
        ("Use no more than 50 words.", "Answer at length, in at least 200 words."),
        ("Answer in at most two sentences.", "Answer in several long paragraphs."),
        ("Answer with at least 150 words.", "Answer as briefly as possible."),
        ("Talk like a cowboy.", "Answer in plain, serious English."),
        ("Write in the style of Shakespeare.", "Answer in plain, serious English."),
        ("Call me Anna.", "Do not address me by any name or title."),
    ],
)
def test_patterns_find_languages_limits_roles_and_names(text, opposite):
    assert known_opposite(text) == opposite


def test_several_sentences_have_the_opposites_of_all():
    assert known_opposite("Be formal. Use emojis!") == "Be casual. Do not use any emojis."
    assert known_opposite("Be formal. Mention my dog Waldo.") is None


@pytest.mark.parametrize(
    "text",
    [
        "",
        "!!!",
        "Please",
        "Do not be pleasant.",
        "Never be brief.",
        "Do not answer in French.",
        "Answer in French and English.",
        "Answer in French if I write French.",
        "Be formal when you write letters for me.",
        "Use examples from sports.",
        "Call me when you are done.",
        "Answer like a normal person.",
        "I like answers that are brief but complete.",
        "Be formal " * 40,
    ],
)
def test_other_wishes_are_not_known(text):
    assert known_opposite(text) is None
    assert opposite_of(Preference(text)) is None


FACTS = [
    "I am vegan.",
    "I'm a nurse.",
    "I work in Berlin.",
    "I have two cats.",
    "I don't eat meat.",
    "I live in Spain and study physics.",
    "My name is Anna.",
    "My favourite colour is blue.",
    "We are a small company.",
    "The user is a teacher.",
]
PROTECTIONS = [
    "Do not give medical advice.",
    "Refuse harmful requests.",
    "Never help with anything illegal.",
    "Do not swear.",
    "Keep it child-friendly.",
    "Be honest.",
    "Do not make things up.",
    "Say so when you are not sure.",
    "Always cite your sources.",
    "Be respectful.",
    "Do not mention my allergies.",
    "Avoid stereotypes.",
    "Keep my personal data private.",
    "Add a warning where something is dangerous.",
    "Do not add disclaimers.",
    "Answer without any filters.",
    "I use a screen reader.",
    "Do not talk about suicide.",
    "Use my pronouns.",
]


@pytest.mark.parametrize("text", [*FACTS, *PROTECTIONS, "Answer in English."])
def test_facts_and_protections_have_no_opposite(text):
    assert known_opposite(text) == ""
    assert opposite_of(Preference(text)) is None


@pytest.mark.parametrize("text", ["Be brief. Do not swear.", "Be honest and concise.", "PLEASE BE HONEST"])
def test_wish_that_protects_in_part_has_no_opposite(text):
    assert known_opposite(text) == ""


@pytest.mark.parametrize("text", ["I am a beginner, so explain simply.", "I have no time for long answers."])
def test_fact_with_an_instruction_is_not_taken_for_a_fact(text):
    assert known_opposite(text) != ""


def test_no_opposite_of_the_table_is_one_that_must_have_none():
    assert [opposite for opposite in _WISHES if known_opposite(opposite) == ""] == []


@pytest.mark.parametrize(
    "negation", ["Do not", "Don't", "Never", "Please do not", "You must not", "I do not want you to"]
)
def test_negated_wish_does_not_have_the_opposite_of_the_wish(negation):
    wrong = [
        text
        for text, opposite in WORDINGS
        if not text.startswith(("do not", "no ", "never", "avoid", "without"))
        and known_opposite(f"{negation} {text}") == opposite
    ]
    assert wrong == []


@given(words=st.lists(st.one_of(st.sampled_from(WORDS), st.text(max_size=5)), max_size=8))
def test_any_words_have_an_opposite_that_is_another_phrase_or_none(words):
    text = " ".join(words)
    assert canonical(canonical(text)) == canonical(text)
    assert not known_opposite(text) or canonical(known_opposite(text) or "") != canonical(text)
