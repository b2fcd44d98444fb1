"""`evaluate` on a tiny random model: shared answers, interruption and resumption, scores."""

import json
import math
import subprocess
import sys
import threading
from collections import defaultdict
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from filelock import FileLock
from langchain_core.messages import AIMessage
from transformers import GenerationConfig

from langchain_amulet import ChatAmulet, RealignmentConfig
from langchain_amulet.evaluation import (
    Ask,
    Dataset,
    Dimension,
    Method,
    Protocol,
    Sample,
    Scorer,
    beam_search,
    best_of,
    evaluate,
    likelihood_scorers,
    paper_methods,
    realigned,
)
from langchain_amulet.evaluation.methods.ablations import ablation_methods
from langchain_amulet.evaluation.scorers.scorer import messages_of
from langchain_amulet.exceptions import (
    ContextLengthError,
    EngineMemoryError,
    GenerationTimeoutError,
    InvalidParameterError,
    ModelLoadError,
    RunError,
)
from tests.fakes.chat_templates import byte_tokenizer
from tests.fakes.evaluations import BRIEF, LENGTH, LOUD, PROTOCOL, QUESTIONS, tiny_llm
from tests.fakes.models import tiny_model


@pytest.fixture(scope="module")
def llm() -> ChatAmulet:
    return tiny_llm()


@pytest.fixture
def run(llm, tmp_path):
    def start(methods=None, **changes):
        arguments = {
            "llm": llm,
            "folder": tmp_path / "run",
            "dimensions": [BRIEF, LOUD],
            "protocol": PROTOCOL,
            **changes,
        }
        scorers = arguments.pop("scorers", [LENGTH])
        return evaluate(arguments.pop("datasets", QUESTIONS), methods or paper_methods(), scorers, **arguments)

    return start


def texts(evaluation, method, temperature=0.0, dimension="concise"):
    result = evaluation.answers_of(method, dimension=dimension, temperature=temperature)
    return {cluster: answer.text for cluster, answer in result.items()}


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


def test_answers_without_a_preference_are_scored_for_each_preference(run):
    preferences = []
    scorer = Scorer("spy", lambda answer: preferences.append(answer.preference) or 1.0)
    evaluation = run([paper_methods()[0]], scorers=[scorer])
    assert sorted(preferences) == sorted(["Be brief.", "Be loud!"] * 4)
    for name in ("concise", "verbose"):
        assert len(evaluation.scores_of("spy", "base", dimension=name, temperature=0.0)) == 2


class KilledError(BaseException):
    """Raised in place of a signal."""


def test_a_killed_evaluation_resumes_with_the_same_result(run, tmp_path):
    methods = paper_methods()[:4]
    whole = run(methods, folder=tmp_path / "whole")
    code = (
        "import os, sys; from dataclasses import replace; from itertools import count\n"
        "from langchain_amulet.evaluation import evaluate, paper_methods\n"
        "from tests.fakes.evaluations import *\n"
        "left = count(5, -1)\n"
        "def dying(method):\n"
        "    return replace(method, generate=lambda ask: method.generate(ask) if next(left) else os._exit(137))\n"
        "evaluate(QUESTIONS, [dying(each) for each in paper_methods()[:4]], [LENGTH], llm=tiny_llm(),\n"
        "         folder=sys.argv[1], dimensions=[BRIEF, LOUD], protocol=PROTOCOL)\n"
    )
    killed = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "run")], check=False, cwd=Path(__file__).parents[3]
    )
    assert killed.returncode == 137
    path = tmp_path / "run" / "answers.jsonl"
    before = path.read_text("utf-8")
    assert 0 < before.count("\n") < len(whole.answers)
    resumed = run(methods)
    assert path.read_text("utf-8").startswith(before)
    assert {answer.score_key: answer.text for answer in resumed.answers} == {
        answer.score_key: answer.text for answer in whole.answers
    }
    assert resumed.scores == whole.scores
    keys = [json.loads(line)["key"] for line in path.read_text("utf-8").splitlines()]
    assert sorted(keys) == sorted({answer.key for answer in whole.answers})


def test_an_evaluation_killed_while_scoring_resumes(run, tmp_path):
    calls: list[str] = []

    def length(answer, left=None):
        if len(calls) == left:
            raise KilledError
        calls.append(answer.key)
        return len(answer.text)

    def scorer(left=None):
        return Scorer("length", lambda answer: length(answer, left), is_stored=True)

    with pytest.raises(KilledError):
        run(scorers=[scorer(3)])
    resumed = run(scorers=[scorer()])
    lines = (tmp_path / "run" / "scores-length.jsonl").read_text("utf-8").splitlines()
    assert len(calls) == len(lines) == len(resumed.scores["length"])


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


def test_answers_of_another_program_are_refused(run, tmp_path):
    run(paper_methods()[:1])
    with (tmp_path / "run" / "answers.jsonl").open("a") as file:
        file.write('{"key": "a", "text": "So."}\n')
    with pytest.raises(RunError, match="is damaged"):
        run(paper_methods()[:1])


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


def test_a_changed_question_raises(run):
    run(paper_methods()[:1], datasets=Dataset("two", (Sample("a", "Why?"),)))
    with pytest.raises(RunError, match="an answer to question a of two with another text"):
        run(paper_methods()[:1], datasets=Dataset("two", (Sample("a", "Who?"),)))


def test_a_loading_error_precedes_all_answers(run):
    with pytest.raises(ModelLoadError):
        run(llm=ChatAmulet(model="/nowhere"))


def test_two_processes_do_not_share_a_folder(run, tmp_path):
    run(paper_methods()[:1])
    with FileLock((tmp_path / "run").resolve() / ".lock"), pytest.raises(RunError, match="Another process is using"):
        run(paper_methods()[:2])


def test_answers_without_a_manifest_raise(run, tmp_path):
    run(paper_methods()[:1])
    (tmp_path / "run" / "manifest.json").unlink()
    with pytest.raises(RunError, match="has answers but no manifest.json"):
        run(paper_methods()[:1])


def test_stored_answers_are_not_generated_again(run):
    run()
    counted = []
    methods = [replace(each, generate=lambda ask: counted.append(ask) or AIMessage("")) for each in paper_methods()]
    run(methods)
    assert counted == []
    shouting = Method("shouting", lambda ask: AIMessage(ask.preference.upper()))
    assert texts(run([*methods, shouting]), "shouting") == {("two", "a"): "BE BRIEF.", ("two", "b"): "BE BRIEF."}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"protocol": replace(PROTOCOL, max_tokens=9, seed=1)}, "other settings: max_tokens, seed"),
        ({"llm": tiny_llm().model_copy(update={"repetition_penalty": 1.3})}, "other settings: repetition_penalty"),
        ({"llm": ChatAmulet(model=tiny_model("llama"), tokenizer=byte_tokenizer())}, "other settings: model"),
    ],
)
def test_a_folder_belongs_to_one_model_and_protocol(run, change, message):
    run(paper_methods()[:1])
    with pytest.raises(RunError, match=message):
        run(paper_methods()[:1], **change)


def test_a_damaged_line_raises_with_its_number(run, tmp_path):
    run(paper_methods()[:1])
    path = tmp_path / "run" / "answers.jsonl"
    lines = path.read_text("utf-8").splitlines()
    path.write_text("\n".join([lines[0], "{", *lines[1:]]) + "\n", "utf-8")
    with pytest.raises(RunError, match="line 2 is damaged"):
        run(paper_methods()[:1])


def test_the_manifest_has_config_versions_and_revision(run, tmp_path):
    run(paper_methods()[:1])
    manifest = json.loads((tmp_path / "run" / "manifest.json").read_text("utf-8"))
    assert manifest["config"]["max_tokens"] == 8
    [environment] = manifest["environments"]
    assert {"torch", "transformers"} <= environment["versions"].keys()
    root = Path(__file__).parents[3]
    if (root / ".git").exists():
        described = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=12"],  # noqa: S607
            cwd=root, capture_output=True, text=True, check=True,
        ).stdout.strip()  # fmt: skip
        assert environment["git_revision"] == described


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


def test_search_methods_answer(run):
    evaluation = run([beam_search(3), best_of(2), paper_methods()[1]], protocol=replace(PROTOCOL, temperatures=(0.0,)))
    for name in ("beam search 3", "best of 2"):
        assert len(texts(evaluation, name)) == 2
    assert all(answer.num_tokens <= 8 for answer in evaluation.answers)


def test_beam_search_with_one_beam_is_greedy(run):
    evaluation = run([beam_search(1), paper_methods()[1]], protocol=replace(PROTOCOL, temperatures=(0.0,)))
    assert texts(evaluation, "beam search 1") == texts(evaluation, "pref")


def test_beam_search_equals_that_of_transformers(run, llm):
    result = run([beam_search(4), paper_methods()[1]], protocol=replace(PROTOCOL, temperatures=(0.0,)))
    loaded, differs = llm.load(), False
    for name, question in (("a", "Why?"), ("b", "How?")):
        for preference in (BRIEF, LOUD):
            prompt = llm.prompt_streams(messages_of(PROTOCOL.system, question), preference.text)[-1]
            config = GenerationConfig(num_beams=4, max_new_tokens=8, pad_token_id=0)
            expected = loaded.model.generate(torch.tensor([prompt]), generation_config=config)[0, len(prompt) :]
            expected_text = loaded.tokenizer.decode(expected, skip_special_tokens=True)
            assert texts(result, "beam search 4", dimension=preference.name)["two", name] == expected_text
            differs |= expected_text != texts(result, "pref", dimension=preference.name)["two", name]
    assert differs


def test_best_of_n_returns_the_sample_with_most_evidence(llm):
    ask = Ask(llm, messages_of("", "Why?"), "Be brief.", {"temperature": 0.7, "max_tokens": 8, "seed": 3})
    draws = [best_of(1).generate(ask._replace(sampling={**ask.sampling, "seed": 3 + i})).text for i in range(4)]
    assert len(set(draws)) > 1
    evidence = {text: llm.evidence(ask.messages, text, ["Be brief."])[0] for text in draws}
    assert best_of(4).generate(ask).text == max(draws, key=evidence.__getitem__)
    assert draws[0] == paper_methods()[1].generate(ask).text


def test_duplicate_methods_or_scorers_raise(run, llm, tmp_path):
    with pytest.raises(InvalidParameterError, match="same name"):
        run([realigned("x", RealignmentConfig(2.0)), realigned("x", RealignmentConfig(3.0))])
    with pytest.raises(InvalidParameterError, match="same name"):
        run(scorers=[LENGTH, LENGTH])
    with pytest.raises(InvalidParameterError, match="at least one method"):
        evaluate(QUESTIONS, [], [LENGTH], llm=llm, folder=tmp_path)


def test_search_methods_may_have_a_limit(run):
    evaluation = run([best_of(2), paper_methods()[1]], protocol=replace(PROTOCOL, search_limit=1))
    assert (len(texts(evaluation, "best of 2")), len(texts(evaluation, "pref"))) == (1, 2)


def test_more_questions_are_added_to_stored_answers(run, tmp_path):
    run(paper_methods()[:2], protocol=replace(PROTOCOL, limit=1))
    before = (tmp_path / "run" / "answers.jsonl").read_text("utf-8")
    run(paper_methods()[:2])
    after = (tmp_path / "run" / "answers.jsonl").read_text("utf-8")
    assert after.startswith(before)
    assert after.count("\n") == 2 * before.count("\n")


@pytest.mark.parametrize(
    "values", [{"temperatures": ()}, {"temperatures": (0.7, 0.7)}, {"limit": 0}, {"max_tokens": 0}]
)
def test_protocols_out_of_range_raise(values):
    with pytest.raises(InvalidParameterError):
        Protocol(**values)
