"""The architecture page against the tree."""

import re

import pytest

from tests.architecture_map import PACKAGE, PAGE, SECTIONS, map_of, phrase_of, section_of, with_sections

PROSE = PAGE.read_text(encoding="utf-8").partition("## The map")[0]
PATHS = sorted({path for path in re.findall(r"`([\w/]+(?:/|\.py))`", PROSE) if path != "langchain_amulet/"})


@pytest.mark.parametrize("name", SECTIONS)
def test_generated_sections_are_up_to_date(name):
    page = PAGE.read_text(encoding="utf-8")
    assert section_of(page, name) == section_of(with_sections(page), name), "run `make map`"


def test_the_map_lists_every_module_with_the_first_line_of_its_docstring(tmp_path):
    package = tmp_path / "package"
    for file, text in {
        "__init__.py": '"""A package.\n\nMore of it."""',
        "b.py": '"""What b does."""',
        "a.py": '"""What a does: this. And that."""',
        "inner/__init__.py": '"""An inner package."""',
        "inner/c.py": "x = 1",
        "data/text.txt": "",
    }.items():
        (package / file).parent.mkdir(parents=True, exist_ok=True)
        (package / file).write_text(text)
    assert map_of(package).splitlines() == [
        "package/  A package",
        "  a.py    What a does: this. And that",
        "  b.py    What b does",
        "  inner/  An inner package",
        "    c.py",
    ]


@pytest.mark.parametrize("module", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_every_module_says_in_one_line_what_it_does(module):
    assert phrase_of(module)


@pytest.mark.parametrize("path", PATHS)
def test_paths_that_the_page_names_exist(path):
    assert (PACKAGE / path).exists()


@pytest.mark.parametrize(
    "page", ["no marks", "<!-- map:begin --> <!-- map:end --> <!-- map:begin --> <!-- map:end -->"]
)
def test_a_page_without_its_marks_is_refused(page):
    with pytest.raises(ValueError, match="must have the marks of the section 'map' once"):
        section_of(page, "map")
