"""Oracle for refusals of schemas: llguidance without this package, and simple instances that it accepts."""

import json
import re
from collections.abc import Iterator
from functools import cache
from typing import Any

import hypothesis
import llguidance.hf
from hypothesis import strategies as st
from hypothesis.errors import HypothesisException
from llguidance import LLMatcher, LLTokenizer

from tests.fakes.chat_templates import byte_tokenizer
from tests.fakes.judge import fault_of
from tests.fakes.real_schemas import RealSchema
from tests.fakes.schema_parts import Schema

KNOWN_FORMATS = {"date", "date-time", "duration", "email", "hostname", "ipv4", "ipv6", "time", "uri", "uuid"}
LAYOUT = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
SIMPLE: tuple[Any, ...] = ("", 0, None, True, False, [], {}, 1, "a", 0.5)
FEW = hypothesis.settings(max_examples=100, database=None, deadline=None)


@cache
def _tokenizer() -> LLTokenizer:
    return llguidance.hf.from_tokenizer(byte_tokenizer())


def _enforceable(schema: Any) -> Any:
    """Leave out the formats that are annotations, and `uniqueItems: false`."""
    if isinstance(schema, list):
        return [_enforceable(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    annotations = {key for key in ("format",) if isinstance(schema.get(key), str) and schema[key] not in KNOWN_FORMATS}
    annotations |= {key for key in ("uniqueItems",) if schema.get(key) is False}
    return {key: _enforceable(value) for key, value in schema.items() if key not in annotations}


def _matcher(schema: Schema) -> LLMatcher:
    grammar = LLMatcher.grammar_from_json_schema(json.dumps(_enforceable(schema)), overrides=LAYOUT)
    return LLMatcher(_tokenizer(), grammar, log_level=0)


def refusal_of_llguidance(schema: Schema) -> str:
    """Return why llguidance itself does not compile the schema; empty if it does."""
    matcher = _matcher(schema)
    return matcher.get_error() if matcher.is_error() else ""


def witness(case: RealSchema, max_bytes: int) -> str | None:
    """Return JSON of up to `max_bytes` that jsonschema calls valid and llguidance can write, if a simple one exists."""
    matcher = _matcher(case.schema)
    for value in [*case.valid, *_instances(case.schema, case.schema)]:
        text = json.dumps(value, ensure_ascii=False)
        is_short = len(text.encode()) <= max_bytes
        if is_short and fault_of(value, case.schema) is None and _may_write(matcher.deep_copy(), text):
            return text
    return None


def _may_write(matcher: LLMatcher, text: str) -> bool:
    return bool(matcher.consume_tokens(_tokenizer().tokenize_str(text))) and matcher.is_accepting()


def _instances(schema: Any, whole: Schema, depth: int = 4) -> Iterator[Any]:
    """Yield simple values, of which many are valid."""
    if not isinstance(schema, dict) or depth == 0:
        yield from SIMPLE
        return
    if "$ref" in schema:
        name = str(schema["$ref"]).rpartition("/")[2]
        yield from _instances(whole.get("$defs", {}).get(name), whole, depth - 1)
    if "const" in schema:
        yield schema["const"]
    yield from schema.get("enum", [])[:3]
    for branch in [*schema.get("anyOf", []), *schema.get("oneOf", []), *schema.get("allOf", [])][:4]:
        yield from list(_instances(branch, whole, depth - 1))[:4]
    if "pattern" in schema:
        yield from _matches(schema["pattern"])
    yield from (schema[key] for key in ("minimum", "maximum") if key in schema)
    yield from ("a" * schema[key] for key in ("minLength",) if key in schema)
    yield from _objects(schema, whole, depth)
    yield from _arrays(schema, whole, depth)
    yield from SIMPLE


def _objects(schema: dict[str, Any], whole: Schema, depth: int) -> Iterator[Any]:
    properties, required = schema.get("properties", {}), schema.get("required", [])
    if required and isinstance(properties, dict):
        ordered = [*(name for name in properties if name in required), *(n for n in required if n not in properties)]
        yield {name: _first_valid(properties.get(name, {}), whole, depth) for name in ordered}
    for name in [*properties][:4] if isinstance(properties, dict) else ():
        yield {name: _first_valid(properties[name], whole, depth)}


def _arrays(schema: dict[str, Any], whole: Schema, depth: int) -> Iterator[Any]:
    item = _first_valid(schema.get("items", {}), whole, depth)
    yield [item] * schema.get("minItems", 1)


def _first_valid(schema: Any, whole: Schema, depth: int) -> Any:
    asked = {**schema, "$defs": whole.get("$defs", {})} if isinstance(schema, dict) else schema
    values = _instances(schema, whole, depth - 1)
    return next((value for value in values if fault_of(value, asked) is None), None)


def _matches(pattern: str) -> Iterator[str]:
    """Yield the simplest text that matches a pattern."""
    with_letters = pattern.replace(r"\/", "/")
    try:
        yield hypothesis.find(st.from_regex(with_letters), _is_printable, settings=FEW)
    except (re.error, HypothesisException, ValueError, OverflowError):  # Python's dialect lacks it
        return


def _is_printable(text: str) -> bool:
    return text.isascii() and text.isprintable()
