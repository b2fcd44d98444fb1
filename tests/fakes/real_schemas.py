"""The patterns and JSON schemas that people have published: `tests/data/real_schemas.json`."""

import json
import random
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from tests.fakes.schema_parts import Schema

_FILE = Path(__file__).parents[1] / "data" / "real_schemas.json"


class RealSchema(NamedTuple):
    """A published schema, or a text that must match a published pattern."""

    name: str
    schema: Schema
    is_pattern: bool
    valid: tuple[Any, ...] = ()
    """An instance that its authors call valid, if they give one."""


@cache
def real_schemas() -> tuple[RealSchema, ...]:
    """Return all of them: first the patterns, then the schemas."""
    return tuple(_read(number, item) for number, item in enumerate(json.loads(_FILE.read_text())))


def _read(number: int, item: dict[str, Any]) -> RealSchema:
    name = f"{number} of {item['source']}"
    if "pattern" in item:
        return RealSchema(name, {"type": "string", "pattern": item["pattern"]}, is_pattern=True)
    return RealSchema(name, item["schema"], is_pattern=False, valid=(item["valid"],) if "valid" in item else ())


def some_real_schemas(num: int, seed: int = 0) -> list[RealSchema]:
    """Return a random sample, the same each time."""
    return random.Random(seed).sample(real_schemas(), num)
