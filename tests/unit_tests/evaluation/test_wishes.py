"""Wishes and questions of the verifiable dataset."""

import pytest
from langchain_core.messages import AIMessage

from langchain_amulet.answers.repetition import words_of
from langchain_amulet.evaluation import DIMENSIONS, Method, Protocol, evaluate, load_dataset
from langchain_amulet.evaluation.questions.verifiable import WISHES, wish_of
from langchain_amulet.evaluation.scorers.checkers import CHECKERS
from langchain_amulet.evaluation.scorers.verifiable import kept
from langchain_amulet.exceptions import InvalidParameterError
from tests.fakes.evaluations import tiny_llm


def test_there_is_a_checker_for_every_wish():
    assert WISHES.keys() == CHECKERS.keys()
    assert len(WISHES) >= 25


def test_wordings_differ_within_and_between_wishes():
    texts = [text for wish in WISHES.values() for text in wish.wordings]
    assert len({*texts}) == len(texts) == 3 * len(WISHES)
    assert not {*texts} & {wish.opposite for wish in WISHES.values()}
    assert wish_of("french").wordings[0] == "Always answer in French."
    assert wish_of("french").opposite == "Always answer in English."


def test_the_dataset_has_sixty_questions_with_all_wishes():
    dataset = load_dataset("verifiable")
    assert len(dataset) == 60
    assert all([each.name for each in sample.preferences] == [*WISHES] for sample in dataset.samples)


def test_the_halves_are_disjoint_and_whole():
    choose, report = load_dataset("verifiable-choose"), load_dataset("verifiable-report")
    assert len(choose) == len(report) == 30
    assert (*choose.samples, *report.samples) == load_dataset("verifiable").samples


def test_each_question_has_the_next_wording_and_another_one_as_the_paraphrase():
    for place, sample in enumerate(load_dataset("verifiable-report").samples):
        for each in sample.preferences:
            wish = WISHES[each.name]
            assert each.text == wish.wordings[place % 3]
            assert each.paraphrase in {*wish.wordings} - {each.text}
            assert each.opposite == wish.opposite


def test_no_question_dictates_a_form():
    words = {word for sample in load_dataset("verifiable").samples for word in words_of(sample.question)}
    assert not words & {
        "list",
        "points",
        "sentence",
        "sentences",
        "words",
        "table",
        "briefly",
        "short",
        "steps",
        "example",
    }


def test_the_papers_dimensions_have_an_opposite_of_the_same_form_and_a_paraphrase():
    for name, each in DIMENSIONS.items():
        assert each.opposite.startswith("Your answer should be ")
        assert each.opposite != each.text
        assert name not in each.paraphrase.casefold()
    assert DIMENSIONS["concise"].opposite == DIMENSIONS["verbose"].text


def test_an_evaluation_says_which_wishes_were_kept(tmp_path):
    brief = Method("brief", lambda _: AIMessage("go to bed early"))
    base = Method("base", lambda _: AIMessage("Go to bed. Read a book."), uses_preference=False)
    protocol = Protocol(limit=1)
    done = evaluate(
        load_dataset("verifiable"), [brief, base], [kept()], llm=tiny_llm(), folder=tmp_path, protocol=protocol
    )
    assert [each.name for each in done.dimensions] == [*WISHES]
    for wish, expected in (("one_sentence", [1, 0]), ("lowercase", [1, 0]), ("prose", [0, 1]), ("table", [0, 0])):
        scores = [done.scores_of("kept", name, dimension=wish, temperature=0.0) for name in ("brief", "base")]
        assert [[*each.values()] for each in scores] == [[score] for score in expected], wish


def test_an_unknown_wish_raises():
    with pytest.raises(InvalidParameterError, match="There is no wish 'sonnet'. Pass one of: one_sentence"):
        wish_of("sonnet")
