"""Collects real-world patterns and JSON schemas from public packages into `real_schemas.json`.

Run it with a folder that holds the unpacked packages: `python tests/data/collect_schemas.py FOLDER`. The README beside
this file names them, their versions and licences. The same packages give the same file.
"""

import json
import random
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from jsonschema import Draft4Validator, Draft7Validator, Draft202012Validator

MOST_BYTES = 1000  # of one schema as JSON
MOST_CHARACTERS = 400  # of one pattern
NUM_LONGEST = 12  # patterns that are taken although they are longer
NOTES = {"description", "markdownDescription", "title", "$comment", "$id", "$schema", "id"}


class Source(NamedTuple):
    """Which files of a package are read, and how much of them is taken."""

    files: str
    num_patterns: int
    num_schemas: int


SOURCES = {
    "cfn-lint": Source("cfn_lint-*/cfnlint/data/schemas/resources/*.json", 750, 220),
    "check-jsonschema": Source("check_jsonschema-*/check_jsonschema/builtin_schemas/vendor/*.json", 400, 160),
    "altair": Source("altair-*/altair/vegalite/v6/schema/vega-lite-schema.json", 50, 60),
    "octokit": Source("octokit-openapi-*/package/generated/api.github.com.json", 50, 80),
    "cyclonedx": Source("cyclonedx_python_lib-*/cyclonedx/schema/_res/*.json", 50, 40),
    "asyncapi": Source("asyncapi-specs-*/package/schemas/*.json", 50, 40),
    "nbformat": Source("nbformat-*/nbformat/v?/nbformat.v?.schema.json", 50, 20),
    "webpack": Source("webpack-*/package/schemas/**/*.json", 50, 40),
    "poetry": Source("poetry_core-*/poetry/core/json/schemas/*.json", 50, 20),
}
SUITE = "jsonschema-*/json/tests/draft2020-12/**/*.json"
LICENSED_OTHERWISE = {"renovate.json", "snapcraft.json"}  # AGPL and GPL
DRAFTS = (Draft202012Validator, Draft7Validator, Draft4Validator)
RANDOM = random.Random(0)


def main(folder: Path) -> None:
    patterns: dict[str, str] = {}
    schemas: dict[str, dict[str, Any]] = {}
    for name, source in SOURCES.items():
        paths = [path for path in sorted(folder.glob(source.files)) if path.name not in LICENSED_OTHERWISE]
        documents = [json.loads(path.read_text()) for path in paths]
        chosen = pick_patterns([{*each_pattern(document)} for document in documents], source.num_patterns)
        patterns |= {pattern: name for pattern in chosen if pattern not in patterns}
        found = {shape(schema): schema for document in documents for schema in candidates(document)}
        for schema in RANDOM.sample(sorted(found.values(), key=json.dumps), min(len(found), source.num_schemas)):
            schemas.setdefault(json.dumps(schema), {"source": name, "schema": schema})
    for case in suite(folder):
        schemas.setdefault(json.dumps(case["schema"]), case)
    write(Path(__file__).with_name("real_schemas.json"), patterns, [*schemas.values()])


def write(path: Path, patterns: dict[str, str], schemas: list[dict[str, Any]]) -> None:
    """Write one item per line."""
    pairs = [{"source": source, "pattern": pattern} for pattern, source in patterns.items()]
    lines = [json.dumps(item, ensure_ascii=False, separators=(",", ":")) for item in [*pairs, *schemas]]
    path.write_text("[\n" + ",\n".join(lines) + "\n]\n")


def nodes(value: Any) -> Iterator[dict[str, Any]]:
    """Yield every object within a JSON value."""
    if isinstance(value, dict):
        yield value
    children = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    for child in children:
        yield from nodes(child)


def each_pattern(document: Any) -> Iterator[str]:
    for node in nodes(document):
        named = node.get("patternProperties")
        yield from named if isinstance(named, dict) else ()
        if isinstance(node.get("pattern"), str):
            yield node["pattern"]


def pick_patterns(by_document: list[set[str]], num: int) -> list[str]:
    """Choose patterns that differ in more than their numbers."""
    unique = {re.sub(r"\d+", "0", pattern): pattern for found in by_document for pattern in sorted(found)}
    by_length = sorted(unique.values(), key=lambda pattern: (len(pattern), pattern))
    short = [pattern for pattern in by_length if len(pattern) <= MOST_CHARACTERS]
    long = [pattern for pattern in by_length if len(pattern) > MOST_CHARACTERS][-NUM_LONGEST:]
    return [*RANDOM.sample(short, min(num, len(short))), *long]


def candidates(document: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the document's definitions and their parts, with what they refer to, if they are of useful size."""
    for node in nodes(document):
        if not {"type", "properties", "anyOf", "oneOf", "allOf", "enum", "pattern", "$ref"} & {*node}:
            continue
        whole = with_definitions(document, bare(node))
        if whole is not None and 60 <= len(json.dumps(whole)) <= MOST_BYTES and is_schema(whole):
            yield whole


def is_schema(node: dict[str, Any]) -> bool:
    return any(draft(draft.META_SCHEMA).is_valid(node) for draft in DRAFTS)


def bare(value: Any) -> Any:
    """Leave out what only people read."""
    if isinstance(value, list):
        return [bare(item) for item in value]
    if not isinstance(value, dict):
        return value
    notes = {key for key in value if key in NOTES and isinstance(value[key], str)}
    notes |= {key for key in value if key in {"examples", "example"} and not isinstance(value[key], bool)}
    return {key: bare(each) for key, each in value.items() if key not in notes}


def with_definitions(document: dict[str, Any], schema: dict[str, Any]) -> dict[str, Any] | None:
    """Add the definitions that a schema refers to; `None` if one of them lies elsewhere, or they are too large."""
    definitions: dict[str, Any] = {}
    waiting = [schema]
    while waiting:
        for node in nodes(waiting.pop()):
            reference = node.get("$ref")
            if not isinstance(reference, str):
                continue
            name = reference.rpartition("/")[2]
            if name in definitions:
                node["$ref"] = f"#/$defs/{name}"
                continue
            target = look_up(document, reference)
            if target is None or not re.fullmatch(r"[\w.-]+", name) or len(json.dumps(definitions)) > MOST_BYTES:
                return None
            definitions[name] = bare(target)
            node["$ref"] = f"#/$defs/{name}"
            waiting.append(definitions[name])
    rest = {key: value for key, value in schema.items() if key not in {"definitions", "$defs"}}
    return {**rest, "$defs": definitions} if definitions else rest


def look_up(document: Any, reference: str) -> Any:
    """Return what a reference within the document points to, or `None`."""
    if not reference.startswith("#/"):
        return None
    for step in reference.removeprefix("#/").split("/"):
        document = document.get(step) if isinstance(document, dict) else None
    return document if isinstance(document, dict) else None


def shape(schema: Any) -> str:
    """Return a text that is equal for schemas that differ in names and numbers only."""
    return re.sub(r'"[^"]{12,}"|\d+', "_", json.dumps(schema, sort_keys=True))


def suite(folder: Path) -> Iterator[dict[str, Any]]:
    """Yield the schemas of the JSON Schema test suite, with the shortest valid instance of each."""
    for path in sorted(folder.glob(SUITE)):
        for case in json.loads(path.read_text()):
            schema = case["schema"]
            if isinstance(schema, dict):
                schema = {key: value for key, value in schema.items() if key not in {"$schema", "$comment"}}
            text = json.dumps(schema)
            if len(text) > MOST_BYTES or "://" in text or not isinstance(schema, dict):
                continue
            valid = [test["data"] for test in case["tests"] if test["valid"]]
            shortest = {"valid": min(valid, key=lambda data: len(json.dumps(data)))} if valid else {}
            yield {"source": f"test suite: {path.stem}", "schema": schema, **shortest}


if __name__ == "__main__":
    main(Path(sys.argv[1]))
