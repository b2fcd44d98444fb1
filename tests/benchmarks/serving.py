"""Many concurrent users: throughput, time of a step, time between tokens, and the second turn of a conversation."""

import argparse
import itertools
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import torch
from tqdm import tqdm
from transformers import DynamicCache, PreTrainedModel

from langchain_amulet import ChatAmulet, RealignmentConfig
from langchain_amulet.engine.config import EngineConfig
from langchain_amulet.engine.engine import Engine
from langchain_amulet.engine.params import Request, SamplingParams
from langchain_amulet.engine.runners.batched import TransformersRunner
from langchain_amulet.engine.scheduler import Scheduler
from langchain_amulet.engine.sequence import Sequence
from tests.benchmarks.models import MESSAGES, PREFERENCES, chat_model
from tests.benchmarks.report import Report
from tests.benchmarks.timing import milliseconds, ratio, take_turns

COLD = EngineConfig(prefix_cache_bytes=0)
MANY = 32
NUM_STEPS = 24


def requests_of(llm: ChatAmulet, num_users: int, num_tokens: int) -> list[Request]:
    """Return one question from users with eight different preferences."""
    sampling = SamplingParams(max_tokens=num_tokens)
    streams = [llm.prompt_streams(MESSAGES, preference) for preference in PREFERENCES]
    return [Request(streams[i % len(streams)], [1.0], sampling=sampling) for i in range(num_users)]


def read_at_once(engine: Engine, requests: list[Request]) -> list[list[float]]:
    """Read each answer in its own thread. Return the arrival times of the tokens of each user, in seconds."""

    def read(request: Request) -> list[float]:
        return [time.perf_counter() for _ in engine.submit(request)]

    with ThreadPoolExecutor(len(requests)) as threads:
        return list(threads.map(read, requests))


def users_at_once(
    engine: Engine,
    requests_of_users: Callable[[int], list[Request]],
    numbers: list[int],
    num_rounds: int,
    report: Report,
) -> None:
    """Compare the throughput of concurrent users with that of eight users one after another, alternating."""
    eight = requests_of_users(8)
    read_at_once(engine, eight[:1])
    contenders: dict[str, Callable[[], object]] = {"8, one by one": lambda: [read_at_once(engine, [r]) for r in eight]}
    contenders |= {str(n): partial(lambda n: read_at_once(engine, requests_of_users(n)), n) for n in numbers}
    times = take_turns(contenders, num_rounds, "users at once", warm_up=False)
    alone = times["8, one by one"]
    report.table(
        f"Users at once, prefill included, {num_rounds} rounds",
        "users | seconds for all, median | throughput against one by one",
        [
            [name, statistics.median(each) / 1000, f"{int(name.split(',')[0]) / 8 * ratio(alone, each):.2f}x"]
            for name, each in times.items()
        ],
    )


def bare_forward(model: PreTrainedModel, num_rows: int, length: int) -> Callable[[], object]:
    """Return transformers' own decode step over rows of equal length, which need no mask."""
    cache = DynamicCache(config=model.config)
    ids = torch.full((num_rows, length), 5, device=model.device)
    model(ids, past_key_values=cache, use_cache=True, logits_to_keep=1)
    return lambda: model(ids[:, :1], past_key_values=cache, use_cache=True)


def step_cost(model: PreTrainedModel, requests: list[Request]) -> list[object]:
    """Compare a whole step of the scheduler with a bare forward of the same rows and tokens, alternating."""
    scheduler = Scheduler(TransformersRunner(model), COLD)
    bare = TransformersRunner(model)
    num_rows = 2 * len(requests)
    longest = max(len(prompt) for request in requests for prompt in request.prompts)
    bare.reserve(num_rows, longest + 2 * NUM_STEPS, 2**62)
    for index, request in enumerate(requests):
        scheduler.add(Sequence(request, max_length=2**30))
        bare.prefill(2 * index, request.prompts)
    scheduler.step()  # prefills all prompts, since the chunk has no limit
    assert not scheduler.num_waiting, "all users decode"
    contenders = {
        "step": scheduler.step,
        "rows": lambda: bare.decode([5] * num_rows),
        "transformers": bare_forward(model, num_rows, longest),
    }
    times = take_turns(contenders, NUM_STEPS, f"step of {len(requests)} users")
    against = [f"{ratio(times['step'], times[name]):.2f}x" for name in ("rows", "transformers")]
    return [str(len(requests)), statistics.median(times["step"]), *against]


def smoothness(engine: Engine, requests: list[Request]) -> list[object]:
    """Print the time between two tokens of each user, after all have their first token."""
    stamps = read_at_once(engine, requests)
    all_started = max(each[0] for each in stamps)
    gaps = [(b - a) * 1000 for each in stamps for a, b in itertools.pairwise(each) if a >= all_started]
    return [str(len(requests)), statistics.median(gaps), statistics.quantiles(gaps, n=20)[-1], max(gaps)]


def second_turn(model: PreTrainedModel, num_rounds: int) -> list[object]:
    """Print the time to the first token of the next turn of a conversation, with and without reuse of the prefix."""
    conversation = torch.randint(100, 5000, (600,), generator=torch.Generator().manual_seed(0)).tolist()
    question = torch.randint(100, 5000, (30,), generator=torch.Generator().manual_seed(1)).tolist()

    def first_token(engine: Engine, number: int) -> float:
        start = [100 + number]  # a new conversation in each round
        prompts = [[*start, *conversation], [*start, 7, 8, 9, *conversation]]
        keys, sampling = ["profile", "profile"], SamplingParams(max_tokens=8)
        config = RealignmentConfig()
        answer = list(engine.submit(Request(prompts, [1.0], config, sampling, prefix_keys=keys)))
        turn = [[*prompt, *answer, *question] for prompt in prompts]
        while engine.stats.num_running:  # rows are saved after the end of the answer
            time.sleep(0.001)
        return milliseconds(lambda: next(engine.submit(Request(turn, [1.0], config, sampling, prefix_keys=keys))))

    engines = [Engine(TransformersRunner(model), config) for config in (COLD, EngineConfig())]
    times: list[list[float]] = [[], []]
    for number in tqdm(range(num_rounds), desc="second turn"):
        for each, engine in zip(times, engines, strict=True):
            each.append(first_token(engine, number))
    return [*(statistics.median(each) for each in times), f"{ratio(times[1], times[0]):.2f}x"]


def run(arguments: argparse.Namespace, report: Report) -> None:
    """Print the tables."""
    llm = chat_model(arguments)
    model = llm.load().model
    engine = Engine(TransformersRunner(model), COLD)
    lengths = " and ".join(str(len(prompt)) for prompt in requests_of(llm, 1, 1)[0].prompts)
    report.say(f"\nMany users: {llm.load().name}, {arguments.tokens} tokens, prompts of {lengths} and the like")
    numbers = arguments.users or [8, 24]
    users_at_once(
        engine, lambda number: requests_of(llm, number, arguments.tokens), numbers, max(1, arguments.rounds - 1), report
    )
    report.table(
        f"One step of all users, {NUM_STEPS} steps",
        "users | ms | against a bare forward of our rows | against transformers' own forward",
        [step_cost(model, requests_of(llm, number, 2 * NUM_STEPS)) for number in (1, *numbers)],
    )
    report.table(
        "Time between two tokens of a user",
        "users | median ms | 95th percentile | longest",
        [smoothness(engine, requests_of(llm, number, arguments.tokens)) for number in (1, MANY)]
        + [[f"{MANY}, steps alone", step_cost(model, requests_of(llm, MANY, 2 * NUM_STEPS))[1], "", ""]],
    )
    report.table(
        "Time to the first token of the second turn, conversation of 600 tokens, two streams",
        "cold, ms | reusing the first turn, ms | ratio",
        [second_turn(model, arguments.rounds)],
    )
