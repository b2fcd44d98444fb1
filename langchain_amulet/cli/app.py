"""The Typer application, to which subcommands add themselves."""

from typing import Any

from langchain_amulet.exceptions import MissingExtraError

try:
    import typer
except ModuleNotFoundError as error:
    msg = "The command amulet needs typer. Install it: pip install 'langchain-amulet[cli]'"
    raise MissingExtraError(msg) from error

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)


@app.callback()
def amulet() -> None:
    """Personalised answers from a local language model."""


def option(text: str, panel: str | None = None) -> Any:
    """Return an option with this help text, in this panel of the help."""
    return typer.Option(help=text, rich_help_panel=panel)
