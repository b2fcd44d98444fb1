"""Experiments on a tiny random model: tables, figures, reports and the command."""

import json
import re
from dataclasses import replace
from unittest.mock import Mock

import pytest
from langchain_core.messages import AIMessage
from markupsafe import escape
from typer.testing import CliRunner

from langchain_amulet import cli
from langchain_amulet.cli import evaluation_parts
from langchain_amulet.evaluation import (
    Dataset,
    Dimension,
    Experiment,
    Method,
    Protocol,
    Report,
    RewardModel,
    Sample,
    Scorer,
    Section,
    evaluate,
    paper_methods,
    realigned,
)
from langchain_amulet.evaluation.analysis.comparisons import Criterion
from langchain_amulet.evaluation.analysis.statistics import Estimate, win_rate
from langchain_amulet.evaluation.methods.ablations import PARAMETERS, ablation, ablation_methods
from langchain_amulet.evaluation.reports import sections
from langchain_amulet.evaluation.reports.ablation_tables import ablation_table
from langchain_amulet.evaluation.reports.plots import as_svg, parameters_to_scale, win_rate_bars
from langchain_amulet.evaluation.reports.report import Example
from langchain_amulet.evaluation.reports.summaries import equal_methods_table, main_table, means_table, ranking_table
from langchain_amulet.evaluation.reports.tables import Table, format_difference, format_estimate
from langchain_amulet.evaluation.runs.folder import JsonlRecords
from langchain_amulet.exceptions import ContextLengthError, InvalidParameterError
from tests.fakes.evaluations import BRIEF, LOUD, PROTOCOL, QUESTIONS, TOKENS, longer, referee, saying, tiny_llm


@pytest.fixture
def evaluation(tmp_path):
    methods = [saying("pref", 5), saying("more", 9), saying("less", 2), saying("alike", 9, decoding_key="more")]
    return evaluate(
        QUESTIONS, methods, [TOKENS], llm=tiny_llm(), folder=tmp_path, dimensions=[BRIEF, LOUD], protocol=PROTOCOL
    )


def test_proxies_prefer_high_or_low_scores_by_preference(evaluation):
    criterion = Criterion(evaluation)
    assert criterion.dimensions == ["concise", "verbose"]
    for dimension, best, worst in (("concise", "less", "more"), ("verbose", "more", "less")):
        rates = criterion.win_rates(dimension, 0.0, baseline="pref")
        assert (rates[best].rate, rates[worst].rate) == (1.0, 0.0)
        assert criterion.differences(dimension, 0.0, baseline="pref")["more"].mean == 4
    assert set(criterion.outcomes("more", "alike", "verbose", 0.0).values()) == {0.5}


def test_by_proxies_a_degenerate_answer_loses_to_any_other(tmp_path):
    methods = [saying("pref", 5), saying("nothing", 1), saying("little", 2)]
    broken = Scorer("degenerate", lambda answer: float(len(answer.text.split()) < 3))
    evaluation = evaluate(
        QUESTIONS, methods, [TOKENS, broken], llm=tiny_llm(), folder=tmp_path, dimensions=[BRIEF], protocol=PROTOCOL
    )
    criterion = Criterion(evaluation)
    assert set(criterion.outcomes("nothing", "pref", "concise", 0.0).values()) == {0.0}
    assert set(criterion.outcomes("nothing", "little", "concise", 0.0).values()) == {0.5}
    assert criterion.differences("concise", 0.0, baseline="pref")["nothing"].mean == -4  # scores are unchanged


def test_the_ranking_has_distinct_methods_only(evaluation):
    assert evaluation.distinct_methods == ["pref", "more", "less"]
    strengths = {each.name: each.strength for each in Criterion(evaluation).ranking(0.0)}
    assert strengths.keys() == {"pref", "more", "less"}
    assert strengths["more"] == pytest.approx(strengths["less"], abs=1e-6)  # each wins one preference of two


def test_the_main_table_marks_the_best_and_omits_methods_with_fewer_answers(tmp_path):
    few = saying("few", 100, is_search=True)
    protocol = Protocol(max_tokens=8, search_limit=1)
    evaluation = evaluate(
        QUESTIONS, [saying("pref", 5), saying("more", 9), few], [TOKENS],
        llm=tiny_llm(), folder=tmp_path, dimensions=[LOUD], protocol=protocol,
    )  # fmt: skip
    table = main_table(Criterion(evaluation), 0.0)
    assert table.header == ("dataset", "preference", "pref", "more", "few")
    assert table.rows == (
        ("two", "verbose (tokens)", "5", "**9**", ""),
        ("best, in % of rows", "", "0", "100", ""),
    )
    assert [row[-1] for row in means_table(evaluation, "tokens", 0.0).rows] == ["2", "2", "1"]


def test_tables_use_the_questions_that_all_methods_answered(tmp_path):
    def fussy(ask):
        if "Why" in ask.messages[-1].text:
            msg = "too long"
            raise ContextLengthError(msg)
        return AIMessage("a b c")

    methods = [saying("base", 4, uses_preference=False), Method("pref", fussy), saying("search", 9, is_search=True)]
    protocol = Protocol(max_tokens=8, search_limit=1)
    with pytest.warns(UserWarning, match="too long"):
        evaluation = evaluate(
            QUESTIONS, methods, [TOKENS], llm=tiny_llm(), folder=tmp_path, dimensions=[BRIEF, LOUD], protocol=protocol
        )
    rows = {row[1]: row[2:] for row in main_table(Criterion(evaluation), 0.0).rows[:-1]}
    assert rows == {"concise (tokens)": ("4", "**3**", ""), "verbose (tokens)": ("**4**", "3", "")}
    assert [row[2] for row in means_table(evaluation, "tokens", 0.0).rows] == ["**4**", "3", "9"]
    ranked = {row[0]: row[3] for row in ranking_table(Criterion(evaluation), 0.0).rows}
    assert ranked == {"base": "2", "pref": "1", "search": "1"}


def test_perplexity_may_be_skipped(tmp_path):
    plain = Experiment(
        llm=tiny_llm(), datasets=[QUESTIONS], folder=tmp_path, dimensions=[BRIEF], methods=[saying("pref", 5)],
        protocol=PROTOCOL, perplexity_limit=0,
    )  # fmt: skip
    assert "log-perplexity" not in Report("x", plain.run().sections).as_markdown()


def test_numbers_are_rounded_to_two_digits_of_their_error():
    assert format_estimate(Estimate(12.345, 0.123, 40, 40)) == "12.35 ± 0.12"
    assert format_estimate(Estimate(12.345, 3.21, 40, 40)) == "12.3 ± 3.2"
    assert format_difference(Estimate(1.0, 0.1, 40, 40)).startswith("**+1.00 (")
    assert format_difference(Estimate(10 / 3, 1e-15, 40, 2)) == "+3.33"
    assert not format_difference(Estimate(0.1, 0.1, 40, 40)).startswith("**")


def test_cells_cannot_break_a_table():
    assert "| a\\|b c |" in Table("t", ("h",), (("a|b\nc",),)).as_markdown()


def test_ablations_cover_the_papers_ranges_with_equal_decoding_keys():
    values = {name: [setting.value for setting in ablation(name)] for name in PARAMETERS}
    assert values["num_iterations"] == [0, 20, 40, 60, 80, 100]
    assert values["alpha"] == values["lam"] == [*range(1, 11)]
    at_defaults = {
        setting.method.decoding_key
        for name, value in (("num_iterations", 60), ("eta", 10), ("alpha", 2), ("lam", 2), ("guards", "none"))
        for setting in ablation(name)
        if setting.value == value
    }
    assert at_defaults == {"w=5.6487"}
    assert len({method.decoding_key for method in ablation_methods()}) < len(ablation_methods())
    with pytest.raises(InvalidParameterError, match="Choose from: num_iterations"):
        ablation("beta")


@pytest.fixture(scope="module")
def experiment(tmp_path_factory):
    methods = [method for method in paper_methods() if method.name != "context steering 3"]
    return Experiment(
        llm=tiny_llm(),
        datasets=[QUESTIONS],
        folder=tmp_path_factory.mktemp("experiment"),
        methods=methods,
        dimensions=[BRIEF, LOUD],
        protocol=PROTOCOL,
        scorers=[
            Scorer("reward", lambda answer: len({*answer.text}), better="higher", is_reward=True, is_stored=True),
        ],
        judge=referee(longer),
        ablations=("guidance_scale", "guards"),
        has_refusals=True,
        has_efficiency=True,
        title="Tiny",
    )


@pytest.fixture(scope="module")
def report(experiment):
    with pytest.MonkeyPatch.context() as patch:
        harmful = Dataset("harmful", (Sample("0", "Harm?"),))
        patch.setattr("langchain_amulet.evaluation.experiment.load_harmful", lambda: harmful)
        return experiment.run()


def test_a_report_is_complete_and_self_contained(experiment, report):
    markdown = (experiment.folder / "report.md").read_text("utf-8")
    page = (experiment.folder / "report.html").read_text("utf-8")
    for part in (
        "# Tiny", "Protocol", "classifier-free guidance 3", "w=5.6487", "log-perplexity, temperature 0.7", "intervals are approximate",
        "Ranking by Bradley-Terry (reward)", "(judge), greedy", "Ablation of guards (proxies)", "Ablation of guards (reward)", "Harmful requests", "plausibility 0.3", "### Cost",
        "## Answers", "Be loud!",
    ):  # fmt: skip
        assert part in markdown
    figures = [name for section in report.sections for name in section.figures]
    assert len(figures) > 6
    for name in figures:
        assert f"]({name}.svg)" in markdown
        assert (experiment.folder / f"{name}.svg").read_text("utf-8").startswith("<?xml")
    assert page.count("data:image/svg+xml;base64,") == len(figures)
    assert 'src="http' not in page
    assert 'href="http' not in page


def test_every_table_and_answer_is_in_markdown_and_html(experiment, report):
    markdown = (experiment.folder / "report.md").read_text("utf-8")
    page = (experiment.folder / "report.html").read_text("utf-8")
    for section in report.sections:
        for table in section.tables:
            assert f"### {table.title}" in markdown
            assert f"<h3>{escape(table.title)}</h3>" in page
        for example in section.examples:
            assert str(escape(example.preference)) in page
            assert all(f"<td>{escape(method)}</td>" in page for method, _ in example.answers)


@pytest.mark.usefixtures("report")
def test_a_second_run_generates_and_judges_nothing(experiment, monkeypatch):
    def dead(*_, **__):
        pytest.fail("asked again")

    def dead_method(name, config):
        return replace(realigned(name, config), generate=dead)

    monkeypatch.setattr("langchain_amulet.evaluation.experiment.measure", dead)
    monkeypatch.setattr("langchain_amulet.evaluation.methods.ablations.realigned", dead_method)
    again = replace(
        experiment,
        methods=[replace(method, generate=dead) for method in experiment.methods],
        scorers=[replace(scorer, score=dead) for scorer in experiment.scorers],
        judge=referee(dead),
        ablations=("guards",),
        has_refusals=False,
    )
    expected = ("setup", "greedy", "temperature 0.7", "judge", "guards", "efficiency", "examples")
    assert len(again.run().sections) == len(expected)


def test_texts_are_escaped_in_reports(tmp_path):
    evil = "<script>alert(1)</script> ``` | {{ 7*7 }}"
    table, example = Table(evil, (evil,), ((evil,),), evil), Example(evil, evil, ((evil, evil),))
    Report(evil, [Section(evil, evil, tables=[table], examples=[example])]).write(tmp_path)
    page = (tmp_path / "report.html").read_text("utf-8")
    assert "<script" not in page
    assert page.count(str(escape(evil))) == 12
    fences = [line for line in (tmp_path / "report.md").read_text("utf-8").splitlines() if line.startswith("```")]
    assert fences == ["```text", "```"]


@pytest.mark.parametrize("name", ["under $^ and $", "a" * 200, "x:y (v1)?"])
def test_any_name_works_in_figures_and_file_names(name):
    figure = win_rate_bars({name: {name: win_rate([1.0], ["q"])}}, name)
    assert as_svg(figure)
    assert re.fullmatch(r"[\w.-]+", sections.file_name("win-rates", name))


def test_every_ablation_has_a_table(tmp_path):
    methods = {method.name: replace(method, generate=saying("x", 5).generate) for method in ablation_methods()}
    evaluation = evaluate(
        QUESTIONS, [*methods.values()], [TOKENS, Scorer("degenerate", lambda _: 0.0)],
        llm=tiny_llm(), folder=tmp_path, dimensions=[BRIEF, LOUD], protocol=PROTOCOL,
    )  # fmt: skip
    for name in PARAMETERS:
        table = ablation_table(Criterion(evaluation), name, 0.0)
        assert [row[0] for row in table.rows] == [setting.label for setting in ablation(name)]
        assert [bool(row[2]) for row in table.rows] == [setting.method is not None for setting in ablation(name)]
        assert "Number of questions: 2. Below 30" in table.note
    assert (
        "Not run, since w is above the limit of 10000: 7, 8, 9, 10."
        in ablation_table(Criterion(evaluation), "alpha", 0.0).note
    )


def test_a_table_lists_methods_with_equal_answers():
    rows = equal_methods_table({method.name: method for method in paper_methods()}).rows
    assert ("w=3", "linear alignment 2, classifier-free guidance 3") in rows


def test_figures_are_reproducible():
    assert as_svg(parameters_to_scale()) == as_svg(parameters_to_scale())


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"methods": paper_methods()[:1]}, "compared with pref"),
        ({"methods": paper_methods()[1:], "has_refusals": True}, "such as base"),
        ({"ablations": ("beta",)}, "Choose from: num_iterations"),
        ({"ablation_limit": 0}, "ablation_limit"),
        ({"perplexity_limit": -1}, "perplexity_limit"),
    ],
)
def test_invalid_experiments_raise_before_any_answer(experiment, values, message):
    with pytest.raises(InvalidParameterError, match=message):
        replace(experiment, **values)


def test_preferences_without_a_proxy_have_no_ablation_table(tmp_path):
    formal = Experiment(
        llm=tiny_llm(), datasets=[QUESTIONS], folder=tmp_path, dimensions=["formal"], ablations=("guards",),
        methods=[saying("pref", 5)], protocol=replace(PROTOCOL, max_tokens=2),
    )  # fmt: skip
    assert formal.run().sections[-2].tables == []


def test_the_command_writes_a_report(tmp_path, monkeypatch):
    monkeypatch.setattr(evaluation_parts, "chat_model", lambda _: tiny_llm())
    questions = tmp_path / "questions.jsonl"
    questions.write_text(json.dumps({"index": 1, "question": "Why?"}) + "\n", "utf-8")
    arguments = ["eval", str(questions), "--folder", str(tmp_path / "run"), "--method", "base", "--method", "pref",
                 "--preference", "concise", "--preference", "Rhyme.", "--max-tokens", "4", "--temperature", "0.5"]  # fmt: skip
    result = CliRunner().invoke(cli.app, arguments)
    assert result.exit_code == 0, result.output
    assert "Rhyme." in (tmp_path / "run" / "report.md").read_text("utf-8")
    answers = [*JsonlRecords(tmp_path / "run" / "answers.jsonl")]
    assert {(each["temperature"], each["dimension"]) for each in answers} == {
        (0.5, "concise"),
        (0.5, "Rhyme."),
        (0.5, ""),
    }
    assert max(each["num_tokens"] for each in answers) <= 4


def test_options_reach_the_experiment(monkeypatch):
    experiments = []
    monkeypatch.setattr(Experiment, "run", lambda self: experiments.append(self) or None)
    monkeypatch.setattr(RewardModel, "load", lambda _: None)
    monkeypatch.setattr(evaluation_parts, "judge", lambda _: referee(longer))
    arguments = ["eval", "--model", "m", "--temperature", "0", "--temperature", "0.7", "--top-p", "0.8", "--seed", "3",
                 "--limit", "2", "--search-limit", "1", "--num-at-once", "5", "--max-tokens", "9", "--ablation", "all",
                 "--ablation-limit", "4", "--reward-model", "armorm", "--reward-model", "skywork", "--judge", "x:y",
                 "--perplexity-limit", "6", "--refusals", "--efficiency"]  # fmt: skip
    CliRunner().invoke(cli.app, arguments, catch_exceptions=False)
    [experiment] = experiments
    assert experiment.protocol == Protocol(
        (0.0, 0.7), top_p=0.8, max_tokens=9, seed=3, limit=2, search_limit=1, num_at_once=5
    )
    assert (experiment.llm.model, experiment.ablations, experiment.ablation_limit) == ("m", PARAMETERS, 4)
    assert experiment.perplexity_limit == 6
    assert (experiment.has_refusals, experiment.has_efficiency, experiment.judge._llm_type) == (True, True, "referee")
    assert [scorer.name for scorer in experiment.scorers] == ["armorm", "skywork"]
    assert [dataset.name for dataset in experiment.datasets] == ["smoke"]
    assert {"beam search 16", "best of 4", "base"} <= {method.name for method in experiment.methods}


@pytest.mark.parametrize(
    ("error", "status", "words"),
    [(KeyboardInterrupt(), 130, "the same command resumes"), (OSError(28, "No space left"), 2, "No space left")],
)
def test_command_that_is_interrupted_or_cannot_write_says_so(error, status, words, monkeypatch, tmp_path):
    monkeypatch.setattr(Experiment, "run", Mock(side_effect=error))
    result = CliRunner().invoke(cli.app, ["eval", "--folder", str(tmp_path)])
    assert (result.exit_code, words in result.output) == (status, True)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere.json"], "There is no dataset or file nowhere.json"),
        (["--method", "magic"], "Unknown method 'magic'"),
        (["--method", "base"], "add it to the methods"),
        (["--limit", "0"], "limit must be at least 1"),
        (["--ablation", "beta"], "Unknown ablation 'beta'"),
        (["--reward-model", "/nowhere"], "The reward model /nowhere cannot be loaded"),
        (["--judge", "nobody:none"], "Name a chat model as PROVIDER:MODEL"),
        (["--judge", "missing"], "GGUF file of a local judge"),
        (["--judge", "missing.gguf"], "--judge missing.gguf: There is no file or folder 'missing.gguf'"),
        (
            ["--scoring-model", "missing.gguf"],
            "--scoring-model missing.gguf: There is no file or folder 'missing.gguf'",
        ),
    ],
)
def test_errors_of_the_command_precede_all_answers(arguments, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(cli.app, ["eval", *arguments])
    assert result.exit_code == 2
    assert message in result.output
    assert [*tmp_path.iterdir()] == []


def test_a_table_of_many_preferences_has_a_row_for_each(tmp_path):
    many = [Dimension(f"preference {i}", "Be brief.") for i in range(9)]
    evaluation = evaluate(
        QUESTIONS, [saying("pref", 5), saying("more", 9)], [TOKENS],
        llm=tiny_llm(), folder=tmp_path, dimensions=many, protocol=Protocol(),
    )  # fmt: skip
    table = means_table(evaluation, "tokens", 0.0)
    assert table.header == ("preference", "pref", "more")
    assert table.rows == (*((each.name, "5", "9") for each in many), ("questions", "2", "2"))
    assert len(sections.examples_section(evaluation).examples) == len(many)
