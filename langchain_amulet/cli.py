"""The command `amulet`. A new subcommand is a function decorated with `app.command`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import ValidationError

from langchain_amulet.exceptions import AmuletError, InvalidParameterError, MissingExtraError

try:
    import typer

    from langchain_amulet.cli_trace import trace_command
except ModuleNotFoundError as error:
    msg = "The command amulet needs typer. Install it: pip install 'langchain-amulet[cli]'"
    raise MissingExtraError(msg) from error

if TYPE_CHECKING:
    from langchain_core.language_models import BaseChatModel

    from langchain_amulet.chat_models import ChatAmulet
    from langchain_amulet.evaluation import Method, Scorer

_INTERRUPTED = 130  # exit status, by the convention of shells
app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
app.command("trace")(trace_command)


@app.callback()
def amulet() -> None:
    """Personalised answers from a local language model."""


def _option(text: str) -> Any:
    return typer.Option(help=text)


_Datasets = Annotated[
    list[str] | None,
    typer.Argument(
        help="JSON or JSONL files of questions, or names of datasets: smoke, helpsteer, truthful_qa, ultrachat, "
        "ultrafeedback, personal, prefeval.",
        show_default="smoke",
    ),
]


@app.command("eval")
def evaluate_command(  # noqa: PLR0913 - options
    datasets: _Datasets = None,
    *,
    model: Annotated[str | None, _option("Hub id, folder or GGUF file of the model.")] = None,
    folder: Annotated[
        Path, _option("Folder of the answers and the report. An interrupted evaluation resumes in its folder.")
    ] = Path("amulet-eval"),
    method: Annotated[
        list[str] | None, _option("Method to run, such as pref, with which the others are compared. Default: all.")
    ] = None,
    preference: Annotated[
        list[str] | None, _option("Any text, or a name from the paper, such as creative. Default: the paper's four.")
    ] = None,
    temperature: Annotated[list[float] | None, _option("Sampling temperature. 0, the default, is greedy.")] = None,
    top_p: Annotated[float, _option("Nucleus sampling at temperatures above 0.")] = 0.95,
    max_tokens: Annotated[int, _option("Largest length of an answer, in tokens.")] = 128,
    seed: Annotated[int, _option("Seed of sampling.")] = 0,
    limit: Annotated[int | None, _option("Number of questions of each dataset. Default: all.")] = None,
    search_limit: Annotated[
        int | None, _option("Number of questions of each dataset for beam search and best of n, which are slow.")
    ] = None,
    perplexity_limit: Annotated[
        int | None, _option("Number of questions of each dataset for perplexity, a forward pass per answer. 0: none.")
    ] = None,
    num_at_once: Annotated[int, _option("Number of answers that are generated concurrently.")] = 64,
    reward_model: Annotated[
        list[str] | None, _option("armorm, skywork, or the hub id or folder of a sequence classifier.")
    ] = None,
    judge: Annotated[
        str | None, _option("Chat model that compares answers, as for LangChain's init_chat_model.")
    ] = None,
    ablation: Annotated[
        list[str] | None, _option("num_iterations, eta, alpha, lam, guidance_scale, guards, or all.")
    ] = None,
    ablation_limit: Annotated[int, _option("Number of questions of each dataset for ablations.")] = 2,
    refusals: Annotated[bool, typer.Option("--refusals", help="Also measure refusals of harmful requests.")] = False,
    efficiency: Annotated[bool, typer.Option("--efficiency", help="Also measure time and memory of methods.")] = False,
) -> None:
    """Generate answers of all methods to all questions for all preferences, score them, and write a report."""
    try:
        from langchain_amulet import evaluation

        experiment = evaluation.Experiment(
            llm=_chat_model(model),
            datasets=[evaluation.load_dataset(name) for name in datasets or ["smoke"]],
            folder=folder,
            methods=_methods(method),
            dimensions=preference or evaluation.PAPER_TABLE,
            protocol=evaluation.Protocol(
                temperatures=tuple(temperature or [0.0]),
                top_p=top_p,
                max_tokens=max_tokens,
                seed=seed,
                limit=limit,
                search_limit=search_limit,
                num_at_once=num_at_once,
            ),
            scorers=[_reward_scorer(name) for name in reward_model or []],
            judge=_judge(judge) if judge else None,
            perplexity_limit=perplexity_limit,
            ablations=evaluation.PARAMETERS if ablation == ["all"] else ablation or [],
            ablation_limit=ablation_limit,
            has_refusals=refusals,
            has_efficiency=efficiency,
            title=f"Evaluation of {model or 'the default model'}",
        )
        experiment.run()
    except (AmuletError, ValidationError, OSError) as error:
        typer.echo(f"amulet eval: {error}", err=True)
        raise typer.Exit(2) from error
    except KeyboardInterrupt as error:
        typer.echo(f"Interrupted. The answers so far are in {folder}; the same command resumes.", err=True)
        raise typer.Exit(_INTERRUPTED) from error
    typer.echo(f"{folder / 'report.md'}\n{folder / 'report.html'}")


def _chat_model(model: str | None) -> "ChatAmulet":
    from langchain_amulet.chat_models import ChatAmulet

    return ChatAmulet(model=model)


def _methods(names: list[str] | None) -> "list[Method]":
    from langchain_amulet.evaluation import beam_search, best_of, paper_methods

    by_name = {method.name: method for method in (*paper_methods(), beam_search(), best_of())}
    for name in names or []:
        if name not in by_name:
            msg = f"Unknown method {name!r}. Choose from: {'; '.join(by_name)}."
            raise InvalidParameterError(msg)
    return [by_name[name] for name in names or by_name]


def _reward_scorer(name: str) -> "Scorer":
    """Load a reward model now, so that an error does not occur after hours of generation."""
    from langchain_amulet.evaluation.scorers.reward_models import SKYWORK, RewardModel

    model = RewardModel.armorm() if name == "armorm" else RewardModel(SKYWORK if name == "skywork" else name)
    model.load()
    return model.scorer(name)


def _judge(name: str) -> "BaseChatModel":
    """Create the judge and call it once, so that an error does not occur after hours of generation."""
    try:
        from langchain.chat_models import init_chat_model

        llm = init_chat_model(name, temperature=0)
        llm.invoke("Write 1, and nothing else.")
    except ImportError as error:
        msg = f"The judge {name} cannot be used: {error}. Install langchain and its package for the provider."
        raise MissingExtraError(msg) from error
    except Exception as error:
        msg = f"The judge {name} cannot be used: {error}"
        raise InvalidParameterError(msg) from error
    return llm
