"""Answers that take too long fail, wherever they are, and leave nothing behind."""

import pytest

from langchain_amulet.engine.config import EngineConfig
from langchain_amulet.engine.engine import Engine
from langchain_amulet.engine.params import Request, SamplingParams
from langchain_amulet.exceptions import GenerationTimeoutError, InvalidParameterError
from tests.fakes.engines import FakeRunner, wait_until

ENDLESS = SamplingParams(max_tokens=100_000)


def an_engine(**config) -> Engine:
    return Engine(FakeRunner(max_context=200_000), EngineConfig(**config))


def test_answer_that_takes_too_long_fails_and_frees_its_rows():
    engine = an_engine()
    generation = engine.submit(Request([[1, 2], [3]], [1.0], sampling=ENDLESS, timeout_s=0.2))
    with pytest.raises(GenerationTimeoutError, match=r"not complete after 0.2 s, with \d+ tokens drawn. Raise"):
        list(generation)
    assert len(generation.token_ids) > 0
    wait_until(lambda: engine.stats.num_rows == 0)


async def test_async_answer_that_takes_too_long_fails_too():
    generation = await an_engine().asubmit(Request([[1, 2]], sampling=ENDLESS, timeout_s=0.1))
    with pytest.raises(TimeoutError):
        [token_id async for token_id in generation]


@pytest.mark.parametrize("max_waiting", [10, 1])
def test_waiting_counts(max_waiting):
    """In the queue, and for a place in it."""
    engine = an_engine(max_rows=1, max_waiting=max_waiting)
    first = engine.submit(Request([[1]], sampling=ENDLESS))
    wait_until(lambda: engine.stats.num_running == 1)
    second = engine.submit(Request([[1]], sampling=ENDLESS))
    late = engine.submit(Request([[2]], sampling=ENDLESS, timeout_s=0.1))
    with pytest.raises(GenerationTimeoutError, match="with 0 tokens"):
        list(late)
    assert first.finish_reason is None
    first.cancel()
    second.cancel()


def test_answer_in_time_is_complete():
    generation = an_engine().submit(Request([[1]], sampling=SamplingParams(max_tokens=5), timeout_s=60))
    assert len(list(generation)) == 5


@pytest.mark.parametrize("timeout_s", [0, -1.0, "soon", True])
def test_timeout_is_a_number_of_seconds(timeout_s):
    with pytest.raises(InvalidParameterError, match="timeout_s"):
        Request([[1]], timeout_s=timeout_s)
