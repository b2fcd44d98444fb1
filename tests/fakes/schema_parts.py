"""Parts of JSON schemas, in the forms that applications and pydantic write."""

from collections.abc import Mapping
from typing import Any

Schema = dict[str, Any]

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


def obj(properties: Mapping[str, Schema | bool], required: list[str] | None = None, **keywords) -> Schema:
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
