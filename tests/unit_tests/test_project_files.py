"""The files around the package say the same about versions and dependencies."""

import re
import tomllib
from collections.abc import Iterator
from datetime import date
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

_ROOT = Path(__file__).parents[2]
_PYPROJECT = (_ROOT / "pyproject.toml").read_text(encoding="utf-8")
_PROJECT = tomllib.loads(_PYPROJECT)["project"]
_CI = yaml.safe_load((_ROOT / ".github/workflows/ci.yml").read_text(encoding="utf-8"))


def _requirements() -> Iterator[Requirement]:
    extras = _PROJECT["optional-dependencies"].values()
    for text in [*_PROJECT["dependencies"], *(text for extra in extras for text in extra)]:
        requirement = Requirement(text)
        if requirement.name != _PROJECT["name"]:
            yield requirement


def _pins(name: str) -> dict[str, str]:
    lines = (_ROOT / ".ci" / name).read_text(encoding="utf-8").splitlines()
    pins = (line.split("==") for line in lines if not line.startswith("#"))
    return {canonicalize_name(package): version for package, version in pins}


def _dependency_lines() -> list[str]:
    """The lines of pyproject.toml that name dependencies: one or several quoted requirements."""
    start, end = _PYPROJECT.index("\ndependencies = ["), _PYPROJECT.index("\n[project.scripts]")
    return [line for line in _PYPROJECT[start:end].splitlines() if re.search(r'"[A-Za-z].*?[><=]=', line)]


def test_every_dependency_has_one_lower_bound() -> None:
    bounds: dict[str, set[str]] = {}
    for requirement in _requirements():
        lower = [each.version for each in requirement.specifier if each.operator in (">=", "==")]
        assert len(lower) == 1, f"{requirement} needs a lower bound: the lowest version that works"
        bounds.setdefault(requirement.name, set()).add(lower[0])
    differing = {name: versions for name, versions in bounds.items() if len(versions) > 1}
    assert not differing, "extras disagree"


def test_lowest_pins_are_the_lower_bounds() -> None:
    bounds = {
        canonicalize_name(requirement.name): each.version
        for requirement in _requirements()
        for each in requirement.specifier
        if each.operator in (">=", "==")
    }
    assert _pins("lowest.txt") == bounds


def test_constraints_pin_every_dependency_within_its_range() -> None:
    pins = _pins("constraints.txt")
    for requirement in _requirements():
        assert requirement.specifier.contains(pins[canonicalize_name(requirement.name)]), requirement


def test_every_dependency_has_a_comment() -> None:
    lines = _dependency_lines()
    assert len(lines) > len(_PROJECT["dependencies"]), "the dependency lines were not found"
    assert [line for line in lines if not re.search(r"#\s+\S", line)] == []


def test_citation_and_changelog_know_the_version() -> None:
    citation = yaml.safe_load((_ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    changelog = (_ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    version = _PROJECT["version"]
    assert str(citation["version"]) == version
    dated = re.search(rf"^## \[{re.escape(version)}\] - (\S+)$", changelog, flags=re.MULTILINE)
    assert dated, f"CHANGELOG.md has no dated section for {version}"
    assert date.fromisoformat(dated[1]) == citation["date-released"]


def test_changelog_sections_have_links_and_unreleased_comes_first() -> None:
    changelog = (_ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    sections = re.findall(r"^## \[(.+?)\]", changelog, flags=re.MULTILINE)
    links = re.findall(r"^\[(.+?)\]: https://", changelog, flags=re.MULTILINE)
    assert sections[0] == "Unreleased"
    assert links == sections


@pytest.mark.parametrize("hook", ["ruff-check", "ruff-format"])
def test_pre_commit_has_the_pinned_ruff(hook: str) -> None:
    assert _hooks()[hook]["additional_dependencies"] == [f"ruff=={_pins('constraints.txt')['ruff']}"]


def test_pre_commit_runs_the_mypy_of_the_project() -> None:
    # By way of the Makefile, which installs the pinned version: mypy needs all dependencies beside it.
    hook = _hooks()["mypy"]
    assert (hook["language"], hook["entry"]) == ("system", "make types")
    assert "additional_dependencies" not in hook


def _hooks() -> dict[str, dict[str, object]]:
    config = yaml.safe_load((_ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))
    return {hook["id"]: hook for repo in config["repos"] for hook in repo["hooks"]}


def test_ci_runs_tasks_of_the_makefile() -> None:
    targets = set(re.findall(r"^([a-z]+):", (_ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.MULTILINE))
    commands = [step["run"].split() for job in _CI["jobs"].values() for step in job["steps"] if "run" in step]
    tasks = {task for command in commands for task in command[1:]}
    assert all(command[0] == ".ci/run" for command in commands)
    assert {"demo", "test", "lint", "types", "docs"} <= tasks <= targets


def test_ci_tests_every_python_that_the_project_declares() -> None:
    declared = re.findall(r'"Programming Language :: Python :: (3\.\d+)"', _PYPROJECT)
    assert _CI["jobs"]["tests"]["strategy"]["matrix"]["python"] == declared


def test_ci_constraint_files_exist() -> None:
    matrix = _CI["jobs"]["tests"]["strategy"]["matrix"]
    files = [*matrix["constraints"], *(entry["constraints"] for entry in matrix["include"])]
    assert files.count("") == 1, "one job takes the newest versions"
    assert [file for file in files if file and not (_ROOT / file).is_file()] == []


def test_source_distribution_holds_what_these_tests_read() -> None:
    include = tomllib.loads(_PYPROJECT)["tool"]["hatch"]["build"]["targets"]["sdist"]["include"]
    read = {"/.ci", "/.github", "/.pre-commit-config.yaml", "/CHANGELOG.md", "/CITATION.cff", "/Makefile", "/tests"}
    assert read <= set(include)
