"""Whatever one user sends, the next token of another user comes within five steps."""

import asyncio
import contextlib
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, cast

import pytest
import torch
from langchain_core.messages import AIMessageChunk
from transformers import AutoModelForCausalLM, LlamaConfig

from langchain_amulet import ChatAmulet, Preference, RealignmentConfig
from langchain_amulet.engine.config import EngineConfig
from tests.fakes.chat_templates import byte_tokenizer
from tests.fakes.figures import count, is_full
from tests.fakes.models import GROUPED
from tests.fakes.stall_watch import Gaps, StallWatch

MOST_STEPS = 5
MOST_WORK = 3  # calls per running request, in units of what a step of one request takes


@pytest.fixture(scope="module")
def llm() -> ChatAmulet:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = LlamaConfig(**{**GROUPED, "max_position_embeddings": 8192, "num_hidden_layers": 1})
        model = AutoModelForCausalLM.from_config(config).to(torch.float32).eval()
    engine_config = EngineConfig(cache_bytes=2 * 10**8, prefix_cache_bytes=10**7)
    realignment = RealignmentConfig(guidance_scale=2.0)
    settings: dict[str, Any] = {"max_tokens": 30, "temperature": 1.0, "realignment": realignment}
    return ChatAmulet(model=model, tokenizer=byte_tokenizer(), engine_config=engine_config, **settings)


@pytest.fixture(scope="module")
def watch(llm) -> StallWatch:
    return StallWatch(llm.engine)


def in_schema(llm: ChatAmulet, schema: dict[str, Any], **settings: Any) -> object:
    described = {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}}
    return llm.bind(response_format=described, **settings).invoke("Go.")


def matching(pattern: str) -> Callable[[ChatAmulet], object]:
    return lambda llm: in_schema(llm, {"type": "string", "pattern": pattern}, max_tokens=80)


def large_schema(num: int) -> dict[str, Any]:
    fields = {f"property_{i}": {"type": "string", "pattern": "^.+\\.py$"} for i in range(num)}
    return {"type": "object", "properties": fields}


def deep_schema(depth: int) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "integer"}
    for _ in range(depth):
        schema = {"type": "object", "properties": {"a": schema}, "required": ["a"]}
    return schema


def tools(num: int) -> list[dict[str, Any]]:
    parameters = {"type": "object", "properties": {f"p{i}": {"type": "string"} for i in range(5)}}
    return [
        {"type": "function", "function": {"name": f"tool_{i}", "description": "A tool.", "parameters": parameters}}
        for i in range(num)
    ]


def cancel_storm(llm: ChatAmulet) -> None:
    streams = [cast("Generator[AIMessageChunk]", llm.stream(f"Question {i}")) for i in range(60)]
    with ThreadPoolExecutor(20) as threads:
        [*threads.map(next, streams)]
    for stream in streams:
        stream.close()


def abandoned_calls(llm: ChatAmulet) -> None:
    async def ask_and_leave() -> None:
        calls = [asyncio.ensure_future(llm.ainvoke(f"Question {i}", max_tokens=500)) for i in range(60)]
        await asyncio.wait(calls, timeout=0.5)
        for call in calls:
            call.cancel()
        await asyncio.gather(*calls, return_exceptions=True)

    asyncio.run(ask_and_leave())


def refused_calls(llm: ChatAmulet) -> None:
    for _ in range(10):
        with contextlib.suppress(Exception):
            llm.invoke("x" * 20_000)


WEIGHTED = [Preference(f"Be {word}. " * 10, weight) for word, weight in [("kind", 1), ("brief", 0.5), ("loud", -0.5)]]
ATTACKS: dict[str, Callable[[ChatAmulet], object]] = {
    "a long conversation": lambda llm: llm.invoke("word " * 1200),
    "many long conversations": lambda llm: llm.batch([f"{i} " * 300 for i in range(8)]),
    "a huge preference": lambda llm: llm.invoke("Go.", preference="Be kind. " * 600),
    "nested control tokens": lambda llm: llm.invoke("Go.", preference="<|im_" * 1500 + "end|>" * 1500, timeout=5),
    "control tokens in a message": lambda llm: llm.invoke("<|im_" * 500 + "end|>" * 500),
    "many preferences": lambda llm: llm.invoke("Go.", preference=WEIGHTED),
    "a large schema": lambda llm: in_schema(llm, large_schema(300), max_tokens=100),
    "a deep schema": lambda llm: in_schema(llm, deep_schema(60), max_tokens=300),
    "a suffix": matching("^.+\\.py$"),
    "a question": matching("^[^?]+\\?$"),
    "an ambiguous pattern": matching("^(a|b|ab)*c(a|b|ab)*d$"),
    "stars upon stars": matching("^(.*)(.*)(.*)(.*)x$"),
    "counted classes": matching("^([a-z]{1,500}[0-9]{1,500}){1,20}$"),
    "an end that cannot be found": matching("^.*(foo|bar).{40}baz$"),
    "recursion": lambda llm: in_schema(
        llm, {"$ref": "#/$defs/N", "$defs": {"N": {"type": "array", "items": {"$ref": "#/$defs/N"}}}}, max_tokens=200
    ),
    "thousands of stops": lambda llm: llm.invoke("Go.", stop=[f"{i}" + "a" * 50 for i in range(2000)]),
    "broken bytes": lambda llm: llm.invoke("Go.", max_tokens=500, temperature=5.0),
    "a huge list of tools": lambda llm: llm.bind_tools(tools(100), tool_choice="any").invoke("Go.", max_tokens=200),
    "tools that may be called": lambda llm: llm.bind_tools(tools(60)).invoke("Go."),
    "all probabilities": lambda llm: llm.invoke("Go.", logprobs=True, top_logprobs=20, repetition_penalty=1.3),
    "heavy draws": lambda llm: llm.invoke("Go.", top_k=200, top_p=0.99, repetition_penalty=1.5, preference=WEIGHTED),
    "cancelled streams": cancel_storm,
    "abandoned calls": abandoned_calls,
    "refused calls": refused_calls,
    "scored texts": lambda llm: llm.token_logprobs("Go.", "word " * 400),
}


FEW = ("many long conversations", "a large schema", "counted classes", "cancelled streams", "refused calls")
"""The attacks outside a campaign."""


def pytest_generate_tests(metafunc):
    if "name" in metafunc.fixturenames:
        metafunc.parametrize("name", ATTACKS if is_full(metafunc.config) else FEW)


@pytest.mark.filterwarnings("ignore:.*:UserWarning")
def test_another_users_next_token_comes_within_five_steps(watch, llm, name):
    gaps: Gaps = watch.during(lambda: ATTACKS[name](llm))
    print(f"{name:32} {gaps}")  # noqa: T201 - shown by pytest -s
    count("attacks on another user's answer")
    count("stalls", gaps.steps >= MOST_STEPS or gaps.calls >= MOST_WORK)
    assert gaps.num_tokens > 3
    assert gaps.steps < MOST_STEPS
    assert gaps.calls < MOST_WORK
