"""JSON schemas written by hand, by kind. A name that ends in "(unsupported)" has a part that llguidance cannot enforce."""

from tests.fakes.schema_parts import (
    BOOLEAN,
    DATE,
    EMAIL,
    INTEGER,
    MOMENT,
    NULL,
    NUMBER,
    TEXT,
    any_of,
    array,
    between,
    closed,
    const,
    deep,
    exactly,
    map_of,
    matching,
    obj,
    one_of,
    optional,
    pair,
    ref,
    short,
    tagged,
    text,
    with_definitions,
)

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
