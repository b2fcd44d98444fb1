"""300 JSON schemas, written by hand and composed at random, and schemas that are invalid or cannot be satisfied."""

import random
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

Schema = dict[str, Any]

NUM_PER_KIND = 30


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


# Building blocks

TEXT: Schema = {"type": "string"}
INTEGER: Schema = {"type": "integer"}
NUMBER: Schema = {"type": "number"}
BOOLEAN: Schema = {"type": "boolean"}
NULL: Schema = {"type": "null"}


def text(**keywords) -> Schema:
    return {**TEXT, **keywords}


def short(max_length: int = 12) -> Schema:
    return text(maxLength=max_length)


def matching(pattern: str) -> Schema:
    return text(pattern=pattern)


EMAIL = text(format="email")
DATE = text(format="date")
MOMENT = text(format="date-time")


def between(low: float, high: float, **keywords) -> Schema:
    return {"type": "integer", "minimum": low, "maximum": high, **keywords}


def one_of(*values) -> Schema:
    return {"enum": list(values)}


def const(value) -> Schema:
    """As pydantic writes a `Literal`."""
    return {"const": value, "type": "string"} if isinstance(value, str) else {"const": value}


def array(items: Schema, **keywords) -> Schema:
    return {"type": "array", "items": items, **keywords}


def exactly(num_items: int, items: Schema) -> Schema:
    return array(items, minItems=num_items, maxItems=num_items)


def pair(first: Schema, second: Schema) -> Schema:
    return {"type": "array", "prefixItems": [first, second], "items": False, "minItems": 2}


def map_of(values: Schema) -> Schema:
    return {"type": "object", "additionalProperties": values}


def obj(properties: dict[str, Schema], required: list[str] | None = None, **keywords) -> Schema:
    """All properties are required unless `required` lists others."""
    names = list(properties) if required is None else required
    return {"type": "object", "properties": properties, **({"required": names} if names else {}), **keywords}


def closed(properties: dict[str, Schema], required: list[str] | None = None, **keywords) -> Schema:
    return obj(properties, required, additionalProperties=False, **keywords)


def any_of(*schemas: Schema, **keywords) -> Schema:
    return {"anyOf": list(schemas), **keywords}


def optional(schema: Schema, **keywords) -> Schema:
    """As pydantic writes `X | None = None`."""
    return any_of(schema, NULL, default=None, **keywords)


def ref(name: str, place: str = "$defs") -> Schema:
    return {"$ref": f"#/{place}/{name}"}


def with_definitions(schema: Schema, **definitions: Schema) -> Schema:
    return {"$defs": definitions, **schema}


def tagged(tag: str, **models: dict[str, Schema]) -> Schema:
    """As pydantic writes a union with a discriminator."""
    definitions = {name: obj({tag: const(name.lower()), **fields}, title=name) for name, fields in models.items()}
    mapping = {name.lower(): f"#/$defs/{name}" for name in models}
    branches = [ref(name) for name in models]
    return {"$defs": definitions, "discriminator": {"mapping": mapping, "propertyName": tag}, "oneOf": branches}


def deep(num_levels: int, schema: Schema) -> Schema:
    for _ in range(num_levels):
        schema = obj({"in": schema})
    return schema


# Written by hand

PLAIN = {
    "weather query": obj(
        {"location": text(title="Location"), "unit": text(enum=["celsius", "fahrenheit"], default="celsius")},
        ["location"],
        title="GetWeather",
        description="Get the current weather at a place.",
    ),
    "calendar event": obj(
        {"title": text(minLength=1, maxLength=60), "start": MOMENT, "end": MOMENT, "guests": array(EMAIL, maxItems=3)},
        ["title", "start", "end"],
    ),
    "search request": closed({"query": TEXT, "page": between(1, 100), "sort": one_of("asc", "desc")}),
    "contact form": closed({"name": short(40), "email": EMAIL, "message": TEXT, "consent": BOOLEAN}),
    "movie review": obj({"film": TEXT, "stars": between(1, 5), "spoilers": BOOLEAN, "summary": TEXT}),
    "table booking": obj({"date": DATE, "guests": between(1, 12), "name": short(30), "terrace": BOOLEAN}),
    "sentiment": closed({"sentiment": one_of("positive", "neutral", "negative"), "confidence": NUMBER}),
    "bank transfer": closed({"iban": matching("^[A-Z]{2}[0-9]{2}[A-Z0-9]{11,20}$"), "cents": between(1, 10**9)}),
    "any object": {"type": "object"},
    "no properties": {"type": "object", "properties": {}, "additionalProperties": False},
    "anything": {},
    "truth": BOOLEAN,
    "nothing": NULL,
    "counts by word": map_of(INTEGER),
    "extensions": closed({"id": INTEGER}, patternProperties={"^x-[a-z]+$": TEXT}),
    "open with typed rest": obj({"identifier": INTEGER}, additionalProperties=BOOLEAN),
    "rest is anything": obj({"identifier": INTEGER}, additionalProperties=True),
    "required but not described": obj({"alpha": INTEGER}, ["alpha", "omega"]),
    "twenty-five properties": closed(
        {f"p{i:02}": [INTEGER, BOOLEAN, short(5), NULL, one_of("x", "y")][i % 5] for i in range(25)},
        [f"p{i:02}" for i in range(0, 25, 2)],
    ),
    "annotated throughout": {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": "https://example.com/annotated",
        "$comment": "for people",
        "title": "Annotated",
        "description": "Everything that says something and asks for nothing.",
        "examples": [{"a": 1}],
        "default": {"a": 0},
        **obj({"a": {**INTEGER, "title": "A", "examples": [1, 2], "default": 0}, "b": text(deprecated=True)}),
    },
    "names that are keywords": closed({"$ref": short(), "type": INTEGER, "properties": NULL, "enum": BOOLEAN}),
}

NESTED = {
    "invoice": obj(
        {
            "number": matching("^INV-[0-9]{4}$"),
            "issued": DATE,
            "items": array(obj({"name": TEXT, "quantity": between(1, 99), "price": NUMBER}), minItems=1),
            "total": NUMBER,
        }
    ),
    "person with addresses": with_definitions(
        obj({"name": text(title="Name"), "addresses": array(ref("Address"), title="Addresses")}, title="Person"),
        Address=obj({"street": text(title="Street"), "city": text(title="City"), "zip": matching("^[0-9]{5}$")}),
    ),
    "order": closed(
        {
            "customer": closed({"id": INTEGER, "vip": BOOLEAN}),
            "shipping": closed({"by": one_of("post", "courier"), "to": closed({"country": matching("^[A-Z]{2}$")})}),
            "lines": array(closed({"sku": short(8), "count": between(1, 9)}), minItems=1, maxItems=4),
        }
    ),
    "matrix": array(array(INTEGER, minItems=1, maxItems=3), minItems=1, maxItems=3),
    "cube of truths": exactly(2, exactly(2, exactly(2, BOOLEAN))),
    "arrays in arrays of texts": obj({"rows": array(array(short(6)))}),
    "eight levels": deep(8, INTEGER),
    "eight levels, closed": closed({"a": deep(7, array(BOOLEAN, maxItems=2))}),
    "feature of a map": obj({"type": const("Feature"), "geometry": obj({"point": exactly(2, between(-90, 90))})}),
    "recipe": obj({"title": TEXT, "ingredients": array(obj({"name": TEXT, "grams": INTEGER})), "steps": array(TEXT)}),
    "map of maps": map_of(map_of(INTEGER)),
    "survey": obj({"answers": array(obj({"question": between(1, 20), "choices": array(one_of("a", "b", "c"))}))}),
    "curriculum vitae, as pydantic v1": {
        "definitions": {
            "Job": obj({"employer": TEXT, "since": between(1950, 2030)}, title="Job"),
            "Skill": obj({"name": TEXT, "level": between(1, 5)}, title="Skill"),
        },
        **obj({"jobs": array(ref("Job", "definitions")), "skills": array(ref("Skill", "definitions"))}, title="CV"),
    },
}

UNION = {
    "pets": tagged("kind", Cat={"lives": between(1, 9)}, Dog={"breed": TEXT}, Fish={"salt": BOOLEAN}),
    "drawing": with_definitions(
        obj({"shapes": array({"oneOf": [ref("Circle"), ref("Square")], "discriminator": {"propertyName": "shape"}})}),
        **tagged("shape", Circle={"radius": NUMBER}, Square={"side": NUMBER})["$defs"],
    ),
    "payment": any_of(
        closed({"card": matching("^[0-9]{16}$"), "until": matching("^[0-9]{2}/[0-9]{2}$")}),
        closed({"iban": short(34)}),
        closed({"cash": {"const": True}}),
    ),
    "number or text": obj({"id": any_of(INTEGER, TEXT, title="Id")}),
    "list of types": {"type": ["string", "integer", "boolean", "null"]},
    "types and their keywords": {"type": ["string", "integer", "array"], "maxLength": 9, "minimum": 0, "items": NULL},
    "exactly one of the types": {"oneOf": [INTEGER, short(), BOOLEAN, NULL, array(INTEGER)]},
    "result or error": any_of(closed({"ok": {"const": True}}), closed({"ok": {"const": False}, "error": TEXT})),
    "one or many": obj({"tags": any_of(short(), array(short()))}),
    "union in union": any_of(any_of(INTEGER, BOOLEAN), any_of(array(any_of(NULL, short())), obj({"u": NULL}))),
    "merged": {"allOf": [obj({"width": INTEGER}), obj({"height": INTEGER}), {"description": "a rectangle"}]},
    "inherited": {"$defs": {"Base": obj({"id": INTEGER})}, "allOf": [ref("Base"), obj({"label": short()})]},
    "one of them required": {**obj({"a": NULL, "b": NULL}, []), "anyOf": [{"required": ["a"]}, {"required": ["b"]}]},
    "events": array(
        any_of(closed({"click": exactly(2, INTEGER)}), closed({"key": one_of("Enter", "Esc")})), minItems=1, maxItems=6
    ),
}

ENUM = {
    "texts": one_of("red", "green", "blue"),
    "typed texts": text(enum=["low", "medium", "high"], title="Priority"),
    "integers": {"type": "integer", "enum": [1, 2, 3, 5, 8, 13]},
    "mixed": {"enum": [1, "1", None, True, 2.5, "true", "null"]},
    "structures": one_of({"a": [1, 2]}, [], {}, [[None]], {"a": {"b": "c"}}),
    "one": one_of("only"),
    "numbers": one_of(0, -1, 3.25, 1000000),
    "beginnings of each other": one_of("a", "aa", "aaa", "aab", "b", ""),
    "sixty": one_of(*(f"option {i}" for i in range(60))),
    "array of them": array(one_of("north", "east", "south", "west"), minItems=1, maxItems=8),
    "const text": const("fixed"),
    "const object": const({"version": 2, "flags": [True, None]}),
    "as pydantic v1 refers to one": {
        "definitions": {"Colour": {"title": "Colour", "description": "An enumeration.", "enum": ["r", "g"], **TEXT}},
        **obj({"colour": {"title": "Colour", "description": "of it", "allOf": [ref("Colour", "definitions")]}}),
    },
    "as pydantic v2 refers to one": with_definitions(
        obj({"level": {**ref("Level"), "default": 10}, "message": TEXT}, ["message"]),
        Level={"enum": [10, 20, 30], "title": "Level", "type": "integer"},
    ),
    "with unused bounds": {"type": "string", "enum": ["ab", "abcd"], "maxLength": 4},
}

OPTIONAL = {
    "nullable fields": obj(
        {"name": text(title="Name"), "age": optional(INTEGER, title="Age"), "nick": optional(TEXT)}, ["name"]
    ),
    "all optional": obj({"a": INTEGER, "b": TEXT, "c": BOOLEAN}, []),
    "all optional, closed": closed({"a": INTEGER, "b": short(), "c": BOOLEAN, "d": NULL}, []),
    "optional model": with_definitions(
        closed({"place": TEXT, "geo": optional(ref("Geo"))}, ["place"]),
        Geo=obj({"lat": NUMBER, "lon": NUMBER}, title="Geo"),
    ),
    "optional list": closed({"tags": optional(array(short(), maxItems=4))}, []),
    "null by type": closed({"note": {"type": ["string", "null"]}, "rank": {"type": ["integer", "null"]}}),
    "with defaults": closed({"page": between(1, 9, default=1), "sort": text(enum=["asc"], default="asc")}, []),
    "optional before required": closed({"a": INTEGER, "b": INTEGER, "c": INTEGER, "z": INTEGER}, ["z"]),
    "required between optional": closed({"a": short(), "m": BOOLEAN, "z": short()}, ["m"]),
    "twelve optional": closed({f"option_{i}": [INTEGER, short(), BOOLEAN][i % 3] for i in range(12)}, []),
    "optional in optional": closed({"a": optional(closed({"b": optional(closed({"c": INTEGER}, []))}, []))}, []),
    "required and nullable": closed({"reason": any_of(short(), NULL), "code": any_of(INTEGER, NULL)}),
}

RECURSIVE = {
    "tree": with_definitions(ref("Node"), Node=obj({"value": INTEGER, "children": array(ref("Node"))}, title="Node")),
    "linked list": with_definitions(ref("Node"), Node=closed({"value": INTEGER, "next": any_of(ref("Node"), NULL)})),
    "expression": with_definitions(
        ref("Expr"),
        Expr=any_of(ref("Num"), ref("Op")),
        Num=closed({"num": NUMBER}),
        Op=closed({"op": one_of("+", "-", "*", "/"), "left": ref("Expr"), "right": ref("Expr")}),
    ),
    "file system": with_definitions(
        ref("Folder"),
        File=closed({"name": short(20), "bytes": between(0, 10**12)}),
        Folder=closed({"name": short(20), "entries": array(any_of(ref("File"), ref("Folder")))}),
    ),
    "binary tree": with_definitions(ref("T"), T=closed({"l": optional(ref("T")), "r": optional(ref("T"))}, [])),
    "thread of comments": closed({"author": short(), "text": TEXT, "replies": array({"$ref": "#"})}),
    "menu": obj({"label": short(), "submenu": {"$ref": "#"}}, ["label"]),
    "staff, as pydantic v1": {
        "definitions": {"Person": obj({"name": TEXT, "reports": array(ref("Person", "definitions"))}, ["name"])},
        **obj({"head": ref("Person", "definitions")}),
    },
    "people and firms": with_definitions(
        ref("Person"),
        Person=closed({"name": short(), "works_at": any_of(ref("Firm"), NULL)}),
        Firm=closed({"name": short(), "staff": array(ref("Person"))}),
    ),
    "any JSON": with_definitions(
        obj({"json": ref("Json")}),
        Json=any_of(NULL, BOOLEAN, NUMBER, TEXT, array(ref("Json")), map_of(ref("Json"))),
    ),
    "lists of lists": with_definitions(ref("L"), L=array(ref("L"))),
    "logic": with_definitions(
        ref("F"),
        F={
            "oneOf": [
                closed({"v": matching("^[a-z]$")}),
                closed({"not": ref("F")}),
                closed({"and": exactly(2, ref("F"))}),
            ]
        },
    ),
}

UNICODE = {
    "German": closed({"größe": between(1, 300), "straße": short(), "Übergewicht": BOOLEAN}),
    "Japanese": closed({"名前": short(), "都市": one_of("東京", "大阪", "京都")}),
    "Arabic": closed({"الاسم": short(), "الحالة": one_of("نشط", "متوقف")}),
    "Hebrew and Hindi": closed({"שם": const("שלום"), "नाम": one_of("हाँ", "नहीं")}),
    "emoji": one_of("😀", "🎉", "👩‍👩‍👧", "🏳️‍🌈", "❤️"),
    "emoji as names": closed({"👍": INTEGER, "👎": INTEGER}),
    "quotes and backslashes": closed({'say "hi"': BOOLEAN, "C:\\temp": short(), "it's": one_of('"', "\\", '\\"', "/")}),
    "control characters": one_of("tab\t", "line\nbreak", "nul\u0000", "bell\u0007", "\u007f", "\u2028", "\r\n"),
    "names with blanks, slashes and nothing": closed({"": INTEGER, " ": INTEGER, "a/b~c": INTEGER, "50%": INTEGER}),
    "Cyrillic pattern": closed({"имя": matching("^[А-Я][а-я]{1,8}$")}),
    "Chinese pattern": matching("^[\u4e00-\u9fa5]{2,4}$"),
    "lengths in characters": text(minLength=3, maxLength=6),
    "combining or composed": one_of("é", "e\u0301", "ﬀ", "ff", "İ", "i̇"),
    "escaped references": {
        "$defs": {"a/b c": INTEGER, "ä~": short()},
        **pair({"$ref": "#/$defs/a~1b%20c"}, {"$ref": "#/$defs/%C3%A4~0"}),
    },
    "const of many scripts": const("Ünïcödé 中文 العربية 🚀"),
    "map": map_of(one_of("ja", "nein", "はい", "いいえ")),
}

ARRAY = {
    "long, of integers": array(INTEGER, minItems=20, maxItems=40),
    "long, of texts": array(TEXT, minItems=20, maxItems=40),
    "long, of short texts": exactly(30, short(3)),
    "long, of truths": array(BOOLEAN, minItems=24, maxItems=40),
    "long, of digits": closed({"digits": exactly(40, between(0, 9))}),
    "long, of choices": array(one_of("A", "C", "G", "T"), minItems=40),
    "long, of nulls": array(NULL, minItems=20, maxItems=21),
    "long, of numbers": obj({"embedding": exactly(32, NUMBER)}),
    "long, of objects": array(closed({"x": between(0, 99)}), minItems=20, maxItems=30),
    "long, of pairs": array(exactly(2, INTEGER), minItems=20, maxItems=25),
    "endless": array(INTEGER),
    "never more than none": array(INTEGER, maxItems=0),
    "of anything": {"type": "array"},
    "tuple": pair(INTEGER, TEXT),
    "tuple, as pydantic": {"type": "array", "prefixItems": [INTEGER, short()], "minItems": 2, "maxItems": 2},
    "tuple with a rest": {"type": "array", "prefixItems": [const("v")], "items": INTEGER, "minItems": 1, "maxItems": 6},
    "of dates": array(DATE, minItems=3, maxItems=5),
    "matrix of five by five": exactly(5, exactly(5, between(0, 1))),
}

STRING = {
    "any": TEXT,
    "empty": text(maxLength=0),
    "of exactly eight": text(minLength=8, maxLength=8),
    "sentence": obj({"sentence": text(minLength=20, maxLength=80)}),
    "stock number": matching("^[A-Z]{3}-[0-9]{4}$"),
    "colour": matching("^#[0-9a-fA-F]{6}$"),
    "phone number": matching("^\\+?[1-9]\\d{6,14}$"),
    "time of day": matching("^(?:[01][0-9]|2[0-3]):[0-5][0-9]$"),
    "version": matching("^(0|[1-9]\\d*)\\.(0|[1-9]\\d*)\\.(0|[1-9]\\d*)$"),
    "slug": closed({"slug": text(pattern="^[a-z0-9]+(-[a-z0-9]+)*$", maxLength=30)}),
    "part of a text": matching("[0-9]{2}"),
    "picture": text(pattern="\\.(png|jpe?g)$", maxLength=40),
    "pattern and lengths": text(pattern="^[a-z]+$", minLength=2, maxLength=8),
    "days and times": closed({"date": DATE, "time": text(format="time"), "at": MOMENT}),
    "addresses": closed({"mail": EMAIL, "v4": text(format="ipv4"), "v6": text(format="ipv6")}),
    "identifier": closed({"id": text(format="uuid")}),
    "places on the net": closed({"uri": text(format="uri"), "host": text(format="hostname")}),
    "duration": text(format="duration"),
    "format and length": text(format="email", maxLength=40),
    "account (unsupported)": closed(
        {"login": short(), "password": text(format="password"), "phone": text(format="phone")}
    ),
    "amount (unsupported)": text(format="decimal", pattern="^[0-9]+\\.[0-9]{2}$"),
    "folder (unsupported)": obj(
        {"path": text(format="directory-path"), "target": optional(text(format="uri-reference"))}
    ),
}

NUMERIC = {
    "any": NUMBER,
    "any integer": INTEGER,
    "percent": between(0, 100),
    "negative": between(-50, -1),
    "around zero": between(-3, 3),
    "a single one": between(7, 7),
    "over many lengths": between(5, 123456),
    "beyond floats": between(-(2**53) - 1, 2**53 + 1),
    "exclusive": {"type": "integer", "exclusiveMinimum": 0, "exclusiveMaximum": 10},
    "exclusive fractions": {"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 1},
    "positive, as pydantic": closed({"price": {"exclusiveMinimum": 0, "title": "Price", "type": "number"}}),
    "from below": {"type": "number", "minimum": -1.5},
    "from above": {"type": "number", "maximum": 0.3},
    "narrow": {"type": "number", "minimum": 0.1, "maximum": 0.3},
    "fives": between(0, 100, multipleOf=5),
    "quarters": {"type": "number", "minimum": 0, "maximum": 100, "multipleOf": 0.25},
    "whole or fraction": closed({"n": any_of(between(0, 9), {"type": "number", "minimum": 100})}),
    "point": closed({"lat": {**NUMBER, "minimum": -90, "maximum": 90}, "lon": {**NUMBER, "minimum": -180}}),
}

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
    make: Callable[[random.Random], Schema] = _leaf,
    num: tuple[int, int] = (2, 4),
    required: float = 0.7,
    names: list[str] = _NAMES,
) -> Schema:
    chosen = choose.sample(names, choose.randint(*num))
    needed = [name for name in chosen if choose.random() < required]
    rest = choose.choice([{}, {"additionalProperties": False}, {"additionalProperties": False}])
    return _annotated({**obj({name: make(choose) for name in chosen}, needed), **rest}, choose)


def _array(choose: random.Random, make: Callable[[random.Random], Schema] = _leaf, most: int = 2) -> Schema:
    low = choose.randrange(most)
    return array(make(choose), minItems=low, **choose.choice([{}, {"maxItems": low + choose.randrange(1, 4)}]))


def _nested(choose: random.Random, depth: int = 3) -> Schema:
    if depth == 0:
        return _leaf(choose)
    inner = partial(_nested, depth=depth - 1)
    return choose.choice([partial(_object, num=(1, 2)), _array])(choose, inner)


def _union(choose: random.Random) -> Schema:
    makers = [_leaf, partial(_object, num=(1, 2)), _array]
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
        return choose.choice([partial(_enum, words=_UNICODE_WORDS), _leaf])(choose)

    whole = partial(_object, make=leaf, num=(1, 3), names=_UNICODE_NAMES)
    return choose.choice([whole, whole, partial(_object, make=whole, num=(1, 2)), partial(_array, make=whole)])(choose)


def _long_array(choose: random.Random) -> Schema:
    low = choose.randrange(20, 33)
    items = [INTEGER, BOOLEAN, NULL, short(4), between(0, 255), one_of("ok", "-"), array(INTEGER), NUMBER]
    whole = array(choose.choice(items), minItems=low, maxItems=choose.randrange(low, 41))
    return choose.choice([whole, closed({choose.choice(_NAMES): whole}), obj({"title": short(), "values": whole})])


def _optional_leaf(choose: random.Random) -> Schema:
    return choose.choice([optional(_leaf(choose)), {"type": ["integer", "null"]}, _leaf(choose)])


KINDS: dict[str, tuple[dict[str, Schema], Callable[[random.Random], Schema]]] = {
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
