"""The benchmark as a whole, on a tiny random model."""

import json
import subprocess
import sys

import jsonschema
import pytest

from tests.benchmarks.__main__ import main

NUMBER = {"type": "number", "exclusiveMinimum": 0}
MAYBE = {"anyOf": [NUMBER, {"type": "null"}]}
MEASUREMENT = {
    "dtype": {"enum": ["float32", "bfloat16", "float16"]},
    "users": {"type": "integer", "minimum": 1},
    "engine": {"type": "string"},
    "prompt": {"enum": ["plain", "preference in the prompt", "one preference", "two preferences"]},
    "ms_per_token": NUMBER,
    "first_token_ms": MAYBE,
    "ms_per_further_token": MAYBE,
    "share_of_bandwidth": MAYBE,
    "against_generate": MAYBE,
    "against_plain": MAYBE,
    "throughput_against_fewest": MAYBE,
    "weight_bytes": MAYBE,
    "rounds": {"type": "array", "items": NUMBER, "minItems": 1},
}
MACHINE = ("processor", "flags", "num_cores", "threads", "device", "default_dtype", "read_gb_per_s", "load", "torch")


def closed(properties: dict) -> dict:
    return {"type": "object", "properties": properties, "required": [*properties], "additionalProperties": False}


SCHEMA = closed(
    {
        "format_version": {"const": 1},
        "machine": {"type": "object", "required": [*MACHINE]},
        "arguments": {"type": "object"},
        "measurements": {"type": "array", "items": closed(MEASUREMENT), "minItems": 1},
        "not_available": {
            "type": "array",
            "items": closed({key: {"type": "string"} for key in ("dtype", "name", "reason")}),
        },
        "tables": {"type": "array", "items": closed({"title": {}, "columns": {}, "rows": {}}), "minItems": 1},
    }
)
BRIEF = ["--tokens", "3", "--rounds", "1"]


@pytest.fixture(scope="module")
def document(model_folder, tmp_path_factory) -> dict:
    folder = tmp_path_factory.mktemp("bench")
    words = ["--only", "side_by_side", "--model", str(model_folder), "--users", "1", "2", "--folder", str(folder)]
    main([*words, *BRIEF])
    assert (folder / "bench.png").read_bytes().startswith(b"\x89PNG")
    assert "| transformers generate: plain |" in (folder / "bench.md").read_text()
    return json.loads((folder / "bench.json").read_text())


def test_a_run_writes_json_that_follows_its_schema(document):
    jsonschema.validate(document, SCHEMA)


def test_each_contender_is_measured_with_each_number_of_users_in_each_dtype(document):
    found = {(m["dtype"], m["users"], m["engine"], m["prompt"]) for m in document["measurements"]}
    for dtype in ("float32", "bfloat16"):
        for users in (1, 2):
            for prompt in ("plain", "preference in the prompt"):
                assert (dtype, users, "transformers generate", prompt) in found
            assert (dtype, users, "transformers CFG", "one preference") in found
            assert (dtype, users, "ours, eager", "one preference") in found
    assert ("float32", 1, "ours, eager", "two preferences") in found


def test_what_cannot_take_part_is_listed_with_the_remedy(document):
    reasons = {(each["dtype"], each["name"]): each["reason"] for each in document["not_available"]}
    assert "GGUF" in reasons["float32", "llama.cpp"]
    measured = {(m["dtype"], m["engine"]) for m in document["measurements"]}
    for variant in ("packed", "compiled", "int8", "int4", "speculative"):
        for dtype in ("float32", "bfloat16"):
            assert ((dtype, f"ours, {variant}") in measured) != ((dtype, f"ours, {variant}") in reasons)


def test_ratios_are_those_of_the_rounds(document):
    rounds = {(m["dtype"], m["users"], m["engine"], m["prompt"]): m["rounds"][0] for m in document["measurements"]}
    for m in document["measurements"]:
        baseline = rounds[m["dtype"], m["users"], "transformers generate", "plain"]
        assert m["against_generate"] == pytest.approx(m["rounds"][0] / baseline)
        alone = rounds[m["dtype"], 1, m["engine"], m["prompt"]]
        assert m["throughput_against_fewest"] == pytest.approx(m["users"] * alone / m["rounds"][0])


@pytest.mark.parametrize("section", ["costs", "copying", "realignment"])
def test_a_section_prints_its_table(section, model_folder, tmp_path, capsys):
    words = ["--only", section, "--model", str(model_folder), "--dtypes", "float32", "--folder", str(tmp_path)]
    main([*words, *BRIEF])
    assert f"## {section}" in capsys.readouterr().out
    assert json.loads((tmp_path / "bench.json").read_text())["tables"][0]["rows"]


def test_random_weights_tell_the_share_of_the_bandwidth(tmp_path):
    main(["--random-weights", "tiny", "--users", "1", "--folder", str(tmp_path), *BRIEF])
    steps = json.loads((tmp_path / "bench.json").read_text())["tables"][0]
    assert steps["columns"][-1] == "of the bandwidth"
    assert all(0 <= float(row[-1].removesuffix("%")) < 100 for row in steps["rows"])


def test_the_command_shows_its_options():
    command = [sys.executable, "-m", "tests.benchmarks", "--help"]
    shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    for option in ("--only", "--users", "--rounds", "--threads", "--variants", "--dtypes", "--random-weights"):
        assert option in shown
