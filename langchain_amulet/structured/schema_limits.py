"""Bounds the size of JSON schemas, and of their parts that are expensive to compile; the check takes linear time."""

import math
from collections.abc import Collection, Mapping
from decimal import Decimal
from typing import Any

from langchain_amulet.exceptions import SchemaError

_MAX_PROPERTIES = 500  # of an object; the time per token that llguidance takes grows with their square
_MAX_COUNTED_PROPERTIES = 100  # of an object with minProperties or maxProperties
_MAX_NAME_PATTERNS = 100  # in patternProperties of the whole schema; llguidance intersects them with each other
_MAX_DEPTH = 126  # levels of dicts and lists; llguidance parses no more
_MAX_PARTS = 20_000  # dicts, lists and values
_MAX_CHARACTERS = 1_000_000  # of names and texts
_MAX_PATTERN_CHARACTERS = 20_000  # of different patterns; llguidance's time may grow with their square
_MAX_DIVISOR = 10_000  # llguidance counts remainders, in time that grows with the divisor; factors 2 and 5 are free
_MERGING_KEYWORDS = frozenset({"$ref", "allOf", "anyOf", "oneOf", "multipleOf"})


def check_limits(schema: Any) -> None:
    """Raise `SchemaError` if a schema exceeds a limit. One that contains itself is too deep or has too many parts.

    Parts that stand at several places are read once on each level, and counted at each place.
    """
    level, num_parts, found = [(schema, 1)], 0, _Expensive()
    for _ in range(_MAX_DEPTH + 1):
        merged: dict[int, tuple[Any, int]] = {}
        for part, num_places in level:
            merged[id(part)] = (part, merged.get(id(part), (part, 0))[1] + num_places)
        level = []
        for part, num_places in merged.values():
            num_parts += num_places
            found.num_characters += num_places * _num_characters(part)
            if num_parts > _MAX_PARTS or found.num_characters > _MAX_CHARACTERS:
                _refuse_size()
            if isinstance(part, Mapping):
                _check_number_of_properties(part)
                found.add(part)
            level += [(item, num_places) for item in _items(part)]
    if level:
        msg = f"A JSON schema may nest up to {_MAX_DEPTH} dicts and lists. Name the inner parts in $defs, and use $ref."
        raise SchemaError(msg)
    found.check()


def check_expansion(schema: Mapping[str, Any]) -> None:
    """Raise `SchemaError` if a schema has too many parts once each reference to `$defs` is replaced by its target.

    LangChain replaces them in schemas of classes; there may be exponentially many.
    """
    check_limits(schema)
    definitions, counted = schema.get("$defs", {}), dict[str, int]()

    def count(part: Any) -> int:
        if not isinstance(part, Mapping) or not isinstance(part.get("$ref"), str):
            return 1 + sum(map(count, _items(part)))
        name = part["$ref"].rpartition("/")[2]
        if name not in counted:
            counted[name] = 1  # within itself, where LangChain stops
            counted[name] = count(definitions.get(name))
        return counted[name] + len(part)

    try:
        num_parts = count({key: value for key, value in schema.items() if key != "$defs"})
    except RecursionError:  # a long chain of references
        num_parts = _MAX_PARTS + 1
    if num_parts > _MAX_PARTS:
        _refuse_size()


class _Expensive:
    """What is expensive to compile in all of a schema."""

    def __init__(self) -> None:
        self.num_characters = 0
        self._num_name_patterns = 0
        self._patterns: set[str] = set()
        self._divisors: set[int] = set()
        self._is_merged = False

    def add(self, part: Mapping[str, Any]) -> None:
        """Note the keywords of a part; a property that is named like a keyword is noted too if its value fits."""
        named = part.get("patternProperties")
        if isinstance(named, Mapping):
            self._num_name_patterns += len(named)
            self._patterns.update(name for name in named if isinstance(name, str))
        if isinstance(part.get("pattern"), str):
            self._patterns.add(part["pattern"])
        if isinstance(part.get("multipleOf"), (int, float)):
            self._divisors.add(_divisor(part["multipleOf"]))
        is_list = isinstance(part.get("allOf"), list) and len(part["allOf"]) > 1
        self._is_merged |= is_list or len(_MERGING_KEYWORDS & part.keys()) > 1

    def check(self) -> None:
        """Raise `SchemaError` if it is too much."""
        length = sum(map(len, self._patterns))
        if length > _MAX_PATTERN_CHARACTERS:
            msg = (
                f"The patterns of a JSON schema have {length} characters; up to {_MAX_PATTERN_CHARACTERS} can be "
                "followed in reasonable time. Use enum for lists of words, or leave patterns out."
            )
            raise SchemaError(msg)
        if self._num_name_patterns > _MAX_NAME_PATTERNS:
            msg = (
                f"A JSON schema has {self._num_name_patterns} patterns in patternProperties; up to "
                f"{_MAX_NAME_PATTERNS} can be followed in reasonable time. Use properties or additionalProperties."
            )
            raise SchemaError(msg)
        divisor = math.lcm(*self._divisors) if self._is_merged else sum(self._divisors)
        if divisor > _MAX_DIVISOR:
            msg = (
                "The values of multipleOf in a JSON schema are too large to be followed in reasonable time: without "
                f"factors of 2 and 5, their {'least common multiple' if self._is_merged else 'sum'} is up to "
                f"{_MAX_DIVISOR}. Leave multipleOf out, or use minimum and maximum."
            )
            raise SchemaError(msg)


def _divisor(value: float) -> int:
    """Return the digits of a number as an integer, without its factors 2 and 5."""
    if not math.isfinite(value):
        return 1
    number = abs(value) if isinstance(value, int) else int("".join(map(str, Decimal(repr(value)).as_tuple().digits)))
    for factor in (2, 5):
        while number > 1 and number % factor == 0:
            number //= factor
    return max(1, number)


def _refuse_size() -> None:
    msg = (
        f"A JSON schema may have up to {_MAX_PARTS} parts and {_MAX_CHARACTERS} characters, counted at each place "
        "where they stand. Use a smaller schema, or name repeated parts in $defs and use $ref."
    )
    raise SchemaError(msg)


def _num_characters(part: Any) -> int:
    if isinstance(part, Mapping):
        return sum(len(key) for key in part if isinstance(key, str))
    return len(part) if isinstance(part, str) else 0


def _check_number_of_properties(schema: Mapping[str, Any]) -> None:
    num_properties = len(_items(schema.get("properties")))
    is_counted = "minProperties" in schema or "maxProperties" in schema
    limit = _MAX_COUNTED_PROPERTIES if is_counted else _MAX_PROPERTIES
    if num_properties > limit:
        msg = (
            f"An object of a JSON schema has {num_properties} properties; up to {limit} can be followed in reasonable "
            f"time{', if minProperties or maxProperties counts them' if is_counted else ''}. Divide it into several "
            "objects, or use additionalProperties for similar properties."
        )
        raise SchemaError(msg)


def _items(part: Any) -> Collection[Any]:
    """Return the values within a part of a schema; none if it is not a dict or a list."""
    if isinstance(part, Mapping):
        return part.values()
    return part if isinstance(part, (list, tuple)) else ()
