"""Time per token of one user's answer, prefill included: ours beside transformers' own, in one run.

The contenders take turns, round by round, and each ratio is of two neighbours in time, so that a machine whose speed
drifts slows both alike. Run it with `make bench`; `ARGS='--rounds 9'` for more rounds.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from tqdm import tqdm

from langchain_amulet import ChatAmulet, RealignmentConfig
from langchain_amulet.engine.params import Request, SamplingParams

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


def contenders(llm: ChatAmulet, num_tokens: int) -> dict[str, Callable[[], list[int]]]:
    """Four ways to answer the same question with `num_tokens` tokens."""
    base, pref = llm.prompt_streams(MESSAGES, PREFERENCE)
    loaded = llm._load()
    realignment = RealignmentConfig.paper()
    sampling = SamplingParams(max_tokens=num_tokens)

    def generate(prompt: list[int], **keywords: object) -> list[int]:
        ids = torch.tensor([prompt], device=loaded.model.device)
        limits = {"max_new_tokens": num_tokens, "eos_token_id": None, "pad_token_id": 0, "do_sample": False}
        return loaded.model.generate(ids, attention_mask=torch.ones_like(ids), **limits, **keywords)[0].tolist()

    negative = torch.tensor([base], device=loaded.model.device)
    cfg = {"guidance_scale": realignment.guidance_scale, "negative_prompt_ids": negative}
    return {
        BASELINE: lambda: generate(pref),
        CFG: lambda: generate(pref, **cfg),
        "ours, with a preference": lambda: list(
            loaded.engine.submit(Request([base, pref], [1.0], realignment, sampling))
        ),
        "ours, default guards": lambda: list(
            loaded.engine.submit(Request([base, pref], [1.0], RealignmentConfig(), sampling))
        ),
        "ours, without": lambda: list(loaded.engine.submit(Request([base], sampling=sampling))),
    }


def measure(runs: dict[str, Callable[[], list[int]]], num_rounds: int) -> dict[str, list[float]]:
    """Seconds per contender and round, after one round to warm up."""
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for round_number in tqdm(range(num_rounds + 1), desc="rounds"):
        for name, run in runs.items():
            started = time.perf_counter()
            run()
            if round_number:
                seconds[name].append(time.perf_counter() - started)
    return seconds


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tokens", type=int, default=96)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--model", default=None, help="default: the packaged SmolLM2-135M-Instruct")
    arguments = parser.parse_args()
    llm = ChatAmulet(model=arguments.model)
    prompts = llm.prompt_streams(MESSAGES, PREFERENCE)
    seconds = measure(contenders(llm, arguments.tokens), arguments.rounds)
    lengths = " and ".join(str(len(prompt)) for prompt in prompts)
    print(f"\n{llm._load().name}, {arguments.tokens} tokens, prompts of {lengths} tokens, {arguments.rounds} rounds\n")
    print("| medians | ms per token | time against generate | against CFG |\n|---|---|---|---|")
    for name, times in seconds.items():
        ratios = [
            statistics.median(a / b for a, b in zip(times, seconds[other], strict=True)) for other in (BASELINE, CFG)
        ]
        milliseconds = statistics.median(times) / arguments.tokens * 1000
        print(f"| {name} | {milliseconds:.1f} | {ratios[0]:.2f}x | {ratios[1]:.2f}x |")


if __name__ == "__main__":
    main()
