"""A report of an evaluation: Markdown, and one HTML file that needs nothing else."""

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path

import jinja2
from matplotlib.figure import Figure

from langchain_amulet.evaluation.reports import plots
from langchain_amulet.evaluation.reports.tables import Table


@dataclass(frozen=True, slots=True)
class Example:
    """One question, and what every method has said to it."""

    question: str
    preference: str
    answers: tuple[tuple[str, str], ...]
    """Method and answer."""


@dataclass(frozen=True, slots=True)
class Section:
    """One part of a report."""

    title: str
    text: str = ""
    figures: Mapping[str, Figure] = field(default_factory=dict, repr=False)
    """By file name, without its ending."""
    tables: Sequence[Table] = ()
    examples: Sequence[Example] = ()


@dataclass(frozen=True, slots=True)
class Report:
    """What is written out."""

    title: str
    sections: Sequence[Section]

    def write(self, folder: str | Path) -> Path:
        """Write `report.md`, its pictures, and `report.html` with all in one file.

        Returns:
            The path of the Markdown file.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        figures = {name: figure for section in self.sections for name, figure in section.figures.items()}
        pictures = {name: plots.as_svg(figure) for name, figure in figures.items()}
        for name, svg in pictures.items():
            (folder / f"{name}.svg").write_text(svg, encoding="utf-8")
        (folder / "report.html").write_text(self._html(pictures), encoding="utf-8")
        markdown = folder / "report.md"
        markdown.write_text(self.as_markdown(), encoding="utf-8")
        return markdown

    def as_markdown(self) -> str:
        """Tables, pictures by file name, and answers."""
        parts = [f"# {self.title}\n"]
        for section in self.sections:
            parts += [f"## {section.title}\n", *([f"{section.text}\n"] if section.text else [])]
            parts += [f"![{name}]({name}.svg)\n" for name in section.figures]
            parts += [table.as_markdown() for table in section.tables]
            parts += [_example_as_markdown(example) for example in section.examples]
        return "\n".join(parts)

    def _html(self, pictures: Mapping[str, str]) -> str:
        encoded = {name: base64.b64encode(svg.encode()).decode() for name, svg in pictures.items()}
        environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
        template = (resources.files("langchain_amulet.evaluation") / "data" / "report.html.jinja").read_text(
            encoding="utf-8"
        )
        return environment.from_string(template).render(report=self, pictures=encoded)


def _example_as_markdown(example: Example) -> str:
    """Answers as code, so that nothing in them is taken for Markdown."""
    heading = f"**{_one_line(example.question)}** ({_one_line(example.preference)})"
    return "\n".join(
        [heading, "", "```text", *(f"{name}: {_one_line(text)}" for name, text in example.answers), "```", ""]
    )


def _one_line(text: str) -> str:
    return " ".join(text.split()).replace("```", "'''")
