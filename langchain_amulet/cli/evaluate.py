"""`amulet eval`: generates answers of several methods, scores them, and writes a report."""

from pathlib import Path
from typing import Annotated

import typer
from pydantic import ValidationError

from langchain_amulet.cli import evaluation_parts as parts
from langchain_amulet.cli.app import app, option
from langchain_amulet.exceptions import AmuletError

_INTERRUPTED = 130  # exit status, by the convention of shells
_METHODS, _SAMPLING, _SCORES, _SECTIONS = "Methods", "Questions and sampling", "Scores", "Further sections"

_Datasets = Annotated[
    list[str] | None,
    typer.Argument(
        help="JSON or JSONL files of questions, or names of datasets: smoke, verifiable, verifiable-choose, "
        "verifiable-report, ifeval, helpsteer, truthful_qa, ultrachat, ultrafeedback, personal, prefeval.",
        show_default="smoke",
    ),
]


@app.command("eval")
def evaluate_command(  # noqa: PLR0913 - options
    datasets: _Datasets = None,
    *,
    model: Annotated[str | None, option("Hub id, folder or GGUF file of the model.")] = None,
    folder: Annotated[
        Path, option("Folder of the answers and the report. An interrupted evaluation resumes in its folder.")
    ] = Path("amulet-eval"),
    method: Annotated[
        list[str] | None,
        option(
            "Method to run: pref, with which the others are compared, base, 'repeated preference', any other of the "
            "report, or 'opposite contrast, w=3, plausibility 0.1'. Default without --scale: all but the last kind.",
            _METHODS,
        ),
    ] = None,
    scale: Annotated[
        list[float] | None,
        option("Guidance scale w of steering methods to run, beside base, pref and 'repeated preference'.", _METHODS),
    ] = None,
    contrast: Annotated[
        list[str] | None,
        option("What each --scale steers away from: base, neutral or opposite. Default: base.", _METHODS),
    ] = None,
    guards: Annotated[
        list[str] | None,
        option(
            "Guards of each --scale: 'no guards', or such as 'plausibility 0.3, max_kl 0.5'. Default: "
            "'plausibility 0.1'.",
            _METHODS,
        ),
    ] = None,
    repeat: Annotated[
        bool,
        typer.Option(
            "--repeat", help="Let the prompts of each --scale contain the preference twice.", rich_help_panel=_METHODS
        ),
    ] = False,
    preference: Annotated[
        list[str] | None,
        option(
            "Any text, or a name from the paper, such as creative; of datasets with preferences of their own, such as "
            "verifiable, the name of one of these. Default: the paper's four, and all of a dataset's own.",
            _SAMPLING,
        ),
    ] = None,
    temperature: Annotated[
        list[float] | None, option("Sampling temperature. 0, the default, is greedy.", _SAMPLING)
    ] = None,
    top_p: Annotated[float, option("Nucleus sampling at temperatures above 0.", _SAMPLING)] = 0.95,
    max_tokens: Annotated[int, option("Largest length of an answer, in tokens.", _SAMPLING)] = 128,
    seed: Annotated[int, option("Seed of sampling.", _SAMPLING)] = 0,
    num_seeds: Annotated[
        int, option("Number of answers per question at temperatures above 0: seed, seed + 1, and so on.", _SAMPLING)
    ] = 1,
    limit: Annotated[int | None, option("Number of questions of each dataset. Default: all.", _SAMPLING)] = None,
    search_limit: Annotated[
        int | None,
        option("Number of questions of each dataset for beam search and best of n, which are slow.", _SAMPLING),
    ] = None,
    perplexity_limit: Annotated[
        int | None,
        option("Number of questions of each dataset for perplexity, a forward pass per answer. 0: none.", _SCORES),
    ] = None,
    num_at_once: Annotated[int, option("Number of answers that are generated concurrently.", _SAMPLING)] = 64,
    reward_model: Annotated[
        list[str] | None, option("armorm, skywork, or the hub id or folder of a sequence classifier.", _SCORES)
    ] = None,
    scoring_model: Annotated[
        str | None,
        option(
            "Hub id, folder or GGUF file of another model, which scores answers by their likelihood under a paraphrase "
            "of the preference, and by their NLL.",
            _SCORES,
        ),
    ] = None,
    num_chosen: Annotated[
        int | None,
        option(
            "Run all methods on datasets such as verifiable-choose only, and on the others, such as verifiable-report, "
            "the best of this number of steering methods. Default: all methods on all.",
            _METHODS,
        ),
    ] = None,
    scoring_limit: Annotated[
        int | None, option("Number of questions of each dataset for --scoring-model. Default: all.", _SCORES)
    ] = None,
    judge: Annotated[
        str | None,
        option(
            "What compares answers: a chat model as for LangChain's init_chat_model, or the hub id, folder or GGUF "
            "file of a local judge.",
            _SCORES,
        ),
    ] = None,
    ablation: Annotated[
        list[str] | None, option("num_iterations, eta, alpha, lam, guidance_scale, guards, or all.", _SECTIONS)
    ] = None,
    ablation_limit: Annotated[int, option("Number of questions of each dataset for ablations.", _SECTIONS)] = 2,
    refusals: Annotated[
        bool, typer.Option("--refusals", help="Also measure refusals of harmful requests.", rich_help_panel=_SECTIONS)
    ] = False,
    efficiency: Annotated[
        bool, typer.Option("--efficiency", help="Also measure time and memory of methods.", rich_help_panel=_SECTIONS)
    ] = False,
) -> None:
    """Generate answers of all methods to all questions for all preferences, score them, and write a report."""
    try:
        from langchain_amulet import evaluation

        experiment = evaluation.Experiment(
            llm=parts.chat_model(model),
            datasets=[evaluation.load_dataset(name).only(preference or []) for name in datasets or ["smoke"]],
            folder=folder,
            methods=parts.methods(method, scale, contrast, guards, repeat=repeat),
            dimensions=preference or evaluation.PAPER_TABLE,
            protocol=evaluation.Protocol(
                temperatures=tuple(temperature or [0.0]),
                top_p=top_p,
                max_tokens=max_tokens,
                seed=seed,
                num_seeds=num_seeds,
                limit=limit,
                search_limit=search_limit,
                num_at_once=num_at_once,
            ),
            scorers=[parts.reward_scorer(name) for name in reward_model or []],
            judge=parts.judge(judge) if judge else None,
            scoring_llm=parts.loaded_chat_model(scoring_model, "--scoring-model") if scoring_model else None,
            scoring_limit=scoring_limit,
            num_chosen=num_chosen,
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
