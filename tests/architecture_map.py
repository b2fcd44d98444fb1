"""The generated parts of `docs/architecture.md`: the map of the package, and its layers.

    python -m tests.architecture_map           # print them
    python -m tests.architecture_map --write   # write them into the page: `make map`

The map lists every package and module with the first line of its docstring. The layers are those that import-linter
checks, from `pyproject.toml`.
"""

import ast
import re
import sys
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "langchain_amulet"
PAGE = ROOT / "docs" / "architecture.md"
_INDENT = 2


def map_of(package: Path) -> str:
    """A package as a tree: each folder's modules first, then the folders in it."""
    entries = [(f"{package.name}/", phrase_of(package / "__init__.py")), *_entries(package, depth=1)]
    width = max(len(name) for name, _ in entries) + _INDENT
    return "\n".join(f"{name:<{width}}{phrase}".rstrip() for name, phrase in entries)


def _entries(package: Path, *, depth: int) -> Iterator[tuple[str, str]]:
    indent = " " * _INDENT * depth
    for module in sorted(package.glob("*.py")):
        if module.name != "__init__.py":
            yield f"{indent}{module.name}", phrase_of(module)
    for folder in sorted(path.parent for path in package.glob("*/__init__.py")):
        yield f"{indent}{folder.name}/", phrase_of(folder / "__init__.py")
        yield from _entries(folder, depth=depth + 1)


def phrase_of(module: Path) -> str:
    """The first line of a module's docstring, without its full stop; empty if there is none."""
    docstring = ast.get_docstring(ast.parse(module.read_text(encoding="utf-8"))) or ""
    return docstring.split("\n", 1)[0].removesuffix(".")


def layers_of(pyproject: Path) -> str:
    """The layers of the import contract as stairs: each may import those below it."""
    contracts = tomllib.loads(pyproject.read_text(encoding="utf-8"))["tool"]["importlinter"]["contracts"]
    layers: list[str] = next(contract["layers"] for contract in contracts if contract["type"] == "layers")
    first, *others = layers
    return "\n".join([first, *(f"{'  ' * depth}└─ {layer}" for depth, layer in enumerate(others))])


SECTIONS: dict[str, Callable[[], str]] = {
    "map": lambda: map_of(PACKAGE),
    "layers": lambda: layers_of(ROOT / "pyproject.toml"),
}


def section_of(page: str, name: str) -> str:
    """What stands between the marks of a section, the marks not included.

    Raises:
        ValueError: The page does not have the marks exactly once.
    """
    sections = re.findall(f"<!-- {name}:begin -->(.*?)<!-- {name}:end -->", page, re.DOTALL)
    if len(sections) != 1:
        msg = f"{PAGE.name} must have the marks of the section {name!r} once, found them {len(sections)} times."
        raise ValueError(msg)
    return str(sections[0])


def with_sections(page: str) -> str:
    """The page with its generated sections as they are now."""
    for name, generate in SECTIONS.items():
        page = page.replace(section_of(page, name), f"\n\n```text\n{generate()}\n```\n\n")
    return page


def main() -> None:
    """Print the sections, or write them."""
    if "--write" in sys.argv[1:]:
        PAGE.write_text(with_sections(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
        return
    for name, generate in SECTIONS.items():
        sys.stdout.write(f"{name}:\n\n{generate()}\n\n")


if __name__ == "__main__":
    main()
