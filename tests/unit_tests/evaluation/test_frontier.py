"""The frontier: adherence against coherence, paired with prompting, chosen on one half and reported on the other."""

from dataclasses import replace

import pytest
from langchain_core.messages import AIMessage

from langchain_amulet.evaluation import Dataset, Dimension, Experiment, Method, Protocol, Sample, Scorer, evaluate
from langchain_amulet.evaluation.analysis.frontier import Frontier, frontiers
from langchain_amulet.evaluation.analysis.statistics import estimate, paired_ratio, wilson_interval
from langchain_amulet.evaluation.methods.steering import REPEATED, repeated_preference, steering_method
from langchain_amulet.evaluation.reports.frontier_plots import frontier_plot
from langchain_amulet.evaluation.reports.frontier_tables import (
    adherence_table,
    chosen_table,
    coherence_table,
    preferences_table,
)
from langchain_amulet.evaluation.reports.plots import as_svg
from langchain_amulet.evaluation.runs.folder import JsonlRecords
from langchain_amulet.exceptions import InvalidParameterError
from tests.fakes.evaluations import tiny_llm

WISHES = (Dimension("loud", "Be loud."), Dimension("short", "Be short."))
LOW, HIGH, WILD = (f"opposite contrast, w={w}, plausibility 0.1" for w in (2, 3, 8))


def half(name):
    return Dataset(f"set-{name}", tuple(Sample(f"{i}", f"{name} {i}?", WISHES) for i in range(6)))


def drawn(name, share, broken=0.0, **values):
    """A method of which this share of answers keeps its preference, and this share is degenerate."""

    def answer(ask):
        number = int(ask.messages[-1].text.split()[-1].strip("?"))
        place = (2 * number + ("loud" in ask.preference)) / 12
        return AIMessage(f"{'kept' * (place < share)} {'broken' * (place < broken)}")

    return Method(name, answer, **values)


def steered(name, share, broken=0.0):
    return replace(steering_method(name), generate=drawn(name, share, broken).generate)


SCORERS = (
    Scorer("kept", lambda answer: float("kept" in answer.text), better="higher"),
    Scorer("degenerate", lambda answer: float("broken" in answer.text), better="lower"),
    Scorer("never", lambda _: 0.0, better="lower"),
    Scorer("nll", lambda answer: 2.0 + ("broken" in answer.text), better="lower"),
)


@pytest.fixture(scope="module")
def evaluation(tmp_path_factory):
    methods = [
        drawn("base", 0.1, uses_preference=False), drawn("pref", 0.3), drawn(REPEATED, 0.4),
        steered(LOW, 0.6), steered(HIGH, 0.8), steered(WILD, 1.0, broken=0.9),
    ]  # fmt: skip
    return evaluate(
        [half("choose"), half("report")], methods, SCORERS, llm=tiny_llm(),
        folder=tmp_path_factory.mktemp("run"), protocol=Protocol(max_tokens=8),
    )  # fmt: skip


@pytest.fixture(scope="module")
def halves(evaluation):
    return frontiers(
        evaluation, 0.0, adherence=["kept", "none"], degenerate="degenerate", nll="nll", repeated=REPEATED
    )  # fmt: skip


def test_halves_are_apart_and_other_datasets_together(evaluation, tmp_path):
    names = [each.datasets for each in frontiers(evaluation, 0.0, adherence=["kept"], degenerate="degenerate")]
    assert names == [("set-choose",), ("set-report",)]
    others = [replace(half("a"), name="a"), replace(half("b"), name="b")]
    again = evaluate(others, [drawn("pref", 1)], SCORERS, llm=tiny_llm(), folder=tmp_path, protocol=Protocol())
    [both] = frontiers(again, 0.0, adherence=["kept"], degenerate="degenerate")
    assert both.datasets == ("a", "b")
    assert both.figures("kept", "pref").num_answers == 2 * 6 * 2


def test_figures_pair_answers_by_preference_and_question(halves):
    choose = halves[0]
    ours, theirs = choose.cells("kept", HIGH), choose.cells("kept", "pref")
    figures = choose.figures("kept", HIGH)
    assert figures.gain.mean == pytest.approx(sum(ours[each] - theirs[each] for each in ours) / len(ours))
    assert (figures.mean.num_clusters, figures.mean.num_values, figures.num_answers) == (6, 12, 12)
    assert figures.ratio.mean == pytest.approx(sum(ours.values()) / sum(theirs.values()))
    assert choose.figures("kept", "pref").gain is None
    assert choose.figures("kept", REPEATED).gain_over_repeated is None
    assert choose.figures("kept", HIGH, ["loud"]).num_answers == 6


def test_one_preference_is_a_part_of_all(halves):
    each = [halves[0].figures("kept", HIGH, [name]).mean for name in ("loud", "short")]
    assert sum(mean.mean for mean in each) / 2 == pytest.approx(halves[0].figures("kept", HIGH).mean.mean)


def test_the_best_method_is_coherent_steering(halves):
    assert not halves[0].is_coherent(WILD)
    assert halves[0].figures("kept", WILD).mean.mean == 1.0
    assert halves[0].best(5) == [HIGH, LOW]
    assert halves[0].shown(1) == ["base", "pref", REPEATED, WILD]


def test_less_likely_answers_are_not_coherent(evaluation, halves):
    by_nll = replace(halves[0], degenerate="never")
    assert (by_nll.is_coherent(WILD), by_nll.is_coherent(HIGH)) == (False, True)
    assert Frontier(evaluation, ("set-choose",), 0.0, adherence="kept", degenerate="never").is_coherent(WILD)


def test_what_is_chosen_on_one_half_is_reported_on_the_other(halves):
    choose, report = halves
    table = chosen_table(choose, report)
    assert [row[0] for row in table.rows] == [HIGH, LOW]
    assert table.rows[0][1].startswith(f"{100 * choose.figures('kept', HIGH).mean.mean:.1f} (")
    assert table.rows[0][2].startswith(f"{100 * report.figures('kept', HIGH).mean.mean:.1f} (")
    assert "set-choose" in table.note


def test_tables_have_every_method_and_preference(halves):
    methods = ["base", "pref", REPEATED, LOW, HIGH, WILD]
    adherence, coherence = adherence_table(halves[0]), coherence_table(halves[0])
    assert [row[0] for row in adherence.rows] == [row[0] for row in coherence.rows] == methods
    assert [row[-1] for row in adherence.rows] == ["12"] * 6
    assert [row[-1] for row in coherence.rows][-2:] == ["yes", "no"]
    assert adherence.rows[-1][1].startswith("**100.0 (")
    assert [row[0] for row in preferences_table(halves[0]).rows] == ["loud", "short"]


def test_the_plot_has_a_curve_per_contrast_and_guards(halves):
    figure = frontier_plot(halves[0])
    labels = figure.axes[0].get_legend_handles_labels()[1]
    assert labels == ["opposite contrast, plausibility 0.1", "base", "pref", REPEATED]
    assert {text.get_text() for text in figure.axes[0].texts} == {"2", "3", "8"}
    assert as_svg(figure) == as_svg(frontier_plot(halves[0]))


def test_a_ratio_to_a_constant_is_a_scaled_mean():
    values = {i: float(i % 5) for i in range(40)}
    clusters = {i: i // 4 for i in values}
    ratio = paired_ratio(values, dict.fromkeys(values, 2.0), clusters)
    mean = estimate([*values.values()], [*clusters.values()])
    assert [ratio.mean, ratio.stderr] == pytest.approx([mean.mean / 2, mean.stderr / 2])
    with pytest.raises(InvalidParameterError, match="a mean above 0"):
        paired_ratio(values, dict.fromkeys(values, 0.0), clusters)


def test_a_share_of_none_has_an_interval_above_zero():
    low, high = wilson_interval(estimate([0.0] * 20, [*range(10)] * 2))
    assert low == 0 < high < 0.5


def test_only_chosen_methods_run_on_the_other_half(tmp_path):
    def lowercase(name, share):
        def answer(ask):
            is_kept = int(ask.messages[-1].text.strip("?")) < 10 * share
            return AIMessage("all is well" if is_kept else "ALL IS WELL")

        return replace(steering_method(name), generate=answer) if "w=" in name else Method(name, answer)

    wish = Dimension("lowercase", "Write in lowercase.")
    halves = [
        Dataset(f"v-{name}", tuple(Sample(f"{i}", f"{i}?", (wish,)) for i in range(10)))
        for name in ("choose", "report")
    ]
    methods = [lowercase("pref", 0.2), lowercase(LOW, 0.5), lowercase(HIGH, 0.9), lowercase(WILD, 0.7)]
    experiment = Experiment(
        llm=tiny_llm(), datasets=halves, folder=tmp_path, methods=methods, perplexity_limit=0, num_chosen=2
    )  # fmt: skip
    experiment.run()
    answered = {(each["dataset"], each["run"]) for each in JsonlRecords(tmp_path / "answers.jsonl")}
    keys = {method.name: method.decoding_key for method in methods}
    assert {run for dataset, run in answered if dataset == "v-choose"} == {*keys.values()}
    assert {run for dataset, run in answered if dataset == "v-report"} == {keys["pref"], keys[HIGH], keys[WILD]}
    assert "### Adherence (kept), v-choose, greedy" in (tmp_path / "report.md").read_text("utf-8")
    with pytest.raises(InvalidParameterError, match="needs datasets whose names end in -choose"):
        replace(experiment, datasets=halves[1:])


def test_the_report_of_verifiable_preferences_has_a_frontier(tmp_path):
    wish = Dimension("lowercase", "Write in lowercase.", opposite="Write with capital letters.")
    questions = [Dataset(f"v-{name}", (Sample("0", f"{name} 0?", (wish,)),)) for name in ("choose", "report")]
    methods = [drawn("pref", 0.5), repeated_preference(), steering_method(LOW)]
    experiment = Experiment(
        llm=tiny_llm(), datasets=questions, folder=tmp_path, methods=methods, perplexity_limit=0,
        protocol=Protocol((0.0, 0.7), max_tokens=8, num_seeds=2), scoring_llm=tiny_llm(6),
    )  # fmt: skip
    experiment.run()
    markdown = (tmp_path / "report.md").read_text("utf-8")
    for part in (
        "## Frontier, greedy", "## Frontier, temperature 0.7", "### Adherence (kept), v-choose, greedy",
        "### Adherence (held-out likelihood), v-report", "### Chosen on one half, reported on the other",
        "NLL under the preference", "frontier-v-choose-kept-greedy.svg",
    ):  # fmt: skip
        assert part in markdown
