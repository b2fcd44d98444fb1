"""Links between the pages of `docs/`, to their sections, and to pictures.

The strict build of the site checks links too, but not pictures, and it is not part of the tests.
"""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.rglob("*.md"))


def prose_of(page):
    """A page without its code blocks."""
    return re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)


def anchors_of(page):
    """The anchors of a page's headings, as the site makes them."""
    headings = re.findall(r"^#+ (.+)$", prose_of(page), flags=re.MULTILINE)
    return {re.sub(r"[\s-]+", "-", re.sub(r"[^\w\s-]", "", heading).strip().lower()) for heading in headings}


def links_of(page):
    targets = re.findall(r"\]\(([^)\s]+)\)", prose_of(page))
    return [target for target in targets if "://" not in target]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(DOCS)))
def test_links_lead_somewhere(page):
    for target in links_of(page):
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.is_file(), target
        assert DOCS in file.parents, f"{target} leaves the site"
        assert not anchor or anchor in anchors_of(file), target


def test_every_picture_is_shown():
    shown = {(page.parent / target).resolve() for page in PAGES for target in links_of(page)}
    assert set((DOCS / "images").iterdir()) <= shown


def test_every_page_is_in_the_navigation():
    navigation = set(re.findall(r'= "([\w/-]+\.md)"', (ROOT / "zensical.toml").read_text(encoding="utf-8")))
    assert navigation == {str(page.relative_to(DOCS)) for page in PAGES}
