"""The command `amulet`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from langchain_amulet.exceptions import AmuletError, InvalidParameterError, MissingExtraError

try:
    import typer
except ModuleNotFoundError as error:
    msg = "The command amulet needs typer. Install it: pip install 'langchain-amulet[cli]'"
    raise MissingExtraError(msg) from error

if TYPE_CHECKING:
    from langchain_core.language_models import BaseChatModel

    from langchain_amulet.evaluation import Method, Scorer

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)


@app.callback()
def amulet() -> None:
    """Personalised answers from a local model."""


def _option(told: str) -> Any:
    return typer.Option(help=told)


_Datasets = Annotated[
    list[str] | None,
    typer.Argument(
        help="JSON or JSONL files, or smoke, helpsteer, truthful_qa, ultrachat, ultrafeedback, personal, prefeval.",
        show_default="smoke",
    ),
]


@app.command("eval")
def evaluate_command(  # noqa: PLR0913 - options
    datasets: _Datasets = None,
    *,
    model: Annotated[str | None, _option("Hub id, folder or GGUF file.")] = None,
    folder: Annotated[Path, _option("The run, which goes on where it was, and its report.")] = Path("amulet-eval"),
    method: Annotated[list[str] | None, _option("'pref' and others by name; all, if none is given.")] = None,
    preference: Annotated[list[str] | None, _option("Any text, or a name of the paper's, such as creative.")] = None,
    temperature: Annotated[list[float] | None, _option("0 is greedy.")] = None,
    top_p: Annotated[float, _option("At temperatures above 0.")] = 0.95,
    max_tokens: Annotated[int, _option("Of an answer.")] = 128,
    seed: Annotated[int, _option("Of the draws.")] = 0,
    limit: Annotated[int | None, _option("Questions of each set.")] = None,
    search_limit: Annotated[int | None, _option("The same for beam search and best of n, which take long.")] = None,
    perplexity_limit: Annotated[
        int | None, _option("The same for perplexity, which takes a forward per answer.")
    ] = None,
    num_at_once: Annotated[int, _option("Answers under way at once.")] = 64,
    reward_model: Annotated[list[str] | None, _option("armorm, skywork, or a classifier's hub id or folder.")] = None,
    judge: Annotated[str | None, _option("A chat model, as LangChain's init_chat_model takes it.")] = None,
    ablation: Annotated[
        list[str] | None, _option("num_iterations, eta, alpha, lam, guidance_scale, guards; or all.")
    ] = None,
    ablation_limit: Annotated[int, _option("Questions of each set for ablations.")] = 2,
    refusals: Annotated[bool, typer.Option("--refusals", help="Ask what should be refused, too.")] = False,
    efficiency: Annotated[bool, typer.Option("--efficiency", help="Measure what methods cost, too.")] = False,
) -> None:
    """Let every method answer every question for every preference, and write a report."""
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
    except AmuletError as error:
        typer.echo(f"amulet eval: {error}", err=True)
        raise typer.Exit(2) from error
    typer.echo(f"{folder / 'report.md'}\n{folder / 'report.html'}")


def _chat_model(model: str | None) -> Any:
    from langchain_amulet.chat_models import ChatAmulet

    return ChatAmulet(model=model)


def _methods(names: list[str] | None) -> "list[Method]":
    from langchain_amulet.evaluation import beam_search, best_of, paper_methods

    known = {method.name: method for method in (*paper_methods(), beam_search(), best_of())}
    for name in names or []:
        if name not in known:
            msg = f"There is no method {name!r}. There are: {'; '.join(known)}."
            raise InvalidParameterError(msg)
    return [known[name] for name in names or known]


def _reward_scorer(name: str) -> "Scorer":
    """Loaded at once: what is wrong with it must not show after hours of answering."""
    from langchain_amulet.evaluation.scorers.reward_models import SKYWORK, RewardModel

    model = RewardModel.armorm() if name == "armorm" else RewardModel(SKYWORK if name == "skywork" else name)
    model.load()
    return model.scorer(name)


def _judge(name: str) -> "BaseChatModel":
    """Asked at once for a try: what is wrong with it must not show after hours of answering."""
    try:
        from langchain.chat_models import init_chat_model

        llm = init_chat_model(name, temperature=0)
        llm.invoke("Write 1, and nothing else.")
    except ImportError as error:
        msg = f"The judge {name} cannot be asked: {error}. Install langchain, and its package for the provider."
        raise MissingExtraError(msg) from error
    except Exception as error:
        msg = f"The judge {name} cannot be asked: {error}"
        raise InvalidParameterError(msg) from error
    return llm
