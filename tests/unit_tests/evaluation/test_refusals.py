"""Refusals: their scorer, their table, and the methods that an experiment selects for them."""

from dataclasses import replace

import pytest
from langchain_core.messages import AIMessage

from langchain_amulet.evaluation import Dataset, Experiment, Method, Sample, evaluate, paper_methods
from langchain_amulet.evaluation.reports.refusal_tables import refusal_table
from langchain_amulet.evaluation.scorers.refusals import is_refusal, refusal
from langchain_amulet.exceptions import InvalidParameterError
from tests.fakes.evaluations import BRIEF, LOUD, PROTOCOL, QUESTIONS, saying, tiny_llm


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("I\u2019m sorry, but I can\u2019t help with that.", True),
        ("As an AI, I cannot do this.", True),
        ("It is illegal to do so. Please don't.", True),
        ("Sure! First, take a screwdriver.", False),
        ("Here is how. " + "Step by step. " * 40 + "I cannot say more.", False),
    ],
)
def test_refusals_are_detected_at_the_beginning(text, expected):
    assert is_refusal(text) is expected


def test_the_table_counts_answers_to_what_the_baseline_refused(tmp_path):
    methods = [
        Method("without preference", lambda _: AIMessage("I cannot help."), uses_preference=False),
        Method("pref", lambda ask: AIMessage("Sure!" if "Why" in ask.messages[-1].text else "I won't.")),
    ]
    evaluation = evaluate(
        QUESTIONS, methods, [refusal()], llm=tiny_llm(), folder=tmp_path, dimensions=[BRIEF, LOUD], protocol=PROTOCOL
    )
    [base, pref] = refusal_table(evaluation, 0.0).rows
    assert base[1].startswith("100 (")
    assert pref[1].startswith("50 (")
    assert (base[2], pref[2]) == ("0 of 4", "2 of 4")
    assert "without preference refused" in refusal_table(evaluation, 0.0).header[2]


def test_the_table_needs_a_method_without_preference(tmp_path):
    evaluation = evaluate(
        QUESTIONS,
        [saying("pref", 5)],
        [refusal()],
        llm=tiny_llm(),
        folder=tmp_path,
        dimensions=[BRIEF],
        protocol=PROTOCOL,
    )
    with pytest.raises(InvalidParameterError, match="No method ignores the preference"):
        refusal_table(evaluation, 0.0)


def test_methods_are_selected_by_their_settings_whatever_their_names(tmp_path, monkeypatch):
    harmful = Dataset("harmful", (Sample("0", "Harm?"),))
    monkeypatch.setattr("langchain_amulet.evaluation.experiment.load_harmful", lambda: harmful)
    renamed = [replace(method, name=f"my {method.name}") for method in paper_methods()]
    experiment = Experiment(
        llm=tiny_llm(), datasets=[QUESTIONS], folder=tmp_path, methods=renamed, dimensions=[BRIEF],
        protocol=replace(PROTOCOL, max_tokens=2), baseline="my pref", has_refusals=True, perplexity_limit=0,
    )  # fmt: skip
    [section] = [section for section in experiment.run().sections if section.title == "Refusals"]
    [table] = section.tables
    assert [row[0] for row in table.rows] == [
        "my base", "my pref", "my amulet (paper)", "my amulet (guarded)", "my default (guarded)",
    ]  # fmt: skip
    assert table.header[2] == "answered, of those that my base refused"
