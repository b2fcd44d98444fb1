"""`render_trace()`: a trace as one self-contained HTML page."""

import math
from collections.abc import Sequence
from importlib import resources
from typing import Any, NamedTuple

import jinja2

from langchain_amulet.answers.token_trace import Candidate, TokenTrace, Trace

_FULL_COLOUR_NATS = 2.0  # the KL from which the colour no longer changes
_SCALE_NATS = (0.0, 0.1, 0.5, 1.0, 2.0)  # of the legend
_STRONGEST = 0.8  # of the colour, so that text stays readable
_MIN_TOP_NATS = 0.5  # of the curve, so that an answer that was hardly moved looks so
_VISIBLE = str.maketrans({"\n": "↵", "\t": "⇥", "\r": "␍", " ": "\N{OPEN BOX}"})


def render_trace(
    trace: Trace, *, title: str = "Trace of an answer", question: str = "", preferences: Sequence[str] = ()
) -> str:
    """Return an HTML page that shows how each token of an answer was drawn.

    The answer is coloured by how far steering moved each token, with the alternatives of a token on hover and by
    keyboard, and the curve of the KL below. The page needs no other file and nothing from the network.

    Args:
        trace: The trace.
        title: The title of the page.
        question: What was asked, to be shown above the answer.
        preferences: The texts of the preferences, to be shown above the answer. The trace does not contain them.

    Examples:
        ```python
        from pathlib import Path

        from langchain_amulet import ChatAmulet
        from langchain_amulet.trace import Trace, render_trace

        answer = ChatAmulet(max_tokens=8).invoke("Why?", preference="Be brief.", trace=True)
        Path("trace.html").write_text(render_trace(Trace.of(answer)), encoding="utf-8")
        ```
    """
    tokens, summary = trace.tokens, trace.summary()
    has_contrast = any(token.token.contrast is not None for token in tokens)
    is_guarded = any(token.removed_mass > 0 for token in tokens)
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    return environment.from_string(_read("page.html.jinja")).render(
        title=title,
        question=question,
        preferences=preferences,
        summary=summary,
        tokens=[_shown_token(token, is_last=token is tokens[-1]) for token in tokens],
        scale=[(_level(nats), f"{nats:g}{'+' if nats == _FULL_COLOUR_NATS else ''}") for nats in _SCALE_NATS],
        curve=_curve([token.kl for token in tokens], summary["mean_kl"]),
        has_contrast=has_contrast,
        data=_data(tokens, has_contrast=has_contrast, is_guarded=is_guarded),
        script=_read("page.js"),
    )


def _read(name: str) -> str:
    return (resources.files(__package__) / name).read_text(encoding="utf-8")


class _ShownToken(NamedTuple):
    text: str
    mark: str  # stands for what cannot be seen
    level: float  # of the colour, from 0 to 1
    classes: str
    label: str  # for screen readers


def _shown_token(token: TokenTrace, *, is_last: bool) -> _ShownToken:
    classes = [name for name, applies in (("changed", token.is_changed), ("guarded", token.is_guarded)) if applies]
    is_end = is_last and not token.text
    mark = "■ end" if is_end else "▫" if not token.text else "↵" * token.text.count("\n")
    label = f"{'end of the answer' if is_end else visible(token.token.text)}, moved by {token.kl:.2f} nats"
    if token.is_changed:
        label += f", prompting gives {visible(token.prompted_choice.text)}"
    return _ShownToken(token.text, mark, _level(token.kl), " ".join(classes), label)


def _level(nats: float) -> float:
    """Return the strength of the colour. It grows like the square root, so that small KLs differ visibly."""
    return round(_STRONGEST * math.sqrt(min(nats / _FULL_COLOUR_NATS, 1.0)), 3)


def visible(text: str) -> str:
    """Return a token's text with signs in place of blanks and line breaks."""
    return text.translate(_VISIBLE)


def _curve(nats: Sequence[float], mean: float) -> dict[str, Any]:
    """Return the path of a step curve, with one unit per token and 100 units of height."""
    top = max(_MIN_TOP_NATS, *nats) if nats else _MIN_TOP_NATS
    heights = [f"{100 * (1 - value / top):.2f}" for value in nats]
    steps = "".join(f"V{height}H{index + 1}" for index, height in enumerate(heights))
    return {"top": top, "path": f"M0 100{steps}V100Z", "mean": f"{100 * (1 - mean / top):.2f}"}


def _data(tokens: Sequence[TokenTrace], *, has_contrast: bool, is_guarded: bool) -> dict[str, Any]:
    """Return what the page's script shows of each token."""
    shown = {"realigned": True, "prompted": True, "base": True, "contrast": has_contrast, "unguarded": is_guarded}
    columns = [name for name, is_shown in shown.items() if is_shown]
    header = ["Token", *(("steered" if name == "realigned" else name) for name in columns)]
    return {
        "header": header,
        "tokens": [
            {"facts": _facts(token), "candidates": [_row(token, each, columns) for each in token.candidates]}
            for token in tokens
        ],
    }


def _facts(token: TokenTrace) -> str:
    facts = [f"moved by {token.kl:.3g} nats", f"gain {token.gain:.3g}"]
    if token.is_changed:
        facts.append(f"prompting gives “{visible(token.prompted_choice.text)}”")
    if token.num_removed:
        share = f"{100 * token.removed_mass:.0f} %"
        plural = "token" if token.num_removed == 1 else "tokens"
        facts.append(f"guards removed {token.num_removed} likely {plural} ({share} of the probability)")
    return "; ".join(facts)


def _row(token: TokenTrace, candidate: Candidate, columns: Sequence[str]) -> dict[str, Any]:
    choices = {"base": token.base_choice, "prompted": token.prompted_choice, "unguarded": token.unguarded_choice}
    chosen_by = [name for name, choice in choices.items() if choice.token_id == candidate.token_id]
    is_removed = candidate in token.removed
    tags = {
        "drawn": candidate.token_id == token.token.token_id,
        f"choice of {', '.join(chosen_by)}": bool(chosen_by),
        "removed": is_removed,
    }
    return {
        "text": visible(candidate.text),
        "tags": [tag for tag, applies in tags.items() if applies],
        "is_removed": is_removed,
        "cells": [_percent(getattr(candidate, name)) for name in columns],
    }


def _percent(probability: float | None) -> str:
    if probability is None:
        return ""
    percent = 100 * probability
    return "0" if percent == 0 else "< 0.01 %" if percent < 0.01 else f"{percent:.3g} %"  # noqa: PLR2004
