"""Steering methods by name, the repeated preference, and several seeds."""

import json
from dataclasses import replace

import pytest
from langchain_core.messages import AIMessage, HumanMessage

from langchain_amulet import Preference, RealignmentConfig
from langchain_amulet.cli import evaluation_parts
from langchain_amulet.evaluation import Ask, Dimension, Method, Scorer, evaluate, paper_methods
from langchain_amulet.evaluation.methods.steering import (
    repeated_preference,
    steering_grid,
    steering_method,
    steering_name,
)
from langchain_amulet.evaluation.reports import sections
from langchain_amulet.evaluation.runs.answer import ANSWER_FIELDS
from langchain_amulet.exceptions import InvalidParameterError, RunError
from tests.fakes.evaluations import BRIEF, LENGTH, PROTOCOL, QUESTIONS, tiny_llm

OPPOSED = Dimension("concise", "Be brief.", opposite="Be long.")


@pytest.fixture(scope="module")
def llm():
    return tiny_llm()


@pytest.fixture
def run(llm, tmp_path):
    def start(*methods, dimension=OPPOSED, scorers=(LENGTH,), **protocol):
        return evaluate(
            QUESTIONS, methods, scorers, llm=llm, folder=tmp_path, dimensions=[dimension],
            protocol=replace(PROTOCOL, **protocol),
        )  # fmt: skip

    return start


def records(folder):
    return [json.loads(line) for line in (folder / "answers.jsonl").read_text("utf-8").splitlines()]


@pytest.mark.parametrize(
    "config",
    [
        RealignmentConfig(),
        RealignmentConfig.paper(),
        RealignmentConfig(3.0, contrast="opposite", plausibility=0.3, max_kl=0.5),
        RealignmentConfig.linear_alignment(5.0, nucleus=0.8, nucleus_temperature=0.5),
    ],
)
def test_the_name_of_a_steering_method_determines_it(config):
    method = steering_method(steering_name(config))
    assert method.name == steering_name(config)
    assert method.config == replace(config, guidance_scale=method.config.guidance_scale)
    assert method.config.guidance_scale == pytest.approx(config.guidance_scale, rel=1e-5)


def test_a_grid_has_every_combination_once():
    methods = steering_grid([1, 2, 3], ["base", "opposite"], ["plausibility 0.1", "plausibility 0.3, max_kl 0.5"])
    assert len({method.decoding_key for method in methods}) == len(methods) == 1 + 2 * 2 * 2
    assert methods[0].name == "base contrast, w=1, plausibility 0.1"
    assert methods[-1].name == "opposite contrast, w=3, plausibility 0.3, max_kl 0.5"


def test_the_contrast_is_in_the_key_only_where_it_matters():
    keys = [steering_method(f"{name} contrast, w={w}").decoding_key for name in ("base", "opposite") for w in (0.5, 3)]
    assert keys == ["w=0.5", "w=3", "w=0.5", "w=3 contrast=opposite"]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("w=3", "Unknown method 'w=3'"),
        ("base contrast, w=much", "Unknown method"),
        ("other contrast, w=3", "Unknown contrast 'other'. Choose from: base, neutral, opposite"),
        ("base contrast, w=3, magic 2", "Unknown guard 'magic 2'"),
        ("base contrast, w=3, plausibility", "Unknown guard 'plausibility'"),
        ("base contrast, w=3, plausibility 2", "plausibility must be"),
        ("base contrast, w=-1", "guidance_scale must be"),
    ],
)
def test_unknown_methods_and_values_raise(name, message):
    with pytest.raises(InvalidParameterError, match=message):
        steering_method(name)


def test_an_opposite_contrast_equals_a_call_with_that_opposite(llm):
    ask = Ask(llm, [HumanMessage("Why?")], "Be brief.", {"temperature": 0, "max_tokens": 8}, "Be long.")
    config = RealignmentConfig(3.0, plausibility=0.1, contrast="opposite")
    preference = Preference("Be brief.", opposite="Be long.")
    expected = llm.invoke(ask.messages, preference=preference, realignment=config, **ask.sampling)
    assert steering_method("opposite contrast, w=3, plausibility 0.1").generate(ask).text == expected.text


def test_the_repeated_preference_stands_at_the_end_of_the_users_turn(llm):
    ask = Ask(llm, [HumanMessage("Why?")], "Be brief.", {"temperature": 0, "max_tokens": 8})
    plain = RealignmentConfig(guidance_scale=1.0)
    expected = llm.invoke("Why?\n\nBe brief.", preference="Be brief.", realignment=plain, **ask.sampling)
    assert repeated_preference().generate(ask).text == expected.text


def test_the_opposite_is_stored_and_a_changed_one_raises(run, tmp_path):
    methods = [steering_method(f"{contrast} contrast, w=3") for contrast in ("base", "opposite")]
    run(*methods)
    assert {(each["run"], each.get("contrast", "")) for each in records(tmp_path)} == {
        ("w=3", ""),
        ("w=3 contrast=opposite", "Be long."),
    }
    changed = replace(OPPOSED, opposite="Be verbose.")
    run(methods[0], dimension=changed)
    with pytest.raises(RunError, match="another text of the question, the preference or its opposite"):
        run(*methods, dimension=changed)


def test_reports_name_preferences_without_an_opposite(run):
    def settings(dimension):
        evaluation = run(steering_method("opposite contrast, w=3"), dimension=dimension)
        return dict(sections.setup_section(evaluation).tables[0].rows)

    name = "without an opposite, so contrasted with base"
    assert name not in settings(OPPOSED)
    assert settings(Dimension("vegan", "I am vegan.", opposite=""))[name] == "vegan"


def test_each_seed_answers_once_above_temperature_zero(run, tmp_path):
    method = Method("seeds", lambda ask: AIMessage(f"{ask.sampling['temperature']} {ask.sampling['seed']}"))
    run(method, num_seeds=3)
    drawn = [each["text"] for each in records(tmp_path)]
    assert len({*drawn}) == len(drawn) == len(QUESTIONS) * (1 + 3)


def test_more_seeds_are_added_and_the_first_are_those_of_a_run_with_one(run, tmp_path):
    run(paper_methods()[1])
    before = (tmp_path / "answers.jsonl").read_text("utf-8")
    assert "seed" not in json.loads(before.splitlines()[0])["key"]
    run(paper_methods()[1], num_seeds=2)
    after = (tmp_path / "answers.jsonl").read_text("utf-8")
    assert after.startswith(before)
    assert after.count("\n") == before.count("\n") + len(QUESTIONS)


def test_a_second_seed_answers_as_a_run_that_begins_with_it(run, tmp_path, llm):
    run(paper_methods()[1], num_seeds=2)
    second = {each["sample_id"]: each["text"] for each in records(tmp_path) if each.get("seed_number")}
    evaluation = evaluate(
        QUESTIONS, [paper_methods()[1]], [LENGTH], llm=llm, folder=tmp_path / "other", dimensions=[OPPOSED],
        protocol=replace(PROTOCOL, seed=1),
    )  # fmt: skip
    first = evaluation.answers_of("pref", dimension="concise", temperature=0.7)
    assert second == {sample: answer.text for (_, sample), answer in first.items()}


def test_scores_are_means_over_seeds(run):
    method = Method("x", lambda _: AIMessage("x"))
    scorer = Scorer("number", lambda answer: {0: 1.0, 1: 3.0, 2: None}[answer.seed_number])
    evaluation = run(method, scorers=[scorer], num_seeds=3)
    where = {"dimension": "concise", "temperature": 0.7}
    assert {*evaluation.scores_of("number", "x", **where).values()} == {2.0}
    assert evaluation.num_answers("number", "x", **where) == 2 * len(QUESTIONS)
    assert {answer.seed_number for answer in evaluation.answers_of("x", **where).values()} == {0}


def test_folders_without_opposites_and_seeds_stay_valid(run, tmp_path):
    old = run(paper_methods()[1], dimension=BRIEF)
    before = records(tmp_path)
    assert all(each.keys() == {"key", *ANSWER_FIELDS} for each in before)
    assert run(paper_methods()[1], dimension=BRIEF).answers == old.answers
    assert records(tmp_path) == before


def test_options_give_named_methods_a_grid_or_both():
    def names(*arguments):
        return [method.name for method in evaluation_parts.methods(*arguments)]

    compared = ["base", "pref", "repeated preference"]
    grid = [f"{name} contrast, w=3, plausibility 0.3" for name in ("base", "opposite")]
    assert {*compared, "beam search 16", "amulet (paper)"} <= {*names(None)}
    assert names(None, [3], ["base", "opposite"], ["plausibility 0.3"]) == [*compared, *grid]
    assert names(["pref", grid[1]]) == ["pref", grid[1]]
    assert names(["pref"], [2]) == ["pref", "base contrast, w=2, plausibility 0.1"]
    with pytest.raises(InvalidParameterError, match="Add a scale"):
        names(["pref"], None, ["opposite"])
