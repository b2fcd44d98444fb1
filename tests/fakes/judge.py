"""Judges JSON by its schema with jsonschema, independently of llguidance."""

import json
from decimal import Decimal
from typing import Any

from jsonschema import Draft202012Validator, FormatChecker
from jsonschema.exceptions import best_match

from tests.fakes.schema_parts import Schema

# Formats that jsonschema checks without further packages. Not dates: Python's dates have no year 0, the grammar's do.
FORMATS = FormatChecker(["email", "ipv4", "ipv6", "uuid"])


def exact(text: str) -> Decimal | float:
    """Return a number as it is written: 0.99999999999999999999 is below 1, but not as a float."""
    return float(text) if "e" in text.lower() else Decimal(text)  # exponents may exceed the range of decimals


def fault_of(value: Any, schema: Schema) -> str | None:
    """Return what is wrong with a value whose numbers were read by `exact`, or `None`."""
    exact_schema = json.loads(json.dumps(schema), parse_float=exact)
    error = best_match(Draft202012Validator(exact_schema, format_checker=FORMATS).iter_errors(value))
    return None if error is None else f"{error.json_path} {error.message[:200]}"
