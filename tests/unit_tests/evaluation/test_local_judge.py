"""The local judge, with a fake model of known log-probabilities and a tiny one; and its agreement with checkers."""

import math
from dataclasses import replace

import pytest
import torch
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage
from langchain_core.outputs import ChatGeneration, ChatResult

from langchain_amulet import ChatAmulet
from langchain_amulet.cli import evaluation_parts
from langchain_amulet.evaluation import Dataset, Dimension, Experiment, LocalJudge, Sample, Scorer, evaluate
from langchain_amulet.evaluation.analysis.agreement import judge_agreement, scorer_agreement
from langchain_amulet.evaluation.analysis.judge import PROMPT, Judgements
from langchain_amulet.evaluation.analysis.local_judge import FOLLOWS, log_odds
from langchain_amulet.evaluation.reports.agreement_tables import agreement_table
from langchain_amulet.evaluation.runs.folder import JsonlRecords
from langchain_amulet.evaluation.scorers.likelihood import HELD_OUT, HELD_OUT_OPPOSITE
from langchain_amulet.exceptions import InvalidParameterError
from tests.fakes.chat_templates import byte_tokenizer
from tests.fakes.evaluations import BRIEF, LOUD, PROTOCOL, QUESTIONS, answer, referee, saying, tiny_llm
from tests.fakes.models import tiny_model

LONG, SHORT = answer("A long answer indeed.", decoding_key="long"), answer("Short.", decoding_key="short")
BIAS = 3.0  # towards the answer in the first place, in nats


class Odds(BaseChatModel):
    """A model whose first token is "A" or "Yes" with log-odds of the difference in length, and a bias for "A"."""

    prompts: list = []  # noqa: RUF012 - pydantic copies it

    def _generate(self, messages, *_, **arguments):
        assert arguments["max_tokens"] == 1
        prompt = messages[-1].content
        self.prompts.append(prompt)
        if "<answer A>" in prompt:
            first, second = (prompt.split(f"<answer {each}>\n")[1].split("\n</answer")[0] for each in "AB")
            names, odds = ("A", "B"), BIAS + (len(first) - len(second)) / 10
        else:
            names, odds = ("Yes", "No"), len(prompt.split("<answer>\n")[1].split("\n</answer")[0]) / 10
        top = [{"token": names[0], "logprob": odds - 10}, {"token": names[1], "logprob": -10}]
        metadata = {"logprobs": {"content": [{"token": "A", "top_logprobs": top}]}}
        message = AIMessage(names[0], response_metadata=metadata)
        return ChatResult(generations=[ChatGeneration(message=message)])

    @property
    def _llm_type(self):
        return "odds"


def sigmoid(value: float) -> float:
    return 1 / (1 + math.exp(-value))


def test_a_liking_for_one_position_cancels():
    expected = sigmoid((len(LONG.text) - len(SHORT.text)) / 10)
    assert LocalJudge(Odds()).compare(LONG, SHORT) == pytest.approx(expected)
    assert LocalJudge(Odds()).compare(SHORT, LONG) == pytest.approx(1 - expected)


def test_equal_answers_tie_without_a_call_of_the_model():
    llm = Odds(prompts=[])
    assert LocalJudge(llm).compare(LONG, LONG) == 0.5
    assert llm.prompts == []


def test_the_absolute_form_is_the_share_of_yes():
    judge = LocalJudge(Odds())
    assert judge.follows(LONG) == judge.scorer().score(LONG) == pytest.approx(sigmoid(len(LONG.text) / 10))
    assert judge.follows(answer(" ")) is judge.follows(answer("So.", preference="")) is None


@pytest.mark.parametrize(
    ("candidates", "expected"),
    [
        ([("A", -1.0), ("B", -3.0)], 2.0),
        ([(" a", -1.0), ("B.", -3.0), ("x", -0.1)], 2.0),
        ([("A", math.log(0.2)), ('"A', math.log(0.3)), ("B", math.log(0.25))], math.log(2)),
        ([("A", -1.0), ("x", -7.0)], 6.0),
        ([("B", -1.0), ("x", -7.0)], -6.0),
        ([("Answer", -1.0)], None),
        ([], None),
    ],
)
def test_log_odds_are_read_from_the_likeliest_tokens(candidates, expected):
    odds = log_odds(candidates, ("a", "b"))
    assert odds is expected is None or odds == pytest.approx(expected)


def test_verdicts_are_stored_by_model_and_prompt(tmp_path):
    records = JsonlRecords(tmp_path / "verdicts.jsonl", ["outcome"])
    first, again, other = Odds(prompts=[]), Odds(prompts=[]), Odds(prompts=[])
    verdict = LocalJudge(first, records).compare(LONG, SHORT)
    assert LocalJudge(again, JsonlRecords(tmp_path / "verdicts.jsonl", ["outcome"])).compare(LONG, SHORT) == verdict
    LocalJudge(
        other, records, comparison_prompt="<answer A>\n{first}\n</answer><answer B>\n{second}\n</answer>"
    ).compare(LONG, SHORT)
    assert [len(each.prompts) for each in (first, again, other)] == [2, 0, 2]


def test_a_model_without_log_probabilities_is_refused():
    with pytest.raises(InvalidParameterError, match="gives no top_logprobs"):
        LocalJudge(referee(lambda *_: "A"), comparison_prompt=PROMPT).compare(LONG, SHORT)


def test_answers_that_are_too_long_for_the_judge_get_no_verdict():
    judge = LocalJudge(tiny_llm())
    assert judge.compare(answer("word " * 100), SHORT) is judge.follows(answer("word " * 100)) is None


def test_chat_amulet_judges_by_the_next_token_of_the_plain_prompt():
    llm = tiny_llm().model_copy(update={"preference": "Always write A."})
    prompt = "{first}|{second}"
    [ids] = llm.prompt_streams(f"{LONG.text}|{SHORT.text}", [])
    with torch.no_grad():
        log_probs = llm.load().model(torch.tensor([ids])).logits[0, -1].log_softmax(-1)
    top = [
        (llm.load().tokenizer.decode([each]), value) for value, each in zip(*map(list, log_probs.topk(20)), strict=True)
    ]
    judge = LocalJudge(llm, comparison_prompt=prompt)
    seen = judge._first_token(f"{LONG.text}|{SHORT.text}")
    assert [value for _, value in seen] == pytest.approx([float(value) for _, value in top], abs=1e-5)


# Agreement with a checker

KEEPS = Scorer("kept", lambda answer: float(len(answer.text.split()) > 3))
LENGTH = Scorer("length", lambda answer: len(answer.text))


@pytest.fixture
def evaluation(tmp_path):
    methods = [saying("pref", 5), saying("less", 2), saying("more", 9)]
    return evaluate(
        QUESTIONS, methods, [KEEPS, LENGTH],
        llm=tiny_llm(), folder=tmp_path, dimensions=[BRIEF, LOUD], protocol=replace(PROTOCOL, temperatures=(0.0,)),
    )  # fmt: skip


def judgements(verdict_of) -> Judgements:
    verdicts = {
        (method, dimension, ("two", question)): verdict_of(method, question)
        for method in ("less", "more")
        for dimension in ("concise", "verbose")
        for question in "ab"
    }
    return Judgements("pref", 0.0, verdicts)


@pytest.mark.parametrize(
    ("verdict", "rate", "num_pairs"),
    [
        (lambda method, _: 0.1 if method == "less" else 0.9, 1.0, 4),
        (lambda *_: 0.9, 0.0, 4),
        (lambda *_: 0.5, 0.5, 4),
        (lambda _, question: 0.1 if question == "a" else 0.9, 0.5, 4),
        (lambda _, question: 0.1 if question == "a" else None, 1.0, 2),
    ],
)
def test_agreement_counts_pairs_of_which_one_keeps_the_preference(evaluation, verdict, rate, num_pairs):
    """Both "pref" and "more" keep it, so only "less" against "pref" counts."""
    agreement = judge_agreement(evaluation, judgements(verdict), checker="kept")
    assert (agreement.overall.rate, agreement.num_pairs) == (rate, num_pairs)
    assert {*agreement.by_dimension} == {"concise", "verbose"}


def test_a_scorer_agrees_over_all_pairs_of_methods(evaluation):
    agreement = scorer_agreement(evaluation, "length", 0.0, checker="kept")
    assert (agreement.overall.rate, agreement.num_pairs) == (1.0, 2 * 2 * 2)
    opposed = replace(evaluation, scores={**evaluation.scores, "short": {
        key: None if score is None else -score for key, score in evaluation.scores["length"].items()
    }})  # fmt: skip
    assert scorer_agreement(opposed, "short", 0.0, checker="kept").overall.rate == 0.0


def test_without_a_pair_that_differs_there_is_no_agreement(evaluation):
    same = replace(evaluation, scores={**evaluation.scores, "kept": dict.fromkeys(evaluation.scores["kept"], 1.0)})
    assert judge_agreement(same, judgements(lambda *_: 0.9), checker="kept") is None
    assert scorer_agreement(same, "length", 0.0, checker="kept") is None


def test_the_table_has_a_column_per_judge_that_can_be_compared(evaluation):
    agreements = {
        "length": scorer_agreement(evaluation, "length", 0.0, checker="kept"),
        "judge": judge_agreement(evaluation, judgements(lambda *_: 0.9), checker="kept"),
        "none": None,
    }
    table = agreement_table(agreements, "kept", 0.0)
    assert table.header == ("preference", "length", "judge")
    assert [row[0] for row in table.rows] == ["all", "concise", "verbose", "pairs"]
    assert table.rows[0][1].startswith("100 (")
    assert table.rows[0][2].startswith("0 (")
    assert table.rows[-1] == ("pairs", "8", "4")


def test_an_experiment_reports_the_agreement_of_a_local_judge_and_of_likelihoods(tmp_path, monkeypatch):
    top = [("A", -1.0), ("B", -2.0), ("Yes", -1.0), ("No", -2.0)]
    monkeypatch.setattr(LocalJudge, "_first_token", lambda *_: top)
    wish = Dimension("at_most_35_words", "Be concise: answer in at most 35 words.", "Answer at length.", "Few words.")
    questions = Dataset("wished", tuple(Sample(each, f"{each}?", (wish,)) for each in "ab"))
    experiment = Experiment(
        llm=tiny_llm(),
        datasets=[questions],
        folder=tmp_path,
        methods=[saying("pref", 5), saying("long", 40)],
        protocol=replace(PROTOCOL, temperatures=(0.0,)),
        judge=tiny_llm(seed=6),
        scoring_llm=tiny_llm(seed=7),
    )
    [table] = [
        table
        for section in experiment.run().sections
        for table in section.tables
        if table.title == "Agreement with kept, greedy"
    ]
    assert table.header == ("preference", FOLLOWS, HELD_OUT, HELD_OUT_OPPOSITE, "judge")
    assert table.rows[-1] == ("pairs", "2", "2", "2", "2")


def test_the_command_takes_a_folder_as_a_local_judge(tmp_path):
    tiny_model("qwen2").save_pretrained(tmp_path)
    byte_tokenizer().save_pretrained(tmp_path)
    assert isinstance(evaluation_parts.judge(str(tmp_path)), ChatAmulet)
