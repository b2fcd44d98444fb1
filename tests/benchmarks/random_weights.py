"""Large architectures with random weights drawn on the device: as fast as trained ones, without a download."""

import argparse
import statistics

import torch
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedModel

from langchain_amulet.engine.engine import Engine
from langchain_amulet.engine.params import Request, SamplingParams
from langchain_amulet.engine.runners.batched import TransformersRunner
from tests.benchmarks.machine import Buffer, weight_bytes
from tests.benchmarks.report import Report
from tests.benchmarks.serving import COLD, read_at_once, step_cost
from tests.benchmarks.timing import ratio, take_turns

CONFIGS = {
    "llama-3.1-8b": {
        "vocab_size": 128256,
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "max_position_embeddings": 131072,
        "rope_parameters": {"rope_type": "default", "rope_theta": 500000.0},
    },
    "tiny": {
        "vocab_size": 1000,
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 4096,
    },
}
PROMPT_LENGTH = 256
NUM_STEPS = 30


def draw_model(name: str) -> PreTrainedModel:
    """Return the model on the best available device; in bfloat16 on a GPU."""
    is_gpu = torch.cuda.is_available()
    config = LlamaConfig(**CONFIGS[name], bos_token_id=1, eos_token_id=2)
    with torch.device("cuda" if is_gpu else "cpu"):
        return AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16 if is_gpu else torch.float32).eval()


def requests_of(model: PreTrainedModel, number: int, num_tokens: int, num_streams: int = 2) -> list[Request]:
    """Return prompts of random tokens, all of the same length."""
    ids = torch.randint(3, model.config.vocab_size, (number, num_streams, PROMPT_LENGTH)).tolist()
    sampling = SamplingParams(max_tokens=num_tokens)
    return [Request(prompts, [1.0] * (num_streams - 1), sampling=sampling) for prompts in ids]


def run(arguments: argparse.Namespace, report: Report) -> None:
    """Print the tables."""
    model = draw_model(arguments.random_weights)
    users = arguments.users or [1, 4, 16, 64]
    engine = Engine(TransformersRunner(model), COLD)
    report.say(
        f"\n{arguments.random_weights}, random weights, {model.dtype} on {model.device}, prompts of {PROMPT_LENGTH}, "
        f"{weight_bytes(model) / 1e9:.2f} GB of weights per token"
    )
    _report_steps(model, arguments.rounds, report)
    _report_one_user(model, engine, arguments, report)
    rows: list[list[object]] = []
    for number in users:
        requests = requests_of(model, number, arguments.tokens)
        stamps = read_at_once(engine, requests)
        seconds = max(each[-1] for each in stamps) - min(each[0] for each in stamps)
        speed = number * (arguments.tokens - 1) / seconds
        rows.append(
            [
                *step_cost(model, requests_of(model, number, 64)),
                speed,
                f"{speed / (rows[0][-1] if rows else speed):.2f}x",
            ]
        )
    report.table(
        "Users at once, two streams each",
        "users | ms per step | against a bare forward of our rows | against transformers' own forward | "
        "tokens per second | throughput against the first",
        rows,
    )


def _report_steps(model: PreTrainedModel, num_rounds: int, report: Report) -> None:
    """Print the time of a decode step by rows, and how close it comes to the time of reading the weights."""
    runner = TransformersRunner(model)
    runner.reserve(2, PROMPT_LENGTH + 2 * (NUM_STEPS + 1), 2**62)
    runner.prefill(0, requests_of(model, 1, 1)[0].prompts)
    buffer = Buffer(weight_bytes(model), model.device)
    contenders = {"one row": lambda: runner.decode([5]), "two rows": lambda: runner.decode([5, 5])}
    reading: list[float] = []
    steps: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(num_rounds):
        reading.append(buffer.read_ms())
        for name, times in take_turns(contenders, NUM_STEPS, "steps").items():
            steps[name].append(statistics.median(times))
        runner.truncate(0, PROMPT_LENGTH)
        runner.truncate(1, PROMPT_LENGTH)
    report.table(
        "One decode step",
        "rows | ms | time against one row | of the bandwidth",
        [
            [name, statistics.median(each), f"{ratio(each, steps['one row']):.2f}x", f"{ratio(reading, each):.1%}"]
            for name, each in steps.items()
        ],
    )


def _report_one_user(model: PreTrainedModel, engine: Engine, arguments: argparse.Namespace, report: Report) -> None:
    """Print the time of whole answers by streams."""
    one, two = (
        [requests_of(model, 1, arguments.tokens, streams) for _ in range(arguments.rounds + 1)] for streams in (1, 2)
    )
    contenders = {
        "one stream": lambda: read_at_once(engine, one.pop()),
        "two streams": lambda: read_at_once(engine, two.pop()),
    }
    times = take_turns(contenders, arguments.rounds, "one user")
    report.table(
        f"One user, {arguments.tokens} tokens, prefill included",
        "streams | ms per token | time against one stream",
        [
            [name, statistics.median(each) / arguments.tokens, f"{ratio(each, times['one stream']):.2f}x"]
            for name, each in times.items()
        ],
    )
