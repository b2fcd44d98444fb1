"""`evaluate` on a tiny random model: who is asked what, shared answers, failures and refused arguments."""

from collections import defaultdict
from dataclasses import replace

import pytest
from langchain_core.messages import AIMessage

from langchain_amulet import ChatAmulet, RealignmentConfig
from langchain_amulet.evaluation import (
    Dataset,
    Dimension,
    Method,
    Protocol,
    Sample,
    Scorer,
    evaluate,
    paper_methods,
    realigned,
)
from langchain_amulet.evaluation.methods.ablations import ablation_methods
from langchain_amulet.exceptions import (
    InvalidParameterError,
    ModelLoadError,
)
from tests.fakes.evaluations import BRIEF, LENGTH, PROTOCOL, QUESTIONS, texts


def test_methods_with_equal_settings_are_run_once(run):
    evaluation = run()
    assert {evaluation.methods[name].decoding_key for name in ("linear alignment 2", "classifier-free guidance 3")} == {
        "w=3"
    }
    # base once per question and temperature; the other 9 distinct methods for both preferences as well
    assert len({answer.key for answer in evaluation.answers}) == 2 * 2 + 9 * 2 * 2 * 2


def test_methods_with_equal_decoding_keys_give_equal_answers_when_run_separately(run):
    every = [*paper_methods(), *ablation_methods(["num_iterations", "guards"])]
    shared = [method for method in every if method.decoding_key in ("w=3", "w=5.6487")]
    apart = [replace(method, name=f"{i}", decoding_key=f"{i}") for i, method in enumerate(shared)]
    assert len(apart) == 2 + 3
    evaluation = run(apart)
    for run_name in ("w=3", "w=5.6487"):
        names = [one.name for one, method in zip(apart, shared, strict=True) if method.decoding_key == run_name]
        for temperature in PROTOCOL.temperatures:
            assert len({repr(texts(evaluation, name, temperature)) for name in names}) == 1


def test_answers_equal_those_of_single_calls(run, llm):
    evaluation = run([*paper_methods()[:3]])
    for name, preference, realignment in (
        ("base", [], RealignmentConfig()),
        ("linear alignment 2", "Be brief.", RealignmentConfig.classifier_free_guidance(3.0)),
    ):
        alone = llm.invoke(
            [("system", "You are a helpful assistant."), ("human", "Why?")],
            preference=preference,
            realignment=realignment,
            temperature=0,
            max_tokens=8,
        )
        assert texts(evaluation, name)["two", "a"] == alone.text


def test_all_methods_receive_the_same_input(run):
    asked = defaultdict(list)

    def spy(name):
        def answer(ask):
            asked[name].append((repr(ask.messages), ask.preference, sorted(ask.sampling.items())))
            return AIMessage("x")

        return Method(name, answer)

    run([spy("one"), spy("two")])
    assert sorted(asked["one"]) == sorted(asked["two"])
    samplings = [dict(sampling) for *_, sampling in asked["one"]]
    assert {(each["temperature"], each["top_p"]) for each in samplings} == {(0.0, 1.0), (0.7, 0.95)}
    assert len({each["seed"] for each in samplings}) == len(QUESTIONS)


def test_failures_are_reported_and_tried_again(run):
    long = Dataset("long", (Sample("a", "Why? " * 100), Sample("b", "How?")))
    with pytest.warns(UserWarning, match="could not be generated: ContextLengthError"):
        evaluation = run(paper_methods()[:2], datasets=long)
    assert len(evaluation.failures) == 2 + 2 * 2
    assert texts(evaluation, "pref").keys() == {("long", "b")}
    with pytest.warns(UserWarning, match="could not be generated"):
        assert run(paper_methods()[:2], datasets=long).failures == evaluation.failures


def test_duplicate_names_raise(run):
    twice = [Dataset("q", (Sample("a", "Why?"),)), Dataset("q", (Sample("a", "How?"),))]
    with pytest.raises(InvalidParameterError, match="Two datasets"):
        run(datasets=twice)
    with pytest.raises(InvalidParameterError, match="Two preferences"):
        run(dimensions=[BRIEF, Dimension("concise", "Other.")])
    with pytest.raises(InvalidParameterError, match="Two scorers"):
        run(scorers=[Scorer("a b", len), Scorer("a-b", len)])


def test_a_loading_error_precedes_all_answers(run):
    with pytest.raises(ModelLoadError):
        run(llm=ChatAmulet(model="/nowhere"))


def test_limit_takes_the_first_questions(run):
    assert texts(run(paper_methods()[:2], protocol=replace(PROTOCOL, limit=1)), "pref").keys() == {("two", "a")}


def test_preferences_of_a_question_replace_the_general_ones(run):
    own = Dataset("own", (Sample("a", "Why?", (Dimension("persona a", "I am a sailor."),)),))
    preferences = []
    scorer = Scorer("spy", lambda answer: preferences.append(answer.preference) or 1.0)
    evaluation = run(paper_methods()[:2], datasets=own, scorers=[scorer])
    assert set(preferences) == {"I am a sailor."}
    assert [each.name for each in evaluation.dimensions] == ["persona a"]
    for method in ("base", "pref"):
        assert len(evaluation.scores_of("spy", method, dimension="persona a", temperature=0.0)) == 1
        assert evaluation.scores_of("spy", method, dimension="concise", temperature=0.0) == {}
    mixed = run(paper_methods()[:2], datasets=[own, QUESTIONS], scorers=[scorer])
    assert [each.name for each in mixed.dimensions] == ["concise", "verbose", "persona a"]
    assert mixed.scores_of("spy", "base", dimension="concise", temperature=0.0).keys() == {("two", "a"), ("two", "b")}


def test_duplicate_methods_or_scorers_raise(run, llm, tmp_path):
    with pytest.raises(InvalidParameterError, match="same name"):
        run([realigned("x", RealignmentConfig(2.0)), realigned("x", RealignmentConfig(3.0))])
    with pytest.raises(InvalidParameterError, match="same name"):
        run(scorers=[LENGTH, LENGTH])
    with pytest.raises(InvalidParameterError, match="at least one method"):
        evaluate(QUESTIONS, [], [LENGTH], llm=llm, folder=tmp_path)


@pytest.mark.parametrize(
    "values", [{"temperatures": ()}, {"temperatures": (0.7, 0.7)}, {"limit": 0}, {"max_tokens": 0}]
)
def test_protocols_out_of_range_raise(values):
    with pytest.raises(InvalidParameterError):
        Protocol(**values)
