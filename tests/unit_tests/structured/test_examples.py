"""Examples of patterns and schemas: they follow them, and prove which schemas contain themselves without end."""

import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from langchain_amulet.structured.regex_examples import example_of
from langchain_amulet.structured.schema_examples import SchemaExamples
from tests.fakes.schema_parts import INTEGER, NUMBER, TEXT, array, obj
from tests.fakes.schemas import corpus

PATTERNS = [
    r"^.+\.py$",
    r"^https://.*\.pdf$",
    r"^SELECT .+ FROM [a-z]+;$",
    r"^[A-Za-z ]+, [A-Z]{2} \d{5}$",
    r"^[^?]+\?$",
    r"^(?:a|bc){2,}[^\w\s-]\x41\u0042\t$",
    r"^(?P<year>\d{4})-[0-1]\d$",
    r"^a{0,3}[]x]+?[\d-]{3}\.{2}(b|)$",
    r"\bword\b|other{2,3}",
    r"^[\u4e00-\u9fa5]{2,4}$",
    r"^(?:(?:(?:)))x*$",
    r"^\W\D\S[^a-z]$",
    r"^[א-ת]+[😀-😄]$",
]
UNREADABLE = ["(((", "[a", "a)", "\\", r"(a)\1", "[b-\\d]", "x{1000000}", "(a{2000}){2000}", "(" * 500 + ")" * 500]
UNREADABLE += ["[" * 5000 + "a" + "]" * 5000]


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("min_length", [0, 30])
def test_example_matches_its_pattern(pattern, min_length):
    assert re.search(pattern, example_of(pattern, min_length))


@pytest.mark.parametrize("pattern", [pattern for pattern in PATTERNS if re.search(r"[+*]", pattern)])
def test_example_is_as_long_as_asked_for(pattern):
    assert len(example_of(pattern, 30)) >= 30


@pytest.mark.parametrize("pattern", UNREADABLE)
def test_pattern_that_is_not_understood_has_no_example(pattern):
    assert example_of(pattern) is None


@given(st.text(st.sampled_from("ab01.-\\[](){}^$*+?|,:=<!Pdwsux4"), max_size=20))
def test_any_text_is_read_as_a_pattern_or_has_no_example(pattern):
    example_of(pattern, 10)


@pytest.mark.parametrize(("pattern", "example"), [(r"(?i)abc", "abc"), (r"^\p{Lu}\P{L}$", "A0"), ("[[:digit:]]", "0")])
def test_syntax_that_python_lacks_is_read(pattern, example):
    assert example_of(pattern) == example


def test_examples_of_the_corpus_follow_its_schemas():
    found = {case.name: (SchemaExamples(case.schema), Draft202012Validator(case.schema)) for case in corpus()}
    wrong = {
        name
        for name, (examples, validator) in found.items()
        if examples.is_endless or examples.whole is None or not validator.is_valid(json.loads(examples.whole))
    }
    assert wrong <= {"unicode: Cyrillic pattern"}  # a pattern and a format at once, for example


SCHEMAS = [
    {"allOf": [obj({"a": INTEGER}), obj({"b": TEXT})]},
    {"anyOf": [{"minLength": 3}, {"minLength": 5}], "type": "string"},
    {"$defs": {"a/b": {"const": 'x"y'}}, "$ref": "#/$defs/a~1b"},
    {"$defs": {"n": NUMBER}, "$ref": "#/$defs/n", "minimum": 3.5},
    {"type": "integer", "exclusiveMinimum": 3, "multipleOf": 4},
    {"type": "number", "exclusiveMaximum": 0, "exclusiveMinimum": -1},
    {"type": ["array", "null"], "minItems": 2, "prefixItems": [TEXT], "items": INTEGER, "not": {"type": "null"}},
    {"type": "object", "minProperties": 3, "properties": {"a": False, "b": INTEGER}},
    {"type": "object", "required": ["z", "a"], "properties": {"a": INTEGER}, "additionalProperties": TEXT},
    {"type": "array", "items": [{"type": "null"}], "additionalItems": False, "minItems": 1},
]


@pytest.mark.parametrize("schema", SCHEMAS[:6] + SCHEMAS[7:9])
def test_example_follows_its_schema(schema):
    assert Draft202012Validator(schema).is_valid(json.loads(SchemaExamples(schema).whole))


@pytest.mark.parametrize("schema", [*SCHEMAS, True, {}, {"required": ["a"], "patternProperties": {"a": INTEGER},
                                    "additionalProperties": False, "type": "object"}])  # fmt: skip
def test_schema_that_has_instances_is_not_taken_for_endless(schema):
    assert not SchemaExamples(schema).is_endless


ENDLESS = [
    obj({"next": {"$ref": "#"}}),
    {"$defs": {"a": {"$ref": "#/$defs/b"}, "b": array({"$ref": "#/$defs/a"}, minItems=1)}, "$ref": "#/$defs/a"},
    {"anyOf": [obj({"a": {"$ref": "#"}}), obj({"b": {"$ref": "#"}})]},
    {"allOf": [obj({"a": False})]},
]


@pytest.mark.parametrize("schema", ENDLESS)
def test_schema_that_contains_itself_without_end_is_endless(schema):
    examples = SchemaExamples(schema)
    assert examples.is_endless
    assert examples.whole is None


ENDING = [
    obj({"next": {"anyOf": [{"$ref": "#"}, {"type": "null"}]}}),
    {"$defs": {"a": {"$ref": "#/$defs/b"}, "b": array({"$ref": "#/$defs/a"})}, "$ref": "#/$defs/a"},
    {"anyOf": [obj({"a": {"$ref": "#"}}), obj({"b": INTEGER})]},
    obj({"next": {"$ref": "#"}}, []),
]


@pytest.mark.parametrize("schema", ENDING)
def test_example_of_a_schema_that_contains_itself_ends(schema):
    assert Draft202012Validator(schema).is_valid(json.loads(SchemaExamples(schema).whole))


NOT_UNDERSTOOD = [
    {"$ref": "#/no"},
    {"$ref": "other.json"},
    {"$ref": 3},
    {"$ref": "#a", "$defs": {"b": {"$anchor": "a"}}},
    {"$ref": "#/$defs/b", "$defs": {"b": {"$id": "b", "$ref": "#"}}},
    {"type": 3},
    {"enum": 3},
]


@pytest.mark.parametrize("schema", NOT_UNDERSTOOD)
def test_nothing_is_concluded_from_a_schema_that_is_not_understood(schema):
    examples = SchemaExamples(schema)
    assert (examples.whole, examples.is_endless) == (None, False)


def test_nothing_is_concluded_from_a_schema_that_is_too_large():
    examples = SchemaExamples(obj({f"p{number}": TEXT for number in range(60_000)}))
    assert (examples.whole, examples.is_endless) == (None, False)
