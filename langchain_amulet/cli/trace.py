"""The command `amulet trace`: answers a question, and writes a page that shows how each token was drawn."""

from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from pydantic import ValidationError

from langchain_amulet.cli.app import app, option
from langchain_amulet.exceptions import AmuletError


@app.command("trace")
def trace_command(  # noqa: PLR0913 - options
    question: Annotated[str, typer.Argument(help="What to ask.")],
    *,
    preference: Annotated[
        list[str] | None, option("How to answer, in plain words. Several share one prompt. Default: a plain answer.")
    ] = None,
    opposite: Annotated[
        str | None, option("The opposite of the preference, for --contrast opposite. Default: from a table.")
    ] = None,
    model: Annotated[str | None, option("Hub id, folder or GGUF file of the model. Default: the packaged one.")] = None,
    scale: Annotated[float | None, option("Guidance scale: 1 is plain prompting.")] = None,
    contrast: Annotated[
        Literal["base", "neutral", "opposite"] | None, option("What the answer is steered away from beyond scale 1.")
    ] = None,
    repeat: Annotated[
        bool | None,
        typer.Option("--repeat/--no-repeat", help="Whether prompts contain the preference twice."),
    ] = None,
    plausibility: Annotated[
        float | None, option("Least probability of a token, as a share of the likeliest's.")
    ] = None,
    max_kl: Annotated[float | None, option("Largest move of a token's distribution, in nats.")] = None,
    entropy_floor: Annotated[
        float | None, option("Least entropy of a token's distribution, as a share of plain prompting's.")
    ] = None,
    temperature: Annotated[float | None, option("Sampling temperature. 0 is greedy.")] = None,
    max_tokens: Annotated[int, option("Largest length of the answer, in tokens.")] = 128,
    seed: Annotated[int, option("Seed of sampling.")] = 0,
    output: Annotated[Path, option("The HTML page to write.")] = Path("trace.html"),
) -> None:
    """Answer a question, and write a page that shows what steering changed, token by token."""
    try:
        from langchain_amulet.trace import Trace, render_trace

        strength = {
            "guidance_scale": scale,
            "contrast": contrast,
            "repeat_preference": repeat,
            "plausibility": plausibility,
            "max_kl": max_kl,
            "entropy_floor": entropy_floor,
        }
        preferences = _preferences(preference or [], opposite)
        answer = _chat_model(model).invoke(
            question,
            preference=preferences,
            trace=True,
            realignment=_realignment(strength),
            temperature=temperature,
            max_tokens=max_tokens,
            seed=seed,
        )
        trace = Trace.of(answer)
        texts = [each.text for each in preferences]
        page = render_trace(trace, question=question, preferences=texts)
        output.write_text(page, encoding="utf-8")
    except (AmuletError, ValidationError, OSError) as error:
        typer.echo(f"amulet trace: {error}", err=True)
        raise typer.Exit(2) from error
    summary = trace.summary()
    typer.echo(trace.text)
    typer.echo(
        f"\nMoved by {summary['mean_kl']:.2f} nats per token on average; {100 * summary['share_changed']:.0f} % of "
        f"{len(trace.tokens)} tokens differ from prompting.\n{output}",
        err=True,
    )


def _preferences(texts: list[str], opposite: str | None) -> list[Any]:
    from langchain_amulet.exceptions import InvalidParameterError
    from langchain_amulet.preferences import Preference

    if opposite is not None and len(texts) != 1:
        msg = f"--opposite needs exactly one --preference; got {len(texts)}."
        raise InvalidParameterError(msg)
    return [Preference(text, opposite=opposite) for text in texts]


def _realignment(strength: dict[str, Any]) -> Any:
    from langchain_amulet.realignment import RealignmentConfig

    return RealignmentConfig(**{name: value for name, value in strength.items() if value is not None})


def _chat_model(model: str | None) -> Any:
    from langchain_amulet.chat_models import ChatAmulet

    return ChatAmulet(model=model)
