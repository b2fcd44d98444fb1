"""Faults in forwards, draws and rows: each answer is right or ends with an error of ours, and the next ones are right."""

import asyncio
import contextlib
import logging
import threading
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from langchain_amulet.engine.engine import Engine
from langchain_amulet.exceptions import ModelLoadError
from tests.fakes.figures import is_full
from tests.fakes.fuzzed_calls import Call, calls
from tests.fakes.fuzzed_models import PRESSED_TOKENS, fuzzed_llm, pressed
from tests.fakes.fuzzed_runs import ended, fault_of, fuzzed, rests, run_all
from tests.fakes.injected_faults import PERMITTED, Fault, fault_plans, injected
from tests.fakes.reference_answers import Outcome, expected_outcome

pytestmark = pytest.mark.filterwarnings("ignore:These preferences need", "ignore:A part of the schema")
KINDS_WITH_FAULTS = ("llama", "gemma3", "gpt_neox")


def faults_of(asked: list[Call], results: list[list[Any]], expected: list[Outcome], *, permits: bool) -> list[str]:
    return [
        f"{call}: {fault}"
        for call, got, want in zip(asked, results, expected, strict=True)
        for result in got
        if not (permits and isinstance(result, Outcome) and result.error in PERMITTED)
        and (fault := fault_of(result, want))
    ]


def check_faults(kind: str, asked: list[Call], plan: list[Fault], caplog, *, is_pressed: bool) -> None:
    """Ask all at once while faults strike, and again after them."""
    threads = {*threading.enumerate()}
    llm = fuzzed_llm(kind, pressed(kind) if is_pressed else None)
    max_cached = PRESSED_TOKENS if is_pressed else None
    expected = [expected_outcome(llm, call, max_cached) for call in asked]
    # A worker that dies logs its error, whose frames would keep the engine alive in pytest's records.
    with caplog.at_level(logging.CRITICAL, Engine.__module__), injected(llm, plan):
        results = asyncio.run(run_all(llm, asked))
        with contextlib.suppress(ModelLoadError):  # one fault has closed the engine, another strikes the next one
            rests(llm.engine)
    faults = faults_of(asked, results, expected, permits=True)
    again = asyncio.run(run_all(llm, asked))
    ended(llm.engine, threads)
    faults += faults_of(asked, again, expected, permits=False)
    assert not faults, "\n".join(faults)


def pytest_generate_tests(metafunc):
    if "kind" in metafunc.fixturenames:
        metafunc.parametrize("kind", KINDS_WITH_FAULTS if is_full(metafunc.config) else KINDS_WITH_FAULTS[:1])


def test_answers_beside_faults_are_right_and_so_are_the_next_ones(kind, is_campaign, progress, caplog):
    @fuzzed(400 if is_campaign else 5, progress, f"faults in {kind}")
    @given(st.lists(calls(max_tokens=6, is_plain=True), min_size=1, max_size=4), fault_plans, st.booleans())
    def check(asked, plan, is_pressed):
        check_faults(kind, asked, plan, caplog, is_pressed=is_pressed)

    check()
