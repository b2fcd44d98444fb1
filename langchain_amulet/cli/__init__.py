"""The command `amulet`. A new subcommand is a module here, with a function decorated with `app.command`."""

from langchain_amulet.cli import evaluate, trace
from langchain_amulet.cli.app import app

__all__ = ["app", "evaluate", "trace"]
