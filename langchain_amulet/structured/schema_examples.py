"""Short JSON texts that follow a schema, and a proof that there is none where a schema contains itself without end."""

import json
import math
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any
from urllib.parse import unquote

from langchain_amulet.structured.regex_examples import example_of

_TYPES = ("string", "null", "boolean", "number", "integer", "array", "object")
_MAX_VISITS = 20_000  # of parts of a schema
_MAX_NESTING = 150  # levels of schemas
_MAX_LENGTH = 100_000  # characters of an example
_ANYTHING = "0"
_ANNOTATIONS: tuple[str, ...] = (
    "title",
    "description",
    "default",
    "examples",
    "$comment",
    "$schema",
    "$id",
    "$defs",
    "definitions",
)
_ANNOTATIONS += ("deprecated", "readOnly", "writeOnly", "x-guidance")

_FORMATS = {
    "date": "2000-01-01",
    "time": "00:00:00Z",
    "date-time": "2000-01-01T00:00:00Z",
    "duration": "P1D",
    "email": "a@a.aa",
    "hostname": "a",
    "ipv4": "1.1.1.1",
    "ipv6": "::1",
    "uri": "a:a",
    "uuid": "00000000-0000-0000-0000-000000000000",
}


class _UnknownError(Exception):
    """Nothing is known about the schema: it is too large, or refers to a part that is not there."""


class SchemaExamples:
    """Examples of one schema. They are guesses: keywords such as `not` are ignored, so the caller has to check them.

    Args:
        schema: A JSON schema.
    """

    def __init__(self, schema: Any) -> None:
        self._root = schema
        self._targets: dict[str, str | None] = {}  # examples of the schemas that references point to
        self._visited: set[str] = set()  # references met in the current pass
        self._num_visits = self._nesting = 0
        self.strings: dict[str, None] = {}
        """The contents of strings, escaped as in JSON, that follow the patterns and formats in the schema; ordered."""
        self.is_endless = False
        """Whether no text follows the schema, because it contains itself without end."""
        self.whole: str | None = None
        """A text that may follow the schema, with `", "` and `": "` as separators; `None` if none was found."""
        try:
            self.whole = self._fixed_point()
            self.is_endless = self.whole is None
        except (_UnknownError, ValueError, TypeError, OverflowError, RecursionError):
            pass  # an invalid schema, which the compiler reports, or one that is too large

    def _fixed_point(self) -> str | None:
        """Repeat until no reference finds a shorter example. At first, no reference has one."""
        while True:
            before = dict(self._targets)
            self._visited.clear()
            whole = self._example(self._root)
            if self._targets == before:
                return whole

    def _example(self, schema: Any) -> str | None:
        """Return a short example; `None` if there is none, as far as is known of the references."""
        self._visit()
        self._nesting += 1
        if self._nesting > _MAX_NESTING:
            raise _UnknownError
        anything = None if schema is False else _ANYTHING
        example = self._of_dict(schema) if isinstance(schema, Mapping) else anything
        self._nesting -= 1
        if example is not None and len(example) > _MAX_LENGTH:
            raise _UnknownError
        return example

    def _visit(self, number: int = 1) -> None:
        """Count parts of a schema that are read, each time that they are."""
        self._num_visits += number
        if self._num_visits > _MAX_VISITS:
            raise _UnknownError

    def _of_dict(self, schema: Mapping[str, Any]) -> str | None:
        if "$id" in schema and schema is not self._root:
            raise _UnknownError  # references within it start at another root
        if "const" in schema:
            return _text(schema["const"])
        if "enum" in schema:
            self._visit(len(schema["enum"]))
            return _shortest(map(_text, schema["enum"]))
        if "$ref" in schema:
            return self._of_reference(schema)
        for keyword in ("allOf", "anyOf", "oneOf"):
            if branches := schema.get(keyword):
                rest = {key: value for key, value in schema.items() if key not in (keyword, *_ANNOTATIONS)}
                if keyword == "allOf":
                    return self._of_all([rest, *branches] if rest else branches)
                return _shortest(self._of_all([rest, branch] if rest else [branch]) for branch in branches)
        types = schema.get("type", _TYPES)
        return _shortest(self._of_type(kind, schema) for kind in ([types] if isinstance(types, str) else types))

    def _of_all(self, schemas: list[Any]) -> str | None:
        return self._example(schemas[0] if len(schemas) == 1 else self._merged(schemas))

    def _of_reference(self, schema: Mapping[str, Any]) -> str | None:
        """Return the example of the schema that a reference points to, which is computed once in each pass."""
        reference = schema["$ref"]
        if schema.keys() - {"$ref", *_ANNOTATIONS}:
            return self._example(self._merged([schema]))
        if reference not in self._visited:
            self._visited.add(reference)
            self._targets.setdefault(reference, None)
            found = self._example(self._resolved(reference))
            self._targets[reference] = _shortest([found, self._targets[reference]])
        return self._targets[reference]

    def _resolved(self, reference: str) -> Any:
        if not isinstance(reference, str) or not re.fullmatch(r"#(/.*)?", reference):
            raise _UnknownError  # an anchor, or another document
        target = self._root
        for part in unquote(reference[1:]).split("/")[1:]:
            key: Any = part.replace("~1", "/").replace("~0", "~")
            try:
                target = target[int(key)] if isinstance(target, list) else target[key]
            except (LookupError, TypeError) as error:
                raise _UnknownError from error
        return target

    def _merged(self, schemas: list[Any]) -> Any:
        """Return one schema that follows several, as far as dicts can be combined keyword by keyword."""
        merged: dict[str, Any] = {}
        for schema in map(self._without_reference, schemas):
            if schema is False:
                return False
            if isinstance(schema, Mapping):
                for key, value in schema.items():
                    self._visit(len(value) + len(merged.get(key, ())) if isinstance(value, (Mapping, list)) else 1)
                    merged[key] = _both(key, merged[key], value) if key in merged else value
        return merged

    def _without_reference(self, schema: Any) -> Any:
        """Return the schema with the keywords of the schema that it refers to."""
        self._visit()
        if not isinstance(schema, Mapping) or "$ref" not in schema:
            return schema
        rest = {key: value for key, value in schema.items() if key != "$ref"}
        return self._merged([rest, self._resolved(schema["$ref"])])

    def _of_type(self, kind: str, schema: Mapping[str, Any]) -> str | None:
        if kind == "object":
            return self._object(schema)
        if kind == "array":
            return self._array(schema)
        if kind == "string":
            return f'"{self._string(schema)}"'
        if kind in ("integer", "number"):
            return _number(schema, is_integer=kind == "integer")
        return {"null": "null", "boolean": "true"}.get(kind, _ANYTHING)

    def _string(self, schema: Mapping[str, Any]) -> str:
        length, pattern = int(schema.get("minLength", 0)), schema.get("pattern")
        content = example_of(pattern, length) if isinstance(pattern, str) else _FORMATS.get(schema.get("format", ""))
        if content is None:
            return "x" * min(length, _MAX_LENGTH)
        escaped = _text(content)[1:-1]
        self.strings[escaped] = None
        return escaped

    def _array(self, schema: Mapping[str, Any]) -> str | None:
        items = schema.get("items", True)
        first = schema.get("prefixItems", items if isinstance(items, list) else [])
        rest = schema.get("additionalItems", True) if isinstance(items, list) else items
        number = int(schema.get("minItems", 0))
        examples = [self._example(part) for part in first[:number]]
        if len(examples) < number:
            example, num_more = self._example(rest), number - len(examples)
            if num_more * max(1, len(example or "")) > _MAX_LENGTH:
                raise _UnknownError
            examples += [example] * num_more
        return _list(examples)

    def _object(self, schema: Mapping[str, Any]) -> str | None:
        properties, required = schema.get("properties", {}), dict.fromkeys(schema.get("required", ()))
        num_more = max(0, int(schema.get("minProperties", 0)) - len(required))
        other = True if schema.get("patternProperties") else schema.get("additionalProperties", True)
        optional = [name for name in properties if name not in required] if num_more else []
        values = {name: self._example(properties.get(name, other)) for name in (*required, *optional)}
        chosen = [*required, *[name for name in optional if values[name] is not None][:num_more]]
        for number in range(len(required) + num_more - len(chosen)):
            values[f"x{number}"] = self._example(other)
            chosen.append(f"x{number}")
        members = {*chosen}
        ordered = dict.fromkeys([*(name for name in properties if name in members), *chosen])
        return _dict({name: values[name] for name in ordered})


def _both(keyword: str, first: Any, second: Any) -> Any:
    """Return the value of a keyword that combines its values in two schemas."""
    if keyword in ("anyOf", "oneOf"):
        raise _UnknownError
    return _COMBINED.get(keyword, lambda _first, second: second)(first, second)


def _both_named(first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, Any]:
    shared = {name: {"allOf": [first[name], second[name]]} for name in first if name in second}
    return {**first, **second, **shared}


def _common_types(first: Any, second: Any) -> list[str]:
    kinds = [second] if isinstance(second, str) else second
    allowed = {first} if isinstance(first, str) else set(first)
    allowed |= {"integer"} if "number" in allowed else set()
    return [kind for kind in kinds if kind in allowed or (kind == "number" and "integer" in allowed)]


_COMBINED: dict[str, Callable[[Any, Any], Any]] = {
    **dict.fromkeys(("properties", "patternProperties", "$defs", "definitions"), _both_named),
    **dict.fromkeys(("required", "allOf"), lambda first, second: [*first, *second]),
    **dict.fromkeys(("minLength", "minItems", "minProperties", "minimum", "exclusiveMinimum"), max),
    **dict.fromkeys(("maximum", "exclusiveMaximum"), min),
    "type": _common_types,
}
"""By keyword: combines its values in two schemas; with other keywords, the second value holds."""


def _number(schema: Mapping[str, Any], *, is_integer: bool) -> str:
    """Return a number near 0 within the bounds, or simply 0 if it is not clear which one that is."""
    step = schema.get("multipleOf") or (1 if is_integer else 0)
    low = max(schema.get("minimum", -math.inf), schema.get("exclusiveMinimum", -math.inf))
    high = min(schema.get("maximum", math.inf), schema.get("exclusiveMaximum", math.inf))
    value = min(max(0, low), high)
    is_excluded = value in (schema.get("exclusiveMinimum"), schema.get("exclusiveMaximum"))
    if step:
        value = (math.ceil if value == low else math.floor)(value / step) * step
    if is_excluded and value in (schema.get("exclusiveMinimum"), schema.get("exclusiveMaximum")):
        gap = high - low
        by = step or (gap / 2 if math.isfinite(gap) else 1)
        value += by if value == low else -by
    return _text(int(value) if value == int(value) else value)


def _list(values: list[str | None]) -> str | None:
    known = [value for value in values if value is not None]
    if sum(map(len, known)) > _MAX_LENGTH:
        raise _UnknownError
    return f"[{', '.join(known)}]" if len(known) == len(values) else None


def _dict(values: Mapping[str, str | None]) -> str | None:
    if sum(len(value or "") for value in values.values()) > _MAX_LENGTH:
        raise _UnknownError
    known = [f"{_text(name)}: {value}" for name, value in values.items() if value is not None]
    return f"{{{', '.join(known)}}}" if len(known) == len(values) else None


def _shortest(examples: Iterable[str | None]) -> str | None:
    return min((example for example in examples if example is not None), key=len, default=None)


def _text(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)
