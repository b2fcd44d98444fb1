"""Published patterns and schemas: each is followed, or refused with the true reason, soon; the second time at once."""

import asyncio
import contextlib
import json
import re
import warnings
from functools import cache
from typing import NamedTuple

import pytest
import regex  # type: ignore[import-untyped]  # its types are a package of their own
import torch
from jsonschema import Draft202012Validator
from jsonschema.exceptions import SchemaError as InvalidSchema
from langchain_core.messages import AIMessage
from transformers import AutoModelForCausalLM, LlamaConfig

from langchain_amulet import ChatAmulet
from langchain_amulet.exceptions import MaxTokensError, SchemaError
from tests.fakes.chat_templates import byte_tokenizer
from tests.fakes.counted_matcher import CountedMatcher, count_matchers
from tests.fakes.figures import count
from tests.fakes.judge import exact, fault_of
from tests.fakes.models import GROUPED
from tests.fakes.real_schemas import RealSchema, real_schemas, some_real_schemas
from tests.fakes.witness import refusal_of_llguidance, witness

MAX_TOKENS = 512
NUM_AT_ONCE = 40
NUM_BY_DEFAULT = 12
MOST_WORK = 10_000  # calls of llguidance before the first token of an answer
MOST_WORK_AGAIN = 10  # the same, the second time
MOST_CUT = 0.02  # of the answers may reach max_tokens before their end
MOST_UNJUDGED = 0.05


class Outcome(NamedTuple):
    """What became of one schema."""

    case: RealSchema
    kind: str  # followed, cut, refused, unjudged
    fault: str | None = None

    def __str__(self) -> str:
        return f"{self.case.name}: {self.kind}: {self.fault}: {json.dumps(self.case.schema)[:300]}"


@cache
def tiny_llm() -> ChatAmulet:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = LlamaConfig(**{**GROUPED, "max_position_embeddings": 8192, "num_hidden_layers": 1})
        model = AutoModelForCausalLM.from_config(config).to(torch.float32).eval()
    return ChatAmulet(model=model, tokenizer=byte_tokenizer(), max_tokens=MAX_TOKENS, temperature=1.0)


def asked(case: RealSchema, **settings):
    described = {"type": "json_schema", "json_schema": {"name": "answer", "schema": case.schema}}
    return tiny_llm().bind(response_format=described, seed=0, **settings)


async def outcomes_of(cases: list[RealSchema]) -> list[Outcome]:
    found = []
    for start in range(0, len(cases), NUM_AT_ONCE):
        part = cases[start : start + NUM_AT_ONCE]
        answers = await asyncio.gather(*(asked(case).ainvoke("Go.") for case in part), return_exceptions=True)
        found += [judge(case, answer) for case, answer in zip(part, answers, strict=True)]
    return found


def judge(case: RealSchema, answer: AIMessage | BaseException) -> Outcome:
    if isinstance(answer, SchemaError | MaxTokensError):
        return judge_refusal(case, str(answer))
    if isinstance(answer, BaseException):
        return Outcome(case, "refused", f"another error: {answer!r}")
    if answer.response_metadata["finish_reason"] == "length":
        return Outcome(case, "cut")
    return judge_text(case, answer.text)


def judge_text(case: RealSchema, text: str) -> Outcome:
    """Python's patterns differ from JavaScript's in what $ matches, and lack some classes: those have other judges."""
    try:
        if case.is_pattern:
            matches = regex.search(case.schema["pattern"], json.loads(text))
            return Outcome(case, "followed", None if matches else f"{text!r} does not match")
        Draft202012Validator.check_schema(case.schema)
        return Outcome(case, "followed", fault_of(json.loads(text, parse_float=exact), case.schema))
    except (regex.error, re.error, InvalidSchema):
        return Outcome(case, "unjudged")


def judge_refusal(case: RealSchema, message: str) -> Outcome:
    """A refusal is true if llguidance refuses for that reason, or if no simple text satisfies the schema."""
    reason = refusal_of_llguidance(case.schema)
    if reason:
        return Outcome(case, "refused", None if is_same_reason(message, reason) else f"{message!r} is not {reason!r}")
    needed = re.search(r"found takes (\d+)", message)
    text = witness(case, int(needed[1]) - 1 if needed else MAX_TOKENS)
    return Outcome(case, "refused", text and f"{text!r} would do, but {message!r}")


def is_same_reason(message: str, reason: str) -> bool:
    if "oneOf" in reason:
        return "oneOf" in message
    words = {*re.findall(r"\w{3,}", reason)}
    return len(words & {*re.findall(r"\w{3,}", message)}) >= len(words) / 2


@pytest.fixture(scope="module")
def outcomes(is_campaign) -> list[Outcome]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        cases = [*real_schemas()] if is_campaign else some_real_schemas(NUM_BY_DEFAULT)
        outcomes = asyncio.run(outcomes_of(cases))
    for outcome in outcomes:
        count(f"published schemas {outcome.kind}")
        count("wrong answers" if outcome.kind == "followed" else "false refusals", bool(outcome.fault))
    count("requests", len(outcomes))
    return outcomes


def test_published_schemas_are_followed_or_refused_with_the_true_reason(outcomes):
    faults = [str(outcome) for outcome in outcomes if outcome.fault]
    assert not faults, f"{len(faults)} of {len(outcomes)} are wrong:\n" + "\n".join(faults)


def test_answers_to_published_schemas_end_in_time(outcomes):
    cut = [str(outcome) for outcome in outcomes if outcome.kind == "cut"]
    assert len(cut) <= MOST_CUT * len(outcomes), "\n".join(cut)


def test_nearly_all_are_judged(outcomes):
    unjudged = [str(outcome) for outcome in outcomes if outcome.kind == "unjudged"]
    assert len(unjudged) <= MOST_UNJUDGED * len(outcomes), "\n".join(unjudged)
    assert sum(outcome.kind == "followed" for outcome in outcomes) > len(outcomes) / 2


def work_of_first_token(case: RealSchema, matchers: type[CountedMatcher]) -> int:
    """Return the calls of llguidance outside the engine's thread until the first chunk of an answer, or a refusal."""
    before = matchers.num_calls
    with contextlib.suppress(SchemaError, MaxTokensError), contextlib.closing(asked(case).stream("Go.")) as stream:
        next(stream)
    return matchers.num_calls - before


@pytest.mark.filterwarnings("ignore:A part of the schema")
def test_work_before_the_first_token_is_bounded_and_done_once(monkeypatch, is_campaign):
    matchers = count_matchers(monkeypatch)
    cases = [*real_schemas()] if is_campaign else some_real_schemas(NUM_BY_DEFAULT, seed=1)
    works = {case.name: [work_of_first_token(case, matchers) for _ in range(2)] for case in cases}
    assert {name: work for name, work in works.items() if work[0] > MOST_WORK} == {}
    assert {name: work for name, work in works.items() if work[1] > MOST_WORK_AGAIN} == {}
