"""The page of a trace: complete, self-contained, escaped, and usable without a mouse; and `amulet trace`."""

import json
import re
from html import unescape

import pytest
from typer.testing import CliRunner

from langchain_amulet import ChatAmulet, cli
from langchain_amulet.cli import trace as cli_trace
from langchain_amulet.trace import Trace, render_trace
from tests.fakes.chat_templates import byte_tokenizer
from tests.fakes.models import tiny_model
from tests.fakes.traces import candidate, token, trace_of

HOSTILE = "</script><img src=x onerror=alert(1)>\"'&"


def data_of(page: str) -> dict:
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)[1])


def options_of(page: str) -> list[str]:
    return re.findall(r'<span role="option".*?>(?:<span class="mark">[^<]*</span>)?([^<]*)</span>', page)


def levels_of(page: str) -> list[float]:
    return [float(level) for level in re.findall(r'role="option".*?style="--m: ([\d.]+)"', page)]


def test_the_page_shows_the_answer_token_by_token():
    page = render_trace(trace_of(token("Oh"), token(" no"), token("!\n")), question="Why?", preferences=["Be brief."])
    assert options_of(page) == ["Oh", " no", "!\n"]
    assert ["Why?" in page, "Be brief." in page] == [True, True]


def test_the_colour_grows_with_the_divergence():
    levels = levels_of(render_trace(trace_of(*(token("a", kl=kl) for kl in (0.0, 0.01, 0.5, 2.0, 30.0)))))
    assert levels[0] == 0
    assert levels == sorted(levels)
    assert levels[-2] == levels[-1] < 1


def test_the_page_needs_nothing_from_elsewhere():
    page = render_trace(trace_of(token("a")))
    assert not re.search(r"https?:|//\w|\b(src|href|action)=|url\(|@import|fetch|XMLHttp|WebSocket", page)


@pytest.mark.parametrize("place", ["token", "candidate", "question", "preference", "title"])
def test_texts_cannot_become_part_of_the_page(place):
    hostile = token(HOSTILE) if place == "token" else token("a", candidate(1, HOSTILE if place == "candidate" else "b"))
    texts = {"question": HOSTILE, "title": HOSTILE} if place in ("question", "title") else {}
    page = render_trace(trace_of(hostile), **texts, preferences=[HOSTILE] if place == "preference" else [])
    assert "<img" not in page
    assert page.count("</script>") == 2
    assert "onerror=alert(1)" in unescape(page), "it is shown as text"


def test_the_data_hold_the_alternatives_of_each_token():
    other = candidate(1, " b", 0.25, realigned=0.0, unguarded=0.125)
    [shown] = data_of(render_trace(trace_of(token("a", other, prompted_choice=other, unguarded_choice=other))))[
        "tokens"
    ]
    first, second = shown["candidates"]
    assert (first["text"], first["tags"]) == ("a", ["drawn", "choice of base"])
    assert (second["text"], second["tags"]) == ("␣b", ["choice of prompted, unguarded", "removed"])
    assert second["cells"] == ["0", "25 %", "25 %", "12.5 %"]
    assert (
        shown["facts"]
        == "moved by 0.2 nats; gain 2; prompting gives “␣b”; guards removed 1 likely token (12 % of the probability)"
    )


def test_only_columns_that_say_something_are_shown():
    assert data_of(render_trace(trace_of(token("a"))))["header"] == ["Token", "steered", "prompted", "base"]
    contrasted = trace_of(token("a", candidate(1, "b", contrast=0.1)))
    assert "contrast" not in data_of(render_trace(contrasted))["header"], "the drawn tokens decide"


def test_changed_and_guarded_tokens_are_marked():
    other = candidate(1, "b")
    page = render_trace(
        trace_of(token("a"), token("c", other, prompted_choice=other), token("d", other, unguarded_choice=other))
    )
    assert re.findall(r'role="option".*?class="([^"]*)"', page) == ["", "changed", "guarded"]


def test_the_answer_is_one_tab_stop_whose_tokens_have_names():
    page = render_trace(trace_of(token("a"), token(" b", kl=1.5), token("", spelled="<|im_end|>")))
    assert re.findall(r'role="option"[^>]*tabindex="(-?\d)"', page) == ["0", "-1", "-1"]
    labels = re.findall(r'role="option"[^>]*aria-label="([^"]*)"', page)
    assert labels == ["a, moved by 0.20 nats", "␣b, moved by 1.50 nats", "end of the answer, moved by 0.20 nats"]


def test_the_curve_has_a_step_for_every_token():
    page = render_trace(trace_of(*(token("a", kl=kl) for kl in (0.0, 1.0, 4.0))))
    assert 'd="M0 100V100.00H1V75.00H2V0.00H3V100Z"' in page
    assert "4.00 nats" in page


def test_a_real_trace_is_rendered():
    llm = ChatAmulet(model=tiny_model("qwen2", seed=5), tokenizer=byte_tokenizer(), max_tokens=8)
    trace = Trace.of(llm.invoke("Why?", preference="Be brief.", trace=True))
    assert len(data_of(render_trace(trace))["tokens"]) == len(trace.tokens)


# The command


@pytest.fixture
def run(monkeypatch, tmp_path):
    """Return a function that runs `amulet trace` on a tiny model, and returns its result and the path of the page."""
    llm = ChatAmulet(model=tiny_model("qwen2", seed=5), tokenizer=byte_tokenizer())
    monkeypatch.setattr(cli_trace, "_chat_model", lambda _: llm)
    page = tmp_path / "page.html"
    arguments = ["trace", "Why?", "--max-tokens", "8", "--output", str(page)]
    return lambda *others: (CliRunner().invoke(cli.app, [*arguments, *others]), page)


def test_the_command_writes_the_page(run):
    result, page = run("--preference", "Be brief.", "--scale", "3", "--contrast", "opposite", "--opposite", "Be long.")
    assert result.exit_code == 0, result.output
    assert f"of 8 tokens differ from prompting.\n{page}" in result.output
    text = page.read_text(encoding="utf-8")
    assert ["Be brief." in text, "Why?" in text, "Be long." in text] == [True, True, False]
    assert data_of(text)["header"] == ["Token", "steered", "prompted", "base", "contrast", "unguarded"]


def test_the_command_traces_a_plain_answer_too(run):
    result, page = run("--temperature", "1")
    assert (result.exit_code, "Moved by 0.00 nats per token" in result.output) == (0, True)
    assert data_of(page.read_text(encoding="utf-8"))["header"] == ["Token", "steered", "prompted", "base"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--opposite", "Be long."], "--opposite needs exactly one --preference; got 0."),
        (["--scale", "1e9"], "guidance_scale must be"),
        (["--temperature", "-1"], "temperature must be"),
    ],
)
def test_the_command_tells_what_is_wrong(run, arguments, message):
    result, page = run(*arguments)
    assert (result.exit_code, page.exists()) == (2, False)
    assert f"amulet trace: {message}" in result.output
