"""Eight concurrent users of LangChain's ChatHuggingFace on the same weights, which has no preferences to follow."""

import argparse
import logging
import statistics
from concurrent.futures import ThreadPoolExecutor

from transformers import pipeline

from langchain_amulet import ChatAmulet
from langchain_amulet.engine.config import EngineConfig
from tests.benchmarks.models import MESSAGES, PREFERENCES, print_table, ratio, take_turns


def run(llm: ChatAmulet, arguments: argparse.Namespace) -> None:
    """Print the table, if langchain-huggingface is there."""
    try:
        from langchain_huggingface import ChatHuggingFace, HuggingFacePipeline
    except ImportError:
        print("\nFor a comparison with ChatHuggingFace: pip install --no-deps langchain-huggingface")
        return
    logging.getLogger("transformers").setLevel(logging.ERROR)
    loaded = llm._load()
    ours = ChatAmulet(
        model=loaded.model,
        tokenizer=loaded.tokenizer,
        engine_config=EngineConfig(prefix_cache_bytes=0),
        temperature=0.0,
    )
    settings = {"max_new_tokens": arguments.tokens, "do_sample": False, "return_full_text": False}
    generator = pipeline("text-generation", model=loaded.model, tokenizer=loaded.tokenizer)
    theirs = ChatHuggingFace(llm=HuggingFacePipeline(pipeline=generator, pipeline_kwargs=settings), model_id="local")
    prompted = [[("system", f"{MESSAGES[0][1]}\n\n{preference}"), MESSAGES[1]] for preference in PREFERENCES]
    words: dict[str, int] = {}

    def at_once(name, invoke, inputs):
        def all_users() -> None:
            with ThreadPoolExecutor(len(inputs)) as threads:
                words[name] = sum(len(message.text.split()) for message in threads.map(invoke, inputs))

        return all_users

    limits = {"max_tokens": arguments.tokens}
    contenders = {
        "ChatHuggingFace, preference in the prompt": theirs.invoke,
        "ChatAmulet, preference in the prompt": lambda messages: ours.invoke(messages, preference=[], **limits),
    }
    runs = {name: at_once(name, invoke, prompted) for name, invoke in contenders.items()}
    name = "ChatAmulet, preference realigned (two streams)"
    runs[name] = at_once(name, lambda preference: ours.invoke(MESSAGES, preference=preference, **limits), PREFERENCES)
    times = take_turns(runs, max(1, arguments.rounds - 2), "ChatHuggingFace")
    first = next(iter(times))
    print_table(
        f"8 users at once in LangChain, up to {arguments.tokens} tokens each",
        "medians | seconds for all | words per second | time against ChatHuggingFace",
        [
            [
                name,
                statistics.median(each) / 1000,
                words[name] / statistics.median(each) * 1000,
                f"{ratio(each, times[first]):.2f}x",
            ]
            for name, each in times.items()
        ],
    )
