"""Time per token for one user, prefill included: the engine compared with transformers' `generate`."""

import argparse
import statistics
from collections.abc import Callable
from typing import Any

import torch

from langchain_amulet import ChatAmulet, RealignmentConfig, realign
from langchain_amulet.engine.config import EngineConfig
from langchain_amulet.engine.engine import Engine
from langchain_amulet.engine.params import Request, SamplingParams
from langchain_amulet.engine.runners.batched import TransformersRunner
from tests.benchmarks.models import print_table, ratio, take_turns

PREFERENCE = "Answer as concisely as possible."
MESSAGES = [
    ("system", "You are a helpful assistant."),
    (
        "human",
        """I have been invited to a friend's wedding in another country next summer, and I have never travelled alone
before. What should I think of when I plan the journey, what should I pack, and how do I find out which documents I
need at the border?""",
    ),
]
BASELINE = "transformers generate, preference prompt"
CFG = "transformers CFG"
LOOP = "bare loop over two rows"
PAPER = RealignmentConfig.paper()


def bare_loop(runner: TransformersRunner, prompts: list[list[int]], num_tokens: int) -> list[int]:
    """Decode one greedy request without guards, scheduler and threads."""
    runner.reserve(2, max(map(len, prompts)) + num_tokens, 2**62)
    runner.truncate(0, 0)
    runner.truncate(1, 0)
    logits = runner.prefill(0, prompts)
    tokens: list[int] = []
    while True:
        tokens.append(int(realign(logits[0], logits[1], PAPER.guidance_scale).argmax()))
        if len(tokens) == num_tokens:
            return tokens
        logits = runner.decode([tokens[-1]] * 2)


def contenders(llm: ChatAmulet, num_tokens: int) -> dict[str, Callable[[], list[int]]]:
    """Return six ways to generate an answer of `num_tokens` tokens to the same question."""
    base, pref = llm.prompt_streams(MESSAGES, PREFERENCE)
    model: Any = llm.load().model
    engine = Engine(TransformersRunner(model), EngineConfig(prefix_cache_bytes=0))
    runner = TransformersRunner(model)
    sampling = SamplingParams(max_tokens=num_tokens)

    def generate(prompt: list[int], **keywords: object) -> list[int]:
        ids = torch.tensor([prompt], device=model.device)
        limits = {"max_new_tokens": num_tokens, "eos_token_id": None, "pad_token_id": 0, "do_sample": False}
        return model.generate(ids, attention_mask=torch.ones_like(ids), **limits, **keywords)[0].tolist()

    negative = torch.tensor([base], device=model.device)
    cfg = {"guidance_scale": PAPER.guidance_scale, "negative_prompt_ids": negative}
    return {
        BASELINE: lambda: generate(pref),
        CFG: lambda: generate(pref, **cfg),
        LOOP: lambda: bare_loop(runner, [base, pref], num_tokens),
        "ours, with a preference": lambda: list(engine.submit(Request([base, pref], [1.0], PAPER, sampling))),
        "ours, default guards": lambda: list(
            engine.submit(Request([base, pref], [1.0], RealignmentConfig(), sampling))
        ),
        "ours, without": lambda: list(engine.submit(Request([base], sampling=sampling))),
    }


def run(llm: ChatAmulet, arguments: argparse.Namespace) -> None:
    """Print the table."""
    lengths = " and ".join(str(len(prompt)) for prompt in llm.prompt_streams(MESSAGES, PREFERENCE))
    times = take_turns(contenders(llm, arguments.tokens), arguments.rounds, "one user")
    print_table(
        f"One user: {llm.load().name}, {arguments.tokens} tokens, prompts of {lengths}, {arguments.rounds} rounds",
        "medians | ms per token | time against generate | against CFG | against the bare loop",
        [
            [name, statistics.median(each) / arguments.tokens]
            + [f"{ratio(each, times[other]):.2f}x" for other in (BASELINE, CFG, LOOP)]
            for name, each in times.items()
        ],
    )
