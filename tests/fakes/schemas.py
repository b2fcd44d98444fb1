"""300 JSON schemas, written by hand and composed at random, and schemas that are invalid or cannot be satisfied."""

import random
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

from tests.fakes.schema_parts import (
    BOOLEAN,
    INTEGER,
    NULL,
    NUMBER,
    TEXT,
    Schema,
    any_of,
    array,
    between,
    closed,
    const,
    map_of,
    matching,
    obj,
    one_of,
    optional,
    ref,
    short,
    tagged,
    text,
)
from tests.fakes.written_schemas import ARRAY, ENUM, NESTED, NUMERIC, OPTIONAL, PLAIN, RECURSIVE, STRING, UNICODE, UNION

NUM_PER_KIND = 30

Maker = Callable[[random.Random], Schema]


class NamedSchema(NamedTuple):
    """A schema with short instances: under 200 bytes of JSON; under 350 for long arrays."""

    name: str
    kind: str
    schema: Schema
    has_unsupported_part: bool = False  # llguidance can only ignore it


class BadSchema(NamedTuple):
    """A schema that is refused before the first token, with an error message that matches `words`."""

    name: str
    schema: Any
    words: str


# Composed at random

_NAMES = ["id", "name", "date", "size", "kind", "note", "tags", "unit", "code", "lang", "flag", "ref_no"]
_WORDS = ["yes", "no", "maybe", "new", "used", "open", "done", "A1", "B 2", "N/A"]
_UNICODE_NAMES = ["größe", "名前", "اسم", "ключ", "naïve", "🎈", 'a"b', "c\\d", "प्यार", "ñandú", "x y", "한국"]
_UNICODE_WORDS = ["süß", "日本", "نعم", "да", "🎉", '"', "\\n", "\t", "हाँ", "¿qué?", "네", "ß\u0308"]
_PATTERNS = ["^[a-z]{2,5}$", "^[A-Z][0-9]{2}$", "^(on|off)$", "^\\d{3}$", "^[0-9a-f]{4}$", "^v[0-9]+\\.[0-9]+$"]
_FORMATS = ["date", "time", "email", "uuid", "ipv4", "uri"]


def _string(choose: random.Random) -> Schema:
    choices = [
        TEXT,
        text(minLength=choose.randrange(4), maxLength=choose.randrange(4, 30)),
        matching(choose.choice(_PATTERNS)),
        text(format=choose.choice(_FORMATS)),
    ]
    return choose.choice(choices)


def _number(choose: random.Random) -> Schema:
    low = choose.randrange(-1000, 1000)
    high = low + choose.randrange(2, 5000)
    choices = [
        between(low, high),
        between(0, high - low + 12, multipleOf=choose.choice([2, 5, 12])),
        {"type": "integer", "exclusiveMinimum": low, "exclusiveMaximum": high},
        {"type": "number", "minimum": low / 8, "maximum": high / 8},
        {"type": "number", "exclusiveMinimum": low},
    ]
    return choose.choice(choices)


def _enum(choose: random.Random, words: list[str] = _WORDS) -> Schema:
    values: list[Any] = choose.sample(words, choose.randrange(1, 6))
    choices = [
        text(enum=values),
        one_of(*values, *choose.sample([None, 0, 1.5, -7, [], {}], 2)),
        {"type": "integer", "enum": choose.sample(range(-20, 200), 4)},
        const(values[0]),
    ]
    return choose.choice(choices)


def _leaf(choose: random.Random) -> Schema:
    make = choose.choice([_string, _string, _number, _enum, lambda _: BOOLEAN, lambda _: NULL, lambda _: INTEGER])
    return _annotated(make(choose), choose)


def _annotated(schema: Schema, choose: random.Random) -> Schema:
    notes = {"title": "Title", "description": 'What it "is"; größer, 大', "examples": [None], "$comment": "none"}
    return {**schema, **{key: notes[key] for key in notes if choose.random() < 0.15}}


def _object(
    choose: random.Random,
    make: Maker = _leaf,
    num: tuple[int, int] = (2, 4),
    required: float = 0.7,
    names: list[str] = _NAMES,
) -> Schema:
    chosen = choose.sample(names, choose.randint(*num))
    needed = [name for name in chosen if choose.random() < required]
    rest = choose.choice([{}, {"additionalProperties": False}, {"additionalProperties": False}])
    return _annotated({**obj({name: make(choose) for name in chosen}, needed), **rest}, choose)


def _array(choose: random.Random, make: Maker = _leaf, most: int = 2) -> Schema:
    low = choose.randrange(most)
    return array(make(choose), minItems=low, **choose.choice([{}, {"maxItems": low + choose.randrange(1, 4)}]))


def _nested(choose: random.Random, depth: int = 3) -> Schema:
    if depth == 0:
        return _leaf(choose)
    inner = partial(_nested, depth=depth - 1)
    makers: list[Callable[[random.Random, Maker], Schema]] = [partial(_object, num=(1, 2)), _array]
    return choose.choice(makers)(choose, inner)


def _union(choose: random.Random) -> Schema:
    makers: list[Maker] = [_leaf, partial(_object, num=(1, 2)), _array]
    branches = [choose.choice(makers)(choose) for _ in range(choose.randrange(2, 5))]
    models = {name: {"data": _leaf(choose)} for name in choose.sample(["Cat", "Dog", "Bird", "Bee"], 3)}
    choices = [
        any_of(*branches),
        obj({"value": any_of(*branches), "other": any_of(*branches[:2])}),
        array(any_of(*branches), maxItems=5),
        tagged(choose.choice(["type", "kind"]), **models),
        {"oneOf": [_number(choose), _string(choose), BOOLEAN, _object(choose)]},
        {"allOf": [obj({"first": branches[0]}), obj({"second": branches[1]})]},
    ]
    return choose.choice(choices)


def _recursive(choose: random.Random) -> Schema:
    place, name = choose.choice(["$defs", "definitions"]), choose.choice(["Node", "Item", "T"])
    again = ref(name, place)
    links = [
        {"more": array(again, maxItems=choose.randrange(1, 4))},
        {"next": any_of(again, NULL)},
        {"left": optional(again), "right": optional(again)},
        {"value": any_of(_leaf(choose), array(again))},
        {"parts": map_of(again)},
    ]
    payload = {key: _leaf(choose) for key in choose.sample(_NAMES, choose.randrange(1, 3))}
    node = {place: {name: obj({**payload, **choose.choice(links)}, additionalProperties=choose.choice([True, False]))}}
    return {**node, **choose.choice([again, obj({"root": again}), array(again, minItems=1)])}


def _unicode(choose: random.Random) -> Schema:
    def leaf(choose: random.Random) -> Schema:
        makers: list[Maker] = [partial(_enum, words=_UNICODE_WORDS), _leaf]
        return choose.choice(makers)(choose)

    whole = partial(_object, make=leaf, num=(1, 3), names=_UNICODE_NAMES)
    return choose.choice([whole, whole, partial(_object, make=whole, num=(1, 2)), partial(_array, make=whole)])(choose)


def _long_array(choose: random.Random) -> Schema:
    low = choose.randrange(20, 33)
    items = [INTEGER, BOOLEAN, NULL, short(4), between(0, 255), one_of("ok", "-"), array(INTEGER), NUMBER]
    whole = array(choose.choice(items), minItems=low, maxItems=choose.randrange(low, 41))
    return choose.choice([whole, closed({choose.choice(_NAMES): whole}), obj({"title": short(), "values": whole})])


def _optional_leaf(choose: random.Random) -> Schema:
    return choose.choice([optional(_leaf(choose)), {"type": ["integer", "null"]}, _leaf(choose)])


KINDS: dict[str, tuple[dict[str, Schema], Maker]] = {
    "plain": (PLAIN, partial(_object, num=(2, 6))),
    "nested": (NESTED, _nested),
    "union": (UNION, _union),
    "enum": (ENUM, partial(_object, make=_enum)),
    "optional": (OPTIONAL, partial(_object, make=_optional_leaf, num=(3, 9), required=0.2)),
    "recursive": (RECURSIVE, _recursive),
    "unicode": (UNICODE, _unicode),
    "array": (ARRAY, _long_array),
    "string": (STRING, partial(_object, make=_string)),
    "number": (NUMERIC, partial(_object, make=_number)),
}


def corpus() -> list[NamedSchema]:
    """The 300 schemas, sorted by kind, the same number of each kind; the same in every run."""
    schemas = []
    for kind, (written, compose) in KINDS.items():
        composed = {f"{i}": compose(random.Random(f"{kind} {i}")) for i in range(len(written), NUM_PER_KIND)}
        for name, schema in {**written, **composed}.items():
            schemas.append(NamedSchema(f"{kind}: {name}", kind, schema, name.endswith("(unsupported)")))
    return schemas


# Invalid schemas, and schemas without instances

BAD_SCHEMAS = [
    BadSchema("no dict", ["string"], "dict|object"),
    BadSchema("text", "string", "dict|object"),
    BadSchema("no JSON", {"enum": {1, 2}}, "JSON"),
    BadSchema("unknown type", {"type": "text"}, "type.*text"),
    BadSchema("reference to nothing", obj({"a": ref("Missing")}), "Missing"),
    BadSchema("reference to the net", {"$ref": "https://example.com/person.json"}, "example.com"),
    BadSchema("reference to a file", obj({"a": {"$ref": "person.json"}}), "person.json"),
    BadSchema("reference to itself", {"$ref": "#"}, "never end|itself|recurs"),
    BadSchema(
        "references in a circle", {"$defs": {"a": ref("b"), "b": ref("a")}, **ref("a")}, "never end|itself|recurs"
    ),
    BadSchema(
        "recursion without end", {"$defs": {"N": obj({"next": ref("N")})}, **ref("N")}, "never end|itself|recurs"
    ),
    BadSchema("empty enum", {"enum": []}, "enum|empty"),
    BadSchema("enum of another type", {"type": "integer", "enum": ["a"]}, "type"),
    BadSchema("union of nothing", {"anyOf": []}, "anyOf"),
    BadSchema("look-ahead", matching("^(?=.*[0-9]).{8}$"), "look-|regex"),
    BadSchema("back-reference", matching("^(a|b)\\1$"), "backreference|regex"),
    BadSchema("broken pattern", matching("(a"), "regex|unclosed"),
    BadSchema("pattern longer than allowed", text(pattern="^a{5}$", maxLength=2), "empty|pattern"),
    BadSchema("lengths", text(minLength=5, maxLength=2), "minLength.*maxLength"),
    BadSchema("counts", array(INTEGER, minItems=5, maxItems=2), "minItems.*maxItems"),
    BadSchema("bounds", between(5, 2), "minimum.*maximum"),
    BadSchema("no integer between", {"type": "integer", "exclusiveMinimum": 2, "exclusiveMaximum": 3}, "integer"),
    BadSchema("no multiple between", between(11, 19, multipleOf=10), "multiple"),
    BadSchema("required but forbidden", obj({"a": False}), "required"),
    BadSchema("required but closed", closed({}, ["a"]), "required"),
    BadSchema("item but none allowed", {"type": "array", "items": False, "minItems": 1}, "item"),
    BadSchema("of two types", {"allOf": [TEXT, INTEGER]}, "type"),
    BadSchema("properties in a list", {"type": "object", "properties": ["a"]}, "properties"),
]
