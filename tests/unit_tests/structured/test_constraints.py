"""Schemas with parts that the grammar cannot enforce are refused, or these parts are ignored with a warning."""

import json
import random
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from pydantic import BaseModel, SecretStr

from langchain_amulet.engine.guide import GuideFactory
from langchain_amulet.exceptions import SchemaError
from langchain_amulet.structured.constraints import Constraints
from langchain_amulet.structured.grammar import Grammar, GrammarCompiler
from langchain_amulet.structured.output_spec import GRAMMAR_FORMATS, output_spec, without_annotations
from langchain_amulet.structured.tool_formats import HERMES
from tests.fakes.chat_templates import byte_tokenizer
from tests.fakes.models import VOCAB_SIZE
from tests.fakes.roomy import roomy_chat
from tests.fakes.schema_parts import INTEGER, NUMBER, TEXT, array, obj
from tests.fakes.schemas import BAD_SCHEMAS, corpus

EOS = 2
TOKENIZER = byte_tokenizer()
CONSTRAINTS = Constraints(GrammarCompiler(TOKENIZER, VOCAB_SIZE, [EOS]), {}, HERMES)
REMEDIES = r"Leave this part out of the schema, or pass ignore_unsupported_keywords=True"

UNIQUE = obj({"tags": array(INTEGER, uniqueItems=True)}, title="Tags")
UNSUPPORTED = {
    "uniqueItems": UNIQUE,
    "contains": array(INTEGER, contains={"const": 1}),
    "not": {"not": TEXT},
    "if": {"if": TEXT, "then": {"minLength": 2}},
    "oneOf whose branches": {"oneOf": [INTEGER, NUMBER]},
    "dependentRequired": {"type": "object", "dependentRequired": {"a": ["b"]}},
}


def guide_of(schema: Any, **arguments: Any) -> GuideFactory | None:
    response_format = {"type": "json_object", "schema": schema}
    return CONSTRAINTS.guide(output_spec({"response_format": response_format, **arguments}), is_steered=False)


def guide_of_tool(parameters: Any, **arguments: Any) -> GuideFactory | None:
    tool = {"type": "function", "function": {"name": "save", "description": "Save.", "parameters": parameters}}
    return CONSTRAINTS.guide(output_spec({"tools": [tool], **arguments}), is_steered=False)


def random_answer(factory: GuideFactory | None, max_tokens: int = 200) -> Any:
    assert factory is not None
    guide, choose = factory(max_tokens), random.Random(0)
    tokens: list[int] = []
    while not guide.is_complete:
        num_left = max_tokens - len(tokens)
        tokens.append(guide.accept(choose.choice(guide.allowed(num_left).nonzero().flatten().tolist()), num_left))
    return json.loads(TOKENIZER.decode([token_id for token_id in tokens if token_id != EOS]))


@pytest.mark.parametrize("part", UNSUPPORTED)
def test_part_that_the_grammar_cannot_enforce_is_refused_with_both_remedies(part):
    with pytest.raises(SchemaError, match=rf"of the response format.*cannot enforce: .*{part}.*{REMEDIES}"):
        guide_of(UNSUPPORTED[part])


@pytest.mark.parametrize("choice", ["any", "auto"])
def test_unsupported_part_of_a_tool_is_refused(choice):
    with pytest.raises(SchemaError, match=rf"of the tools \['save'\] .*uniqueItems.*{REMEDIES}"):
        guide_of_tool(UNIQUE, tool_choice=choice)


def test_refusal_is_one_line_that_does_not_repeat_the_schema():
    with pytest.raises(SchemaError) as caught:
        guide_of(UNIQUE)
    assert "\n" not in str(caught.value)
    assert "properties" not in str(caught.value)


@pytest.mark.parametrize("part", UNSUPPORTED)
def test_part_is_ignored_with_a_warning_where_the_caller_allows_it(part):
    with pytest.warns(UserWarning, match=f"response format.* is ignored, so the JSON may violate it: .*{part}"):
        factory = guide_of(UNSUPPORTED[part], ignore_unsupported_keywords=True)
    random_answer(factory)


def test_other_parts_of_the_schema_are_enforced_where_one_is_ignored():
    with pytest.warns(UserWarning, match="uniqueItems"):
        factory = guide_of(UNIQUE, ignore_unsupported_keywords=True)
    rest = obj({"tags": array(INTEGER)})
    assert Draft202012Validator(rest).is_valid(random_answer(factory))


@pytest.mark.parametrize("choice", ["any", "auto"])
def test_part_of_a_tool_is_ignored_with_a_warning_where_the_caller_allows_it(choice):
    with pytest.warns(UserWarning, match=r"of the tools \['save'\] is ignored.*uniqueItems"):
        assert guide_of_tool(UNIQUE, tool_choice=choice, ignore_unsupported_keywords=True) is not None


def test_each_schema_is_warned_of_once():
    other = {**UNIQUE, "title": "Words"}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("default")
        for schema in (UNIQUE, other, UNIQUE, other):
            guide_of(schema, ignore_unsupported_keywords=True)
    assert ["'Tags'" in str(warning.message) for warning in caught] == [True, False]
    assert "'Words'" in str(caught[1].message)


def test_tools_without_a_grammar_are_refused_for_invalid_schemas_only():
    """Where a model writes calls in a syntax of its own, no grammar constrains them, so nothing has to be enforced."""
    unknown = Constraints(GrammarCompiler(TOKENIZER, VOCAB_SIZE, [EOS]), {}, replace(HERMES, is_known=False))

    def guide(parameters: Any) -> Any:
        tool = {"type": "function", "function": {"name": "save", "description": "Save.", "parameters": parameters}}
        return unknown.guide(output_spec({"tools": [tool]}), is_steered=False)

    assert guide(UNIQUE) is None
    with pytest.raises(SchemaError):
        guide({"type": "object", "properties": {"a": {"enum": []}}, "required": ["a"]})


def test_supported_schema_is_not_warned_of():
    guide_of(obj({"tags": array(INTEGER)}), ignore_unsupported_keywords=True)  # warnings are errors in tests


def test_branches_of_one_of_that_overlap_are_refused_even_where_closed_ones_would_not():
    """`{"a": 1}` is an instance of both branches, and so violates the schema."""
    overlapping = {"oneOf": [obj({"a": INTEGER}, []), obj({"b": INTEGER}, [])]}
    assert not Draft202012Validator(overlapping).is_valid({"a": 1})
    with pytest.raises(SchemaError, match="oneOf whose branches"):
        guide_of(overlapping)


def refusal(schema: Any) -> str:
    try:
        guide_of(schema)
    except SchemaError as error:
        return str(error)
    return ""


def test_no_schema_of_the_corpus_is_refused(monkeypatch):
    monkeypatch.setattr(Grammar, "check_satisfiable", lambda _: None)  # a slow search that these schemas pass
    assert {case.name: text for case in corpus() if (text := refusal(case.schema))} == {}


class Account(BaseModel):
    secret: SecretStr
    folder: Path
    format: str


def test_keywords_that_forbid_nothing_are_no_reason_to_refuse():
    assert guide_of(obj({"number": {**TEXT, "format": "phone"}, "tags": array(INTEGER, uniqueItems=False)}))
    assert random_answer(guide_of(Account.model_json_schema())).keys() == {"secret", "folder", "format"}


@pytest.mark.parametrize("name", sorted(GRAMMAR_FORMATS))
def test_formats_that_the_grammar_knows_are_enforced(name):
    assert without_annotations({"format": name}) == {"format": name}
    assert guide_of({**TEXT, "format": name})


def test_properties_named_like_keywords_and_literals_are_kept():
    schema = {"properties": {"format": {"type": "string"}, "uniqueItems": {"const": {"format": "x"}}}}
    assert without_annotations(schema) == schema


@pytest.mark.parametrize("bad", BAD_SCHEMAS, ids=lambda bad: bad.name)
def test_invalid_schema_is_refused_whatever_may_be_ignored(bad):
    with pytest.raises(SchemaError, match=f"(?is){bad.words}") as caught:
        guide_of(bad.schema, ignore_unsupported_keywords=True)
    assert "ignore_unsupported_keywords" not in str(caught.value)


@pytest.mark.parametrize(("value", "expected"), [(None, False), (False, False), (True, True)])
def test_argument_of_the_call_is_read(value, expected):
    assert output_spec({"ignore_unsupported_keywords": value}).ignore_unsupported_keywords is expected
    assert output_spec({}).ignore_unsupported_keywords is False


METHODS = ("json_schema", "json_mode", "function_calling")
TOOL = {**UNIQUE, "description": "Save tags."}


@pytest.mark.parametrize("method", METHODS)
def test_structured_output_with_an_unsupported_schema_is_refused(method):
    runnable = roomy_chat().with_structured_output(TOOL, method=method)
    with pytest.raises(SchemaError, match=f"uniqueItems.*{REMEDIES}"):
        runnable.invoke("Why?")


@pytest.mark.parametrize("of_call", [True, False], ids=["argument", "field"])
@pytest.mark.parametrize("method", METHODS)
def test_structured_output_with_an_unsupported_schema_is_given_where_allowed(method, of_call):
    allowed = {"ignore_unsupported_keywords": True}
    fields, arguments = ({}, allowed) if of_call else (allowed, {})
    runnable = roomy_chat(**fields).with_structured_output(TOOL, method=method, **arguments)
    with pytest.warns(UserWarning, match="uniqueItems"):
        assert runnable.invoke("Why?").keys() == {"tags"}


def test_tool_with_an_unsupported_schema_is_called_where_allowed():
    bound = roomy_chat().bind_tools([TOOL], tool_choice="any", ignore_unsupported_keywords=True)
    with pytest.warns(UserWarning, match=r"of the tools \['Tags'\].*uniqueItems"):
        assert bound.invoke("Why?").tool_calls[0]["args"].keys() == {"tags"}
