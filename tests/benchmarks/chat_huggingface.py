"""Eight concurrent users of LangChain's ChatHuggingFace, which has no preferences, on the same weights."""

import argparse
import logging
import statistics
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

from transformers import pipeline

from langchain_amulet import ChatAmulet
from langchain_amulet.engine.config import EngineConfig
from tests.benchmarks.models import MESSAGES, PREFERENCES, print_table, ratio, take_turns


def at_once(invoke: Callable, inputs: Sequence, num_threads: int) -> Callable[[], object]:
    """Run all inputs at once, one thread per input."""

    def run() -> None:
        with ThreadPoolExecutor(num_threads) as threads:
            list(threads.map(invoke, inputs))

    return run


def run(llm: ChatAmulet, arguments: argparse.Namespace) -> None:
    """Print the table, if langchain-huggingface is installed. All answers have the same length, so times compare."""
    try:
        from langchain_huggingface import ChatHuggingFace, HuggingFacePipeline
    except ImportError:
        print("\nFor a comparison with ChatHuggingFace: pip install --no-deps langchain-huggingface")
        return
    logging.getLogger("transformers").setLevel(logging.ERROR)
    loaded, num_users = llm.load(), len(PREFERENCES)
    loaded.model.generation_config.eos_token_id = None
    cold = EngineConfig(prefix_cache_bytes=0)
    settings = {"temperature": 0.0, "max_tokens": arguments.tokens, "engine_config": cold}
    ours = ChatAmulet(model=loaded.model, tokenizer=loaded.tokenizer, **settings)
    # Pass the settings to the pipeline itself: ChatHuggingFace drops those of HuggingFacePipeline.
    limits = {"max_new_tokens": arguments.tokens, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    generator = pipeline("text-generation", model=loaded.model, tokenizer=loaded.tokenizer, **limits)
    theirs = ChatHuggingFace(llm=HuggingFacePipeline(pipeline=generator), tokenizer=loaded.tokenizer)
    prompted = [[("system", f"{MESSAGES[0][1]}\n\n{preference}"), MESSAGES[1]] for preference in PREFERENCES]
    contenders = {
        "ChatHuggingFace, preference in the prompt": at_once(theirs.invoke, prompted, num_users),
        "the same, one user after another": at_once(theirs.invoke, prompted, 1),
        "ChatAmulet, preference in the prompt": at_once(ours.invoke, prompted, num_users),
        "ChatAmulet, preference realigned, two streams": at_once(
            lambda preference: ours.invoke(MESSAGES, preference=preference), PREFERENCES, num_users
        ),
    }
    times = take_turns(contenders, max(1, arguments.rounds - 2), "ChatHuggingFace")
    first, second, *_ = times
    print_table(
        f"{num_users} users at once in LangChain, {arguments.tokens} tokens each",
        "seconds for all | time against ChatHuggingFace | against it one by one",
        [
            [name, statistics.median(each) / 1000, *(f"{ratio(each, times[other]):.2f}x" for other in (first, second))]
            for name, each in times.items()
        ],
    )
