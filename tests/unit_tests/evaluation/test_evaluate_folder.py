"""Folders of `evaluate`: evaluations that were killed resume in them, and what does not belong to them is refused."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from filelock import FileLock
from langchain_core.messages import AIMessage

from langchain_amulet import ChatAmulet
from langchain_amulet.evaluation import (
    Dataset,
    Method,
    Sample,
    Scorer,
    paper_methods,
)
from langchain_amulet.exceptions import (
    RunError,
)
from tests.fakes.chat_templates import byte_tokenizer
from tests.fakes.evaluations import PROTOCOL, texts, tiny_llm
from tests.fakes.models import tiny_model


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


def test_answers_of_another_program_are_refused(run, tmp_path):
    run(paper_methods()[:1])
    with (tmp_path / "run" / "answers.jsonl").open("a") as file:
        file.write('{"key": "a", "text": "So."}\n')
    with pytest.raises(RunError, match="is damaged"):
        run(paper_methods()[:1])


def test_a_changed_question_raises(run):
    run(paper_methods()[:1], datasets=Dataset("two", (Sample("a", "Why?"),)))
    with pytest.raises(RunError, match="an answer to question a of two with another text"):
        run(paper_methods()[:1], datasets=Dataset("two", (Sample("a", "Who?"),)))


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


def test_more_questions_are_added_to_stored_answers(run, tmp_path):
    run(paper_methods()[:2], protocol=replace(PROTOCOL, limit=1))
    before = (tmp_path / "run" / "answers.jsonl").read_text("utf-8")
    run(paper_methods()[:2])
    after = (tmp_path / "run" / "answers.jsonl").read_text("utf-8")
    assert after.startswith(before)
    assert after.count("\n") == 2 * before.count("\n")
