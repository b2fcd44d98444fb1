"""Whether realignment changes tool calls: names and arguments compared with those of the preference prompt alone."""

import argparse
import itertools
from collections.abc import Sequence
from typing import Any, Literal

from langchain_core.messages import AIMessage

from langchain_amulet import ChatAmulet, RealignmentConfig
from tests.benchmarks.models import chat_model
from tests.benchmarks.report import Report

STYLES = ("Answer like a pirate.", "Answer as concisely as possible.", "Use many emojis and exclamation marks.")
_CITIES = ("Paris", "Tokyo", "Nairobi", "Lima", "Oslo", "Sydney", "Cairo", "Toronto", "Berlin", "Mumbai")
_TEMPLATES = (
    "What is the weather in {city}?",
    "Do I need an umbrella in {city} today?",
    "Is it cold in {city} right now?",
    "What time is it in {city}?",
    "How late is it in {city} now?",
    "Set a timer for {number} minutes.",
    "Remind me in {number} minutes.",
    "How many people live in {city}?",
    "Tell me the population of {city}.",
    "Wake me up in {number} minutes, please.",
)
_SCALE = 3.0


def get_weather(city: str, unit: Literal["celsius", "fahrenheit"]) -> str:
    """Tell the weather in a city."""
    raise NotImplementedError


def get_time(city: str) -> str:
    """Tell the time of day in a city."""
    raise NotImplementedError


def set_timer(minutes: int) -> str:
    """Ring after some minutes."""
    raise NotImplementedError


def get_population(city: str) -> str:
    """Tell how many people live in a city."""
    raise NotImplementedError


TOOLS = (get_weather, get_time, set_timer, get_population)


def prompts() -> list[str]:
    """Return a hundred questions, each of which requires one of the tools."""
    numbered = enumerate(itertools.product(_TEMPLATES, _CITIES), start=3)
    return [template.format(city=city, number=number) for number, (template, city) in numbered]


def calls(llm: ChatAmulet, choice: str, questions: Sequence[str], **settings: Any) -> list[list[tuple[str, str]]]:
    """Return names and arguments of the called tools, for each style and question."""
    jobs = [
        llm.bind_tools(TOOLS, tool_choice=choice, preference=style, temperature=0, max_tokens=64, **settings)
        for style in STYLES
    ]
    # The first question runs alone, so that the others reuse the keys and values of its system message.
    answers = (answer for bound in jobs for answer in (bound.invoke(questions[0]), *bound.batch([*questions[1:]])))
    return [_told(answer) for answer in answers]


def _told(answer: AIMessage) -> list[tuple[str, str]]:
    whole = [(call["name"], repr(call["args"])) for call in answer.tool_calls]
    return whole + [(call["name"] or "", call["args"] or "") for call in answer.invalid_tool_calls]


def share_equal(mine: Sequence[object], reference: Sequence[object]) -> float:
    """Return the share of answers that make the same calls."""
    return sum(a == b for a, b in zip(mine, reference, strict=True)) / len(mine)


def run(arguments: argparse.Namespace, report: Report) -> None:
    """Print the shares for forced and for free tool calls."""
    llm = chat_model(arguments)
    questions = prompts()[:: arguments.every]
    strong, prompted = RealignmentConfig(guidance_scale=_SCALE), RealignmentConfig(guidance_scale=1.0)
    rows: list[list[object]] = []
    for choice in ("any", "auto"):
        reference = calls(llm, choice, questions, realignment=prompted)
        default = share_equal(calls(llm, choice, questions, realignment=strong), reference)
        steered = share_equal(calls(llm, choice, questions, realignment=strong, steer_structured=True), reference)
        rows.append([choice, f"{sum(map(bool, reference))}/{len(reference)}", f"{default:.1%}", f"{steered:.1%}"])
    report.table(
        f"{len(questions)} questions, {len(STYLES)} styles: tool calls equal to those of the preference prompt alone",
        "tool_choice | answers with calls | guidance scale 3 | with steer_structured=True",
        rows,
    )
