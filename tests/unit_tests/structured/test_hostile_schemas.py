"""Schemas that would stall their caller or others are refused with the reason and the remedy, at little cost."""

import json
import threading
import time
import tracemalloc
from functools import partial
from typing import Any

import pytest
from pydantic import create_model

from langchain_amulet.exceptions import SchemaError
from langchain_amulet.structured import endings
from langchain_amulet.structured.constraints import Constraints
from langchain_amulet.structured.grammar import GrammarCompiler
from langchain_amulet.structured.output_spec import as_openai_tool, check_schema, output_spec
from langchain_amulet.structured.regex_examples import example_of
from langchain_amulet.structured.schema_examples import SchemaExamples
from langchain_amulet.structured.tool_formats import HERMES
from tests.fakes.chat_templates import byte_tokenizer
from tests.fakes.counted_matcher import count_matchers
from tests.fakes.models import VOCAB_SIZE
from tests.fakes.roomy import roomy_chat
from tests.fakes.schema_parts import INTEGER, TEXT, array, obj

NESTED = {"type": "string", "pattern": "^(a{1000}){1000}$"}
OPTIONAL = {f"o{i}": obj({f"p{j}": INTEGER for j in range(80)}, required=[]) for i in range(80)}
EXPENSIVE = {
    "nested repetitions": NESTED,
    "nested repetitions in an object": obj({"a": TEXT, "b": NESTED}),
    "many optional properties": obj(OPTIONAL, required=[]),
    "a long enum": {"enum": [f"{number * 7919}" * 3 for number in range(15_000)]},
}
BEYOND_A_LIMIT = {
    "sum is up to 10000": {"type": "integer", "multipleOf": 99991},
    "least common multiple": {"allOf": [{"type": "integer", "multipleOf": step} for step in (97, 89, 83)]},
    "Use enum": {"type": "string", "pattern": "|".join(f"word{number}" for number in range(5000))},
    "101 patterns in patternProperties": {"patternProperties": {f"^{number}x.*$": {} for number in range(101)}},
    "up to 20000 parts": {"anyOf": [{"const": number} for number in range(20_000)]},
    "1000000 characters": {"description": "x" * 1_000_001},
}


def guide(constraints: Constraints, schema: Any) -> None:
    response_format = {"type": "json_object", "schema": schema}
    constraints.guide(output_spec({"response_format": response_format}), is_steered=False)


@pytest.fixture
def constraints() -> Constraints:
    return Constraints(GrammarCompiler(byte_tokenizer(), VOCAB_SIZE, [2]), {}, HERMES)


@pytest.mark.parametrize("schema", EXPENSIVE.values(), ids=EXPENSIVE)
def test_expensive_schema_is_refused_with_the_remedy_and_the_refusal_is_remembered(constraints, schema, monkeypatch):
    matchers, calls, messages = count_matchers(monkeypatch), [], []
    for _ in range(2):
        before = matchers.num_calls
        with pytest.raises(SchemaError, match=r"too large, or its patterns.*Use a smaller schema") as caught:
            guide(constraints, schema)
        calls.append(matchers.num_calls - before)
        messages.append(str(caught.value))
    assert calls[1] == 0
    assert messages[0] == messages[1]
    assert "\n" not in messages[0]


@pytest.mark.parametrize(("reason", "schema"), BEYOND_A_LIMIT.items())
def test_schema_beyond_a_limit_is_refused_before_it_is_compiled(reason, schema):
    with pytest.raises(SchemaError, match=reason):
        check_schema(schema)


@pytest.mark.parametrize("step", [2, 0.01, 1e-8, 1_000_000, 4096, 999])
def test_everyday_steps_are_accepted(step):
    assert check_schema({"type": "number", "multipleOf": step})


def test_schema_whose_parts_stand_at_2_to_the_60_places_is_refused():
    schema: dict[str, Any] = dict(INTEGER)
    for _ in range(60):
        schema = {"a": schema, "b": schema}
    with pytest.raises(SchemaError, match=r"counted at each place.*\$defs"):
        check_schema(schema)


def test_class_whose_parts_are_expanded_to_2_to_the_40_places_is_refused_before_it_is_expanded():
    parts: list[Any] = [create_model("Leaf", value=(int, ...))]
    for number in range(40):
        parts.append(create_model(f"Part{number}", a=(parts[-1], ...), b=(parts[-1], ...)))
    with pytest.raises(SchemaError, match=r"counted at each place"):
        as_openai_tool(parts[-1])


def peak_memory(action) -> int:
    tracemalloc.start()
    try:
        action()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_example_of_long_lists_of_long_lists_takes_little_memory():
    long = array(array(INTEGER, minItems=20_000), minItems=1000)
    assert peak_memory(partial(SchemaExamples, long)) < 10_000_000


def test_ends_of_long_strings_take_little_memory(constraints):
    words = obj({f"p{number}": {"type": "string", "pattern": f"^x{{1900}}y{number}$"} for number in range(20)})
    hints = endings.Hints(constraints._compiler.vocabulary, f"start: %json {json.dumps(words)}")
    assert hints.values  # computes the examples
    assert peak_memory(lambda: hints.closings) < 5_000_000


def doubling(keyword: str) -> dict[str, Any]:
    parts = {f"d{number}": {keyword: [{"$ref": f"#/$defs/d{number + 1}"}] * 2} for number in range(30)}
    return {"$defs": {**parts, "d30": INTEGER}, "$ref": "#/$defs/d0"}


def test_examples_read_a_limited_number_of_parts(monkeypatch):
    read: list[int] = []
    visit = SchemaExamples._visit
    monkeypatch.setattr(SchemaExamples, "_visit", lambda self, number=1: (read.append(number), visit(self, number)))
    values = {"$defs": {"e": {"enum": [*range(5000)]}}, "anyOf": [{"$ref": "#/$defs/e", "type": "integer"}] * 500}
    for schema in (doubling("allOf"), values):
        read.clear()
        assert SchemaExamples(schema).whole is None
        assert sum(read[:-1]) <= 20_000


def test_pattern_of_many_strange_classes_has_no_example():
    assert example_of("".join(f"[\\x{{{code:x}}}]" for code in range(0x3000, 0x3000 + 1500))) is None


def test_search_ends_when_its_processor_time_is_used_up(constraints, monkeypatch):
    matchers, num_calls, clock = count_matchers(monkeypatch), [], iter(range(10**6))
    for pattern, unit_s in (("^[a-z]+$", 0.0), ("^[b-z]+$", 0.2)):
        monkeypatch.setattr(time, "thread_time", lambda unit_s=unit_s: next(clock) * unit_s)
        before = matchers.num_calls
        guide(constraints, {"type": "string", "pattern": pattern, "minLength": 3000})
        num_calls.append(matchers.num_calls - before)
    assert num_calls[1] < num_calls[0] / 5


async def test_async_calls_compile_outside_the_thread_of_the_event_loop(monkeypatch):
    threads: list[threading.Thread] = []
    compiled = GrammarCompiler.compile

    def compile_(self: GrammarCompiler, text: str) -> Any:
        threads.append(threading.current_thread())
        return compiled(self, text)

    monkeypatch.setattr(GrammarCompiler, "compile", compile_)
    llm = roomy_chat().with_structured_output({"title": "n", **INTEGER}, method="json_mode")
    await llm.ainvoke("Go.")
    assert [chunk async for chunk in llm.astream("Go.")]
    assert threads
    assert threading.current_thread() not in threads
