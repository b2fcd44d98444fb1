"""A tiny random model, and a short evaluation of it."""

import pytest

from langchain_amulet import ChatAmulet
from langchain_amulet.evaluation import evaluate, paper_methods
from tests.fakes.evaluations import BRIEF, LENGTH, LOUD, PROTOCOL, QUESTIONS, tiny_llm


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
