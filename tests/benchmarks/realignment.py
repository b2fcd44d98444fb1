"""The time of realignment and of the draw, compared with the forward of the model and with the paper's loop."""

import argparse
import statistics
from collections.abc import Callable

import torch
from torch import Tensor

from langchain_amulet import RealignmentConfig
from langchain_amulet.engine.batch import Batch
from langchain_amulet.engine.params import Request, SamplingParams
from langchain_amulet.engine.runners.batched import TransformersRunner
from langchain_amulet.engine.sequence import Sequence
from tests.benchmarks.models import MESSAGES, PREFERENCES, chat_model
from tests.benchmarks.report import Report
from tests.benchmarks.timing import ratio, take_turns

NUM_STEPS = 40
FORWARD = "forward of the two rows"
VARIANTS = {
    "greedy, no guards": (RealignmentConfig.paper(), SamplingParams()),
    "greedy, default guards": (RealignmentConfig(), SamplingParams()),
    "greedy, default guards and max_kl": (RealignmentConfig(max_kl=0.5), SamplingParams()),
    "temperature 0.7, top-p 0.95, default guards": (RealignmentConfig(), SamplingParams(0.7, 0.95, seed=0)),
    "temperature 0.7, top-p 0.95, no guards": (RealignmentConfig.paper(), SamplingParams(0.7, 0.95, seed=0)),
}


def papers_loop(base: Tensor, pref: Tensor, num_iterations: int = 60) -> Tensor:
    """The authors' loop with their buffers: two of `(T + 1, V)` per token, averaged again at each iteration."""
    log_base, log_pref = base.log_softmax(-1), pref.log_softmax(-1)
    policies = torch.zeros(num_iterations + 1, base.shape[-1])
    utilities = torch.zeros(num_iterations + 1, base.shape[-1])
    policies[0] = log_pref
    utilities[0] = 2 * (log_pref - log_base)
    for t in range(1, num_iterations + 1):
        numerator = 2 * log_pref + utilities[:t].mean(0) + policies[t - 1] / (10 * t)
        policies[t] = (numerator / (2 + 1 / (10 * t))).log_softmax(-1)
        utilities[t] = 2 * (policies[t] - log_base)
    return policies[num_iterations]


def run(arguments: argparse.Namespace, report: Report) -> None:
    """Print the table."""
    llm = chat_model(arguments)
    prompts = llm.prompt_streams(MESSAGES, PREFERENCES[0])
    runner = TransformersRunner(llm.load().model)
    runner.reserve(2, 256, 2**62)
    logits = runner.prefill(0, prompts)
    length = len(prompts[0])

    def forward() -> None:
        nonlocal logits
        runner.truncate(0, length)
        runner.truncate(1, length)
        logits = runner.decode([5, 5])

    def draw(realignment: RealignmentConfig, sampling: SamplingParams) -> Callable[[], None]:
        sequence = Sequence(Request(prompts, [1.0], realignment, sampling), max_length=2**30)
        batch = Batch([sequence], [[0, 1]])
        return lambda: batch.draw(logits)

    contenders: dict[str, Callable[[], object]] = {FORWARD: forward}
    contenders |= {name: draw(*variant) for name, variant in VARIANTS.items()}
    contenders["the paper's 60-step loop, its argmax"] = lambda: papers_loop(logits[0], logits[1]).argmax()
    times = take_turns(contenders, NUM_STEPS, "realignment")
    report.table(
        f"Realignment and the draw, one user: {llm.load().name}, {NUM_STEPS} steps",
        "medians | ms | share of the step",
        [
            [
                name,
                statistics.median(each),
                f"{100 / (1 + ratio(times[FORWARD], each)):.1f} %" if name != FORWARD else "",
            ]
            for name, each in times.items()
        ],
    )
