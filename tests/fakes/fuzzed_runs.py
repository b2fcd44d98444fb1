"""Runs the calls of a fuzzer, all at once, in the manner that each asks for; and checks that an engine is at rest."""

import asyncio
import contextlib
import gc
import threading
from collections.abc import AsyncGenerator, Callable, Generator, Sequence
from contextlib import aclosing, closing
from functools import wraps
from typing import Any, cast

from hypothesis import settings
from langchain_core.messages import AIMessage, AIMessageChunk

from langchain_amulet import ChatAmulet
from langchain_amulet.engine.engine import Engine
from langchain_amulet.exceptions import AmuletError
from tests.fakes.engines import wait_until
from tests.fakes.figures import Progress, count
from tests.fakes.fuzzed_calls import Call
from tests.fakes.fuzzed_models import PRESSED_TOKENS
from tests.fakes.reference_answers import TOLERANCE, Outcome, differs, outcome_of

MOST_S = 100  # seconds to wait for an engine, on a machine that computes much else


def fuzzed(num_examples: int, progress: Progress, title: str) -> Callable[[Any], Callable[[], None]]:
    """Decorate a property with its number of examples and a progress bar."""

    def decorate(check: Any) -> Callable[[], None]:
        bar = progress.bar(num_examples, title)
        inner = check.hypothesis.inner_test

        @wraps(inner)
        def counted(*args: Any, **kwargs: Any) -> None:
            progress.step(bar)
            inner(*args, **kwargs)

        check.hypothesis.inner_test = counted
        return settings(max_examples=num_examples)(check)

    return decorate


def tight_limit(llm: ChatAmulet, calls: Sequence[Call]) -> int:
    """Return over how many tokens the first two calls begin together, and lose their rows after a few more each."""
    prompts = []
    for call in calls[:2]:
        settings = {**call.settings, "preference": call.preferences}
        with contextlib.suppress(AmuletError):
            prompts.append(llm._prepare(call.messages, settings.pop("stop", None), settings).request.prompts)
    if len(prompts) < 2:
        return PRESSED_TOKENS
    return sum(map(len, prompts)) * (max(len(row) for rows in prompts for row in rows) + 4)


async def run_all(llm: ChatAmulet, calls: Sequence[Call]) -> list[list[Any]]:
    """Run calls at once; return per call what it got: messages, errors, or the chunks of a stream that was left."""
    return await asyncio.gather(*(_run(llm, call) for call in calls))


async def _run(llm: ChatAmulet, call: Call) -> list[Any]:
    count("requests", 2 if "batch" in call.manner else 1)
    arguments = {**call.settings, "preference": call.preferences}
    try:
        if call.manner in ("ainvoke", "astream", "abatch"):
            return await _RUNS[call.manner](llm, call, arguments)
        return await asyncio.to_thread(_RUNS[call.manner], llm, call, arguments)
    except Exception as error:  # noqa: BLE001 - compared with the expected one
        return [Outcome(type(error), detail=str(error))]  # without its frames, which keep the engine alive


def _stream(llm: ChatAmulet, call: Call, arguments: dict[str, Any]) -> list[Any]:
    chunks: list[AIMessageChunk] = []
    with closing(cast("Generator[AIMessageChunk]", llm.stream(call.messages, **arguments))) as stream:
        while len(chunks) != call.cancel_after and (chunk := next(stream, None)) is not None:
            chunks.append(chunk)
    return _merged(chunks)


async def _astream(llm: ChatAmulet, call: Call, arguments: dict[str, Any]) -> list[Any]:
    chunks: list[AIMessageChunk] = []
    async with aclosing(cast("AsyncGenerator[AIMessageChunk]", llm.astream(call.messages, **arguments))) as stream:
        while len(chunks) != call.cancel_after and (chunk := await anext(stream, None)) is not None:
            chunks.append(chunk)
    return _merged(chunks)


async def _ainvoke(llm: ChatAmulet, call: Call, arguments: dict[str, Any]) -> list[Any]:
    task = asyncio.ensure_future(llm.ainvoke(call.messages, **arguments))
    if call.cancel_after is not None:
        await asyncio.sleep(0.003 * call.cancel_after)
        task.cancel()
    try:
        return [await task]
    except asyncio.CancelledError:
        count("requests cancelled")
        return []


async def _abatch(llm: ChatAmulet, call: Call, arguments: dict[str, Any]) -> list[Any]:
    return await llm.abatch([call.messages] * 2, **arguments)


_RUNS: dict[str, Any] = {
    "invoke": lambda llm, call, arguments: [llm.invoke(call.messages, **arguments)],
    "batch": lambda llm, call, arguments: llm.batch([call.messages] * 2, **arguments),
    "generate": lambda llm, call, arguments: [llm.generate([call.messages], **arguments).generations[0][0].message],
    "stream": _stream,
    "astream": _astream,
    "ainvoke": _ainvoke,
    "abatch": _abatch,
}


def _merged(chunks: list[AIMessageChunk]) -> list[Any]:
    """Return the whole message, or the chunks that were read before the stream was left."""
    if not chunks or chunks[-1].chunk_position != "last":
        count("requests cancelled")
        return [chunks]
    return [sum(chunks[1:], start=chunks[0])]


def fault_of(result: Any, expected: Outcome, tolerance: float = TOLERANCE) -> str | None:
    """Return what is wrong with one result; `None` if nothing is. `tolerance` is that of log-probabilities, in nats."""
    count("answers compared")
    if isinstance(result, list):
        text = "".join(chunk.text for chunk in result)
        begins = expected.error is None and expected.parts[0].startswith(text)
        fault = None if begins or not result else f"{text!r} does not begin {expected}"
    else:
        got = result if isinstance(result, Outcome) else outcome_of(_as_message(result))
        fault = differs(got, expected, tolerance)
    count("wrong answers", fault is not None)
    return fault


def _as_message(result: Any) -> Any:
    if not isinstance(result, AIMessageChunk):
        return result
    names = ("content", "additional_kwargs", "response_metadata", "usage_metadata", "tool_calls", "invalid_tool_calls")
    return AIMessage(**{name: getattr(result, name) for name in names})


def rests(engine: Engine) -> None:
    """Wait until an engine has neither requests nor rows, and no place in its queue is taken; or its worker has died."""

    def is_at_rest() -> bool:
        stats = engine.stats
        return engine.is_closed or not (stats.num_running or stats.num_waiting or stats.num_rows)

    wait_until(is_at_rest, MOST_S)


def ended(engine: Engine, threads_before: set[threading.Thread]) -> None:
    """Close an engine; nothing of it may stay."""
    rests(engine)
    engine.close()
    engine.join(MOST_S)
    gc.collect()  # an engine that has closed itself ends its thread when it is collected

    def left() -> list[threading.Thread]:
        return [thread for thread in {*threading.enumerate()} - threads_before if thread.name == "amulet-engine"]

    with contextlib.suppress(AssertionError):
        wait_until(lambda: not left(), MOST_S)
    count("leaks", len(left()))
    assert not left(), "threads of engines are left"
