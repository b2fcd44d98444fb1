"""Speculation where answers copy from the prompt (quote, edit, answer from a given text), and where they do not."""

import argparse
import copy
import statistics
from collections.abc import Callable, Sequence
from typing import Any

from transformers import PreTrainedModel

from langchain_amulet import ChatAmulet
from langchain_amulet.engine.config import EngineConfig
from langchain_amulet.models.sources import locate
from tests.benchmarks import variants
from tests.benchmarks.contenders import NotAvailableError
from tests.benchmarks.models import PREFERENCES, SYSTEM, dtypes_of
from tests.benchmarks.report import Report
from tests.benchmarks.timing import ratio, take_turns

TEXT = """The harbour museum opens on Tuesday at nine in the morning and closes at half past five in the afternoon. Tickets
cost eight euros for adults and three euros for children, and groups of ten or more people pay five euros each. The
exhibition about the lighthouse keepers of the northern coast is on the second floor, next to the room with the maps.
Visitors who would like a guided tour should ask at the desk before noon, because the guides leave at three o'clock."""
TASKS = {
    "quote": f"Repeat this text exactly, word by word, and write nothing else:\n\n{TEXT}",
    "edit": f"Replace the word museum by gallery, and write the whole text again without any other change:\n\n{TEXT}",
    "answer from a text": f"{TEXT}\n\nCopy the two sentences that say when it opens and what a ticket costs.",
    "other text": "Tell me a story about a cat who would like to be a sailor.",
}
NGRAM = 3


def replayed(prompt: Sequence[int], answer: Sequence[int], num_draft: int) -> float:
    """Return how many tokens a forward would yield on average if drafts cost nothing.

    Drafts are what follows the latest earlier occurrence of the last three tokens, in the prompt or in the answer.
    """
    ids = [*prompt, *answer]
    latest: dict[tuple[int, ...], int] = {}
    position, num_forwards, indexed = len(prompt), 0, NGRAM
    while position < len(ids):
        while indexed < position:  # occurrences that end before the last token
            latest[tuple(ids[indexed - NGRAM : indexed])] = indexed
            indexed += 1
        start = latest.get(tuple(ids[position - NGRAM : position]))
        draft = [] if start is None else ids[start : min(start + num_draft, position)]
        position += _common_length(draft, ids[position:]) + 1
        num_forwards += 1
    return len(answer) / num_forwards if answer else 0.0


def _common_length(a: Sequence[int], b: Sequence[int]) -> int:
    return next((index for index, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


def chat_model(model: PreTrainedModel, tokenizer: Any, engine: dict[str, Any], num_tokens: int) -> ChatAmulet:
    """Return a greedy chat model with its own engine on the same weights."""
    config = EngineConfig(prefix_cache_bytes=0, **(variants.bare_engine() | engine))
    settings = {"temperature": 0.0, "max_tokens": num_tokens, "engine_config": config}
    return ChatAmulet(model=model, tokenizer=copy.copy(tokenizer), **settings)


def compared(
    engines: dict[str, ChatAmulet], task: str, preference: str | None, num_rounds: int
) -> tuple[dict[str, list[float]], str]:
    """Return the milliseconds per token of each engine by round, and the answer."""
    counts, texts = dict.fromkeys(engines, 0), dict.fromkeys(engines, "")

    def answer(name: str) -> Callable[[], None]:
        def run() -> None:
            message = engines[name].invoke([SYSTEM, ("human", task)], preference=preference)
            counts[name], texts[name] = message.usage_metadata["output_tokens"], message.text

        return run

    times = take_turns({name: answer(name) for name in engines}, num_rounds, "copying")
    return {name: [each / counts[name] for each in mine] for name, mine in times.items()}, next(iter(texts.values()))


def run(arguments: argparse.Namespace, report: Report) -> None:
    """Print a table per dtype. Answers end where the model ends them."""
    for dtype in dtypes_of(arguments):
        loaded = variants.loaded_by_us(locate(arguments.model).location, dtype, {}).load()
        engines = {"one token per forward": chat_model(loaded.model, loaded.tokenizer, {}, arguments.tokens)}
        speculation = {"num_draft_tokens": variants.NUM_DRAFT_TOKENS}
        try:
            variants.check_engine(speculation)
            engines["speculative"] = chat_model(loaded.model, loaded.tokenizer, speculation, arguments.tokens)
        except NotAvailableError as error:
            report.missing(dtype, {"speculation in copying tasks": str(error)})
        rows = []
        for name, task in TASKS.items():
            for preference in (None, PREFERENCES[4]):
                times, text = compared(engines, task, preference, arguments.rounds)
                ids = loaded.tokenizer.encode(text, add_special_tokens=False)
                prompt = engines["one token per forward"].prompt_streams([SYSTEM, ("human", task)])[0]
                rows.append(
                    [
                        f"{name}, {'a preference' if preference else 'plain'}",
                        len(ids),
                        f"{replayed(prompt, ids, variants.NUM_DRAFT_TOKENS):.2f}",
                        *(statistics.median(mine) for mine in times.values()),
                        _speedup(times),
                    ]
                )
        report.table(
            f"{dtype}, one user, copying tasks",
            "task | tokens | tokens per forward, replayed | "
            + " | ".join(f"{name}, ms per token" for name in times)
            + " | speed of speculation",
            rows,
        )


def _speedup(times: dict[str, list[float]]) -> str:
    return f"{ratio(times['one token per forward'], times['speculative']):.2f}x" if "speculative" in times else ""
