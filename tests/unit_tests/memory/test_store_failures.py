"""A chat model whose store of preferences fails, before or during an answer."""

import contextlib
import time
import warnings
from collections.abc import AsyncIterator, Iterator
from functools import reduce
from operator import add
from typing import NamedTuple

import pytest
from langchain_core.messages import AIMessage, AIMessageChunk
from langgraph.store.memory import InMemoryStore
from langgraph.store.postgres import PostgresStore

from langchain_amulet import ChatAmulet, Preference, PreferenceMemory, RealignmentConfig
from langchain_amulet.exceptions import StoreError, StoreTimeoutError, UserIdError
from tests.fakes.chat_templates import byte_tokenizer
from tests.fakes.databases import Postgres, opened, started_postgres
from tests.fakes.models import tiny_model

QUESTION = "Why?"
BRIEF = Preference("Be brief.")
ALICE = {"configurable": {"user_id": "alice@example.com"}}
MODEL = tiny_model("qwen2", seed=5)
TOKENIZER = byte_tokenizer()


def make_llm(**fields) -> ChatAmulet:
    return ChatAmulet(
        model=MODEL, tokenizer=TOKENIZER, max_tokens=12, realignment=RealignmentConfig(guidance_scale=3.0), **fields
    )


@pytest.fixture(scope="module")
def expected() -> dict[str, AIMessage]:
    llm = make_llm()
    expected = {"brief": llm.invoke(QUESTION, preference=BRIEF), "plain": llm.invoke(QUESTION, preference=[])}
    assert expected["brief"].text != expected["plain"].text, "the tests below need different answers"
    return expected


def check_plain(answer: AIMessage, expected: dict[str, AIMessage], error: str) -> None:
    """Check that this is the answer without preferences, with a flag for the error."""
    assert answer.text == expected["plain"].text
    notes = answer.response_metadata["amulet"]
    assert notes.pop("store_error") == error
    assert {**answer.response_metadata, "amulet": notes or None} == {
        **expected["plain"].response_metadata,
        "amulet": expected["plain"].response_metadata.get("amulet"),
    }


# A server that is killed


@pytest.fixture
def mortal() -> Iterator[Postgres]:
    with started_postgres() as postgres:
        yield postgres


class Scene(NamedTuple):
    postgres: Postgres
    memory: PreferenceMemory
    cached: PreferenceMemory


@pytest.fixture(params=["postgres", "async postgres"])
async def scene(request, tmp_path, mortal) -> AsyncIterator[Scene]:
    async with opened(request.param, tmp_path, mortal) as store:
        memory = PreferenceMemory(store)
        await memory.aremember("alice@example.com", BRIEF)
        yield Scene(mortal, memory, PreferenceMemory(store, cache_seconds=600))


async def test_answer_in_progress_is_finished_when_the_server_dies_and_later_ones_follow_on_store_error(
    scene, expected, caplog
):
    llm, plain = make_llm(memory=scene.memory), make_llm(memory=scene.memory, on_store_error="plain")
    cached = make_llm(memory=scene.cached)
    assert (await cached.ainvoke(QUESTION, ALICE)).text == expected["brief"].text

    stream = llm.astream(QUESTION, ALICE)
    chunks = [await anext(stream)]
    scene.postgres.kill()
    chunks += [chunk async for chunk in stream]
    whole: AIMessageChunk = reduce(add, chunks)
    assert (whole.text, whole.response_metadata) == (expected["brief"].text, expected["brief"].response_metadata)

    with pytest.raises(StoreError):
        await llm.ainvoke(QUESTION, ALICE)
    answer = await plain.ainvoke(QUESTION, ALICE)
    check_plain(answer, expected, "OperationalError")
    assert "could not be read (OperationalError)" in caplog.text
    assert "Be brief" not in caplog.text
    assert "alice" not in caplog.text

    answer = await cached.ainvoke(QUESTION, ALICE)
    assert answer.text == expected["brief"].text
    assert answer.response_metadata["amulet"]["preferences_age_s"] > 0
    with pytest.raises(StoreError):
        await scene.memory.aremember("alice@example.com", "Be kind.")
    with pytest.raises(StoreError):  # the failed write may have changed the store, so the cache was dropped
        await cached.ainvoke(QUESTION, ALICE)


def test_preferences_survive_a_server_crash_and_connection_pools_recover(mortal):
    with PostgresStore.from_conn_string(mortal.uri, pool_config={"min_size": 1, "max_size": 2}) as store:
        memory = PreferenceMemory(store)
        memory.remember("alice@example.com", BRIEF)
        mortal.kill()
        with pytest.raises((StoreError, StoreTimeoutError)):
            memory.recall("alice@example.com")
        mortal.start_again()
        for _ in range(2):  # each connection from before the crash fails once
            with contextlib.suppress(StoreError):
                memory.recall("alice@example.com")
        assert memory.recall("alice@example.com") == [BRIEF]


# Other failures


class FailingStore(InMemoryStore):
    def batch(self, _ops):
        raise ConnectionError("Be brief. is what alice@example.com prefers")  # noqa: EM101, TRY003

    abatch = batch


@pytest.fixture
def failing() -> ChatAmulet:
    return make_llm(memory=FailingStore(), on_store_error="plain", preference="Answer in German.")


def test_store_error_is_raised_by_default():
    llm = make_llm(memory=FailingStore())
    with pytest.raises(ConnectionError):
        llm.invoke(QUESTION, ALICE)
    with pytest.raises(ConnectionError):
        next(llm.stream(QUESTION, ALICE))
    assert llm.invoke(QUESTION).text == llm.invoke(QUESTION, ALICE, preference=[]).text


async def test_every_path_gives_a_plain_answer_with_a_warning_and_a_flag(failing, expected, caplog):
    async def invoke():
        return failing.invoke(QUESTION, ALICE)

    async def stream():
        return reduce(add, failing.stream(QUESTION, ALICE))

    async def batch():
        return failing.batch([QUESTION], ALICE)[0]

    async def astream():
        return reduce(add, [chunk async for chunk in failing.astream(QUESTION, ALICE)])

    for path in (invoke, stream, batch, astream, lambda: failing.ainvoke(QUESTION, ALICE)):
        answer = await path()
        check_plain(answer, expected, "ConnectionError")
    assert "could not be read (ConnectionError)" in caplog.text
    assert "brief" not in caplog.text
    assert "alice" not in caplog.text


def test_plain_answer_after_a_store_error_is_not_served_from_the_response_cache(failing, expected, cache):
    failing.cache = cache
    failing.invoke(QUESTION, ALICE)
    healthy = make_llm(cache=cache, on_store_error="plain")
    assert "store_error" not in healthy.invoke(QUESTION, preference=[]).response_metadata.get("amulet", {})
    assert healthy.invoke(QUESTION, preference=[]).text == expected["plain"].text


def test_wrong_user_id_raises_with_on_store_error_plain_too(failing):
    with pytest.raises(UserIdError, match="is empty"):
        failing.invoke(QUESTION, {"configurable": {"user_id": ""}})


def test_timeout_is_a_store_error(expected):
    class Stuck(InMemoryStore):
        def batch(self, _ops):
            time.sleep(0.3)

    memory = PreferenceMemory(Stuck(), read_timeout=0.01)
    with pytest.raises(StoreTimeoutError):
        make_llm(memory=memory).invoke(QUESTION, ALICE)
    answer = make_llm(memory=memory, on_store_error="plain").invoke(QUESTION, ALICE)
    check_plain(answer, expected, "StoreTimeoutError")


def test_answers_have_no_flag_if_the_store_works(expected):
    memory = PreferenceMemory({"alice@example.com": BRIEF})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        answer = make_llm(memory=memory, on_store_error="plain").invoke(QUESTION, ALICE)
    assert (answer.text, answer.response_metadata) == (expected["brief"].text, expected["brief"].response_metadata)
