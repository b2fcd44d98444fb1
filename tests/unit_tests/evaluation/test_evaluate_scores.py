"""Scores of `evaluate` on a tiny random model: at once, stored, missing and limited ones."""

import math
import threading
from contextlib import nullcontext
from dataclasses import replace

import pytest

from langchain_amulet.evaluation import (
    Scorer,
    likelihood_scorers,
    paper_methods,
)
from langchain_amulet.exceptions import (
    ContextLengthError,
    EngineMemoryError,
    GenerationTimeoutError,
)
from tests.fakes.evaluations import BRIEF, LENGTH, PROTOCOL


def test_answers_without_a_preference_are_scored_for_each_preference(run):
    preferences = []
    scorer = Scorer("spy", lambda answer: preferences.append(answer.preference) or 1.0)
    evaluation = run([paper_methods()[0]], scorers=[scorer])
    assert sorted(preferences) == sorted(["Be brief.", "Be loud!"] * 4)
    for name in ("concise", "verbose"):
        assert len(evaluation.scores_of("spy", "base", dimension=name, temperature=0.0)) == 2


def test_scorers_with_different_identity_store_their_scores_separately(run):
    def scorer(value: int) -> Scorer:
        return Scorer("reward", lambda _: float(value), is_stored=True, identity=f"org{value}/reward")

    one, other = scorer(1), scorer(2)
    assert set(run(scorers=[one]).scores["reward"].values()) == {1.0}
    assert set(run(scorers=[other]).scores["reward"].values()) == {2.0}


def test_answers_that_are_scored_at_once_get_the_scores_of_one_by_one(run):
    meeting = threading.Barrier(4, timeout=20)

    def score(answer):
        meeting.wait()  # passes only if four answers are scored at once
        return LENGTH.score(answer)

    methods = paper_methods()[:2]  # with 16 answers
    at_once = Scorer("at once", score, is_stored=True, num_at_once=4)
    evaluation = run(methods, scorers=[LENGTH, at_once])
    assert [*evaluation.scores["at once"].items()] == [*evaluation.scores["length"].items()]


def test_likelihoods_of_many_answers_equal_those_of_each_alone(run, llm):
    evaluation = run(paper_methods()[:3], scorers=likelihood_scorers(llm, PROTOCOL.system))
    assert len(evaluation.answers) > 16
    for scorer in likelihood_scorers(llm, PROTOCOL.system):
        for answer in evaluation.answers:
            stored = evaluation.scores[scorer.name][answer.score_key]
            assert stored == (None if stored is None else pytest.approx(scorer.score(answer), abs=1e-5))


def test_scorers_see_paraphrase_and_opposite_which_are_not_stored(run, tmp_path):
    seen = set()
    scorer = Scorer("spy", lambda answer: seen.add((answer.dimension, answer.opposite, answer.paraphrase)) or 1.0)
    run(paper_methods()[:2], dimensions=[replace(BRIEF, opposite="Be long.", paraphrase="Shortly.")], scorers=[scorer])
    run(paper_methods()[:2], dimensions=[replace(BRIEF, opposite="", paraphrase="Tersely.")], scorers=[scorer])
    assert seen == {("concise", "Be long.", "Shortly."), ("concise", "", "Tersely.")}
    assert "paraphrase" not in (tmp_path / "run" / "answers.jsonl").read_text("utf-8")


def test_a_scorer_may_have_a_limit(run):
    evaluation = run(paper_methods()[:2], scorers=[replace(LENGTH, limit=1)])
    for method in ("base", "pref"):
        result = evaluation.scores_of("length", method, dimension="concise", temperature=0.0)
        assert result.keys() == {("two", "a")}


def test_nan_scores_are_omitted(run):
    scorer = Scorer("odd", lambda answer: math.nan if answer.sample_id == "a" else 1.0, is_stored=True)
    for _ in range(2):
        evaluation = run(paper_methods()[:2], scorers=[scorer])
        assert evaluation.scores_of("odd", "pref", dimension="concise", temperature=0.0) == {("two", "b"): 1.0}


@pytest.mark.parametrize("error", [EngineMemoryError, GenerationTimeoutError])
@pytest.mark.parametrize("is_stored", [True, False])
def test_scores_that_failed_for_now_are_missing_and_computed_the_next_time(run, error, is_stored):
    def fail(_answer):
        msg = "for now"
        raise error(msg)

    good = Scorer("slow", lambda _answer: 1.0, is_stored=is_stored)
    with pytest.warns(UserWarning, match="answers could not be scored by slow") if is_stored else nullcontext():
        evaluation = run(paper_methods()[:1], scorers=[replace(good, score=fail)])
    assert {*evaluation.scores["slow"].values()} == {None}
    assert {*run(paper_methods()[:1], scorers=[good]).scores["slow"].values()} == {1.0}


def test_answer_that_exceeds_the_context_is_not_scored_again(run):
    scored = []

    def fail(answer):
        scored.append(answer)
        msg = "too long"
        raise ContextLengthError(msg)

    for _ in range(2):
        run(paper_methods()[:1], scorers=[Scorer("long", fail, is_stored=True)])
    assert len(scored) == len({answer.score_key for answer in scored})
