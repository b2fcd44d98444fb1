"""Folders that earlier versions of the package wrote stay valid."""

from langchain_amulet.evaluation import evaluator, paper_methods
from tests.fakes.evaluations import PROTOCOL, tiny_llm


def test_keys_of_the_papers_methods_do_not_change():
    assert [method.decoding_key for method in paper_methods()] == [
        "w=0",
        "w=1",
        "w=3",
        "w=6 nucleus=0.8/0.5",
        "w=2",
        "w=4",
        "w=3",
        "w=1.5 plausibility=0.1",
        "w=5.6487",
        "w=5.6487 plausibility=0.1",
        "w=8 plausibility=0.1",
    ]


def test_settings_that_came_later_are_stored_only_where_they_differ_from_their_default():
    llm = tiny_llm()
    config = evaluator._config(llm, PROTOCOL)
    assert "ignore_unsupported_keywords" not in config
    assert evaluator._config(llm.model_copy(update={"ignore_unsupported_keywords": True}), PROTOCOL) != config
