"""The judge, with fake chat models that reply by a rule."""

import pytest

from langchain_amulet.evaluation import Judge, evaluate
from langchain_amulet.evaluation.analysis.judge import PROMPT, parse_verdict
from langchain_amulet.evaluation.runs.folder import JsonlRecords
from tests.fakes.evaluations import (
    BRIEF,
    LOUD,
    PROTOCOL,
    QUESTIONS,
    TOKENS,
    Referee,
    answer,
    longer,
    referee,
    saying,
    tiny_llm,
)

LONG, SHORT = answer("A long answer indeed.", decoding_key="long"), answer("Short.", decoding_key="short")


@pytest.mark.parametrize(
    ("rule", "outcome"),
    [
        (longer, 1.0),
        (lambda first, second: longer(second, first), 0.0),
        (lambda *_: "1", 0.5),  # always the first text, so a tie
        (lambda *_: "tie", 0.5),
        (lambda first, _: "1" if first == LONG.text else "tie", 0.75),
        (lambda *_: "I cannot judge this.", None),
        (lambda first, _: "1" if first == LONG.text else "", None),
    ],
)
def test_both_orders_count(rule, outcome):
    llm = referee(rule)
    assert Judge(llm).compare(LONG, SHORT) == outcome
    assert len(llm.prompts) == 2


def test_equal_answers_tie_without_a_call_of_the_judge():
    llm = referee(longer)
    assert Judge(llm).compare(LONG, LONG) == 0.5
    assert llm.prompts == []


def test_prompts_contain_question_preference_and_unchanged_texts():
    llm = referee(longer)
    Judge(llm).compare(answer("{second} {question}", decoding_key="a"), answer("\\1 {first}", decoding_key="b"))
    assert "<text 1>\n{second} {question}\n</text 1>\n\n<text 2>\n\\1 {first}\n</text 2>" in llm.prompts[0]
    assert "Question: Why?\nPreference: Be brief." in llm.prompts[0]


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        ("1", 1.0),
        ("Text 2.", 0.0),
        ("**Tie**", 0.5),
        ("Both are fine.\n\n1", 1.0),
        ("", None),
        ("I'm sorry, I can't.", None),
        ("12", None),
        ("Final verdict: **text 2**", 0.0),
        ("Text 1 is short. Text 2 is long.", None),
        ("It is a tie.", 0.5),
        ("It's a tie", 0.5),
        ("I can't compare these 2 texts.", None),
        ("There is no tie.", None),
        ("Score 1.5", None),
        ("Text 1 is better.", 1.0),
    ],
)
def test_verdicts_are_read_from_the_last_line(reply, expected):
    assert parse_verdict(reply) == expected


def test_verdicts_are_stored_and_not_requested_again(tmp_path):
    path = tmp_path / "verdicts.jsonl"
    asked = referee(longer)
    assert Judge(asked, JsonlRecords(path)).compare(LONG, SHORT) == 1.0
    silent = referee(lambda *_: pytest.fail("asked again"))
    assert Judge(silent, JsonlRecords(path)).compare(LONG, SHORT) == 1.0


def test_a_judge_resumes_after_a_failure(tmp_path):
    left = 1

    def failing(first, second):
        nonlocal left
        if not left:
            raise ConnectionError
        left -= 1
        return longer(first, second)

    path = tmp_path / "verdicts.jsonl"
    with pytest.raises(ConnectionError):
        Judge(referee(failing), JsonlRecords(path)).compare(LONG, SHORT)
    again = referee(longer)
    assert Judge(again, JsonlRecords(path)).compare(LONG, SHORT) == 1.0
    assert len(again.prompts) == 1


class OtherReferee(Referee):
    @property
    def _llm_type(self):
        return "another"


def test_verdicts_are_stored_by_judge_and_prompt_including_refusals(tmp_path):
    records = JsonlRecords(tmp_path / "v.jsonl")
    assert Judge(referee(lambda *_: "No."), records).compare(LONG, SHORT) is None
    assert Judge(referee(lambda *_: pytest.fail("asked again")), records).compare(LONG, SHORT) is None
    assert Judge(referee(longer), records, prompt=PROMPT + " ").compare(LONG, SHORT) == 1.0
    assert Judge(OtherReferee(rule=longer), records).compare(LONG, SHORT) == 1.0


@pytest.mark.parametrize("num_at_once", [1, 8])
def test_every_method_is_compared_with_the_baseline_for_every_preference(tmp_path, num_at_once):
    methods = [saying("base", 9, uses_preference=False), saying("pref", 5), saying("less", 2), saying("as base", 9)]
    evaluation = evaluate(
        QUESTIONS, methods, [TOKENS], llm=tiny_llm(), folder=tmp_path, dimensions=[BRIEF, LOUD], protocol=PROTOCOL
    )
    llm = referee(longer)
    result = Judge(llm).judge(evaluation, baseline="pref", temperature=0.0, num_at_once=num_at_once)
    expected = {"base": 1.0, "less": 0.0, "as base": 1.0}
    assert result.verdicts == {
        (method, name, ("two", question)): expected[method]
        for method in expected
        for name in ("concise", "verbose")
        for question in "ab"
    }
    assert {name: rate.rate for name, rate in result.win_rates("concise").items()} == expected
    asked = {tuple(line for line in prompt.splitlines() if line.startswith("Preference: ")) for prompt in llm.prompts}
    assert asked == {("Preference: Be brief.",), ("Preference: Be loud!",)}


def test_pairs_without_a_verdict_are_omitted_and_counted(tmp_path):
    evaluation = evaluate(
        QUESTIONS, [saying("pref", 5), saying("less", 2)], [TOKENS],
        llm=tiny_llm(), folder=tmp_path, dimensions=[BRIEF, LOUD], protocol=PROTOCOL,
    )  # fmt: skip

    def rule(first, second):
        return "I cannot." if "Be loud!" in llm.prompts[-1] else longer(first, second)

    llm = referee(rule)
    result = Judge(llm).judge(evaluation, baseline="pref", temperature=0.0, num_at_once=1)
    assert result.num_unscored == 2
    assert result.win_rates("verbose") == {}
    assert result.win_rates("concise")["less"].num_losses == 2


def test_answers_that_are_too_long_for_the_judge_get_no_verdict(tmp_path):
    records = JsonlRecords(tmp_path / "verdicts.jsonl")
    assert Judge(tiny_llm(), records).compare(answer("word " * 100), SHORT) is None
    assert not [*records]  # a judge of a longer context may have one


def test_chat_amulet_judges_without_preferences(tmp_path):
    llm = tiny_llm().model_copy(update={"preference": "Always write tie.", "max_tokens": 12})
    records = JsonlRecords(tmp_path / "verdicts.jsonl")
    judge = Judge(llm, records, prompt="Which is better, {first} or {second}?")
    judge.compare(LONG, SHORT)
    prompt = judge.prompt_for(LONG, SHORT)
    reply = next(iter(records))["reply"]
    assert reply == llm.invoke(prompt, preference=[]).text != llm.invoke(prompt).text


@pytest.mark.parametrize("text", ["\ud83d", "\0\x1b[31m", "1\n</text 1>"])
def test_texts_and_replies_with_control_characters_are_judged_and_stored(tmp_path, text):
    records = JsonlRecords(tmp_path / "verdicts.jsonl")
    replying = referee(lambda _first, _second: f"{text}\n\x001\x1b")
    assert Judge(replying, records).compare(answer(text), answer("b")) == 0.5
    assert {each["outcome"] for each in JsonlRecords(tmp_path / "verdicts.jsonl", ["outcome"])} == {1.0}
