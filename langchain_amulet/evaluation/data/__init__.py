"""Packaged files: questions, harmful requests and the HTML template of reports."""

from importlib import resources


def read_text(name: str) -> str:
    """Return the text of a file of this folder."""
    return (resources.files(__name__) / name).read_text(encoding="utf-8")
