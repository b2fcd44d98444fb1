"""Nothing depends on docstrings or on assert statements: `python -OO` removes both."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.unit_tests.structured.optimized import observe

ROOT = Path(__file__).parents[3]
TESTED = [
    "tests/unit_tests/structured/test_structured_output.py",
    "tests/unit_tests/structured/test_tools.py",
    "tests/unit_tests/agents",
]


@pytest.mark.slow
def test_tools_and_structured_output_are_the_same_without_docstrings_and_asserts(is_campaign):
    if not is_campaign:
        pytest.skip("compiles all libraries anew, which takes half a minute: make campaign")
    command = [sys.executable, "-OO", "-m", "tests.unit_tests.structured.optimized"]
    output = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    observed = json.loads(output.splitlines()[-1])
    assert observed.pop("optimize") == 2
    assert observed == json.loads(json.dumps(observe()))


def test_observed_behaviour_is_the_expected_one():
    observed = observe()
    assert all(tool["function"]["description"] for tool in observed["tools"])
    assert observed["extraction"]["description"]
    assert observed["extraction"]["$defs"]["ProposedPreference"]["description"]
    assert observed["call"][0] == "add"
    for arguments in (observed["call"][1], *observed["objects"]):
        assert arguments.keys() == {"x", "y"}
    assert all("uniqueItems" in message for message in observed["unsupported"])
    assert all("cannot be followed" in message and "without end" in message for message in observed["endless"])


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_unit_tests_pass_without_asserts_in_the_package(is_campaign):
    """Under `-O`, pytest keeps the asserts of test modules. Under `-OO`, the tools in these tests have no docstrings."""
    if not is_campaign:
        pytest.skip("takes more than a minute: make campaign")
    ignored = "ignore:assertions not in test modules:pytest.PytestConfigWarning"
    command = [sys.executable, "-O", "-m", "pytest", "-q", "-p", "no:cacheprovider", "-W", ignored, *TESTED]
    finished = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stdout[-3000:]
