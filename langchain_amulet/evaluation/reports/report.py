"""A report as Markdown with SVG files, and as one self-contained HTML file."""

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import jinja2
from matplotlib.figure import Figure

from langchain_amulet.evaluation.data import read_text
from langchain_amulet.evaluation.reports import plots
from langchain_amulet.evaluation.reports.tables import Table


@dataclass(frozen=True, slots=True)
class Example:
    """A question with the answers of all methods."""

    question: str
    preference: str
    answers: tuple[tuple[str, str], ...]
    """Pairs of method and answer."""


@dataclass(frozen=True, slots=True)
class Section:
    """A section of a report."""

    title: str
    text: str = ""
    figures: Mapping[str, Figure] = field(default_factory=dict, repr=False)
    """By file name without suffix."""
    tables: Sequence[Table] = ()
    examples: Sequence[Example] = ()


@dataclass(frozen=True, slots=True)
class Report:
    """A title and sections, which `write` saves as files."""

    title: str
    sections: Sequence[Section]

    def write(self, folder: str | Path) -> Path:
        """Write `report.md` with its SVG files, and `report.html`, which includes the figures.

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
        """Return the report as Markdown. Figures are links to SVG files."""
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
        template = environment.from_string(read_text("report.html.jinja"))
        return template.render(report=self, pictures=encoded)


def _example_as_markdown(example: Example) -> str:
    """Format answers as a code block, so that they are not interpreted as Markdown."""
    heading = f"**{_one_line(example.question)}** ({_one_line(example.preference)})"
    return "\n".join(
        [heading, "", "```text", *(f"{name}: {_one_line(text)}" for name, text in example.answers), "```", ""]
    )


def _one_line(text: str) -> str:
    return " ".join(text.split()).replace("```", "'''")
