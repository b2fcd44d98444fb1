"""A chat model whose users' preferences cannot be read, from the middle of an answer on."""

import contextlib
import time
import warnings
from collections.abc import AsyncIterator, Iterator
from functools import reduce
from operator import add
from typing import NamedTuple

import psycopg
import pytest
from langchain_core.messages import AIMessage, AIMessageChunk
from langgraph.store.memory import InMemoryStore
from langgraph.store.postgres import PostgresStore

from langchain_amulet import ChatAmulet, Preference, PreferenceMemory, RealignmentConfig
from langchain_amulet.exceptions import StoreTimeoutError, UserIdError
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
def due() -> dict[str, AIMessage]:
    llm = make_llm()
    due = {"brief": llm.invoke(QUESTION, preference=BRIEF), "plain": llm.invoke(QUESTION, preference=[])}
    assert due["brief"].text != due["plain"].text, "or the tests below prove nothing"
    return due


def check_plain(answer: AIMessage, due: dict[str, AIMessage], error: str) -> None:
    """The answer of a user without preferences, and a flag."""
    assert answer.text == due["plain"].text
    notes = answer.response_metadata["amulet"]
    assert notes.pop("store_error") == error
    assert {**answer.response_metadata, "amulet": notes or None} == {
        **due["plain"].response_metadata,
        "amulet": due["plain"].response_metadata.get("amulet"),
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


async def test_answer_under_way_is_finished_when_the_server_dies_and_next_ones_are_as_configured(scene, due, caplog):
    llm, plain = make_llm(memory=scene.memory), make_llm(memory=scene.memory, on_store_error="plain")
    cached = make_llm(memory=scene.cached)
    assert (await cached.ainvoke(QUESTION, ALICE)).text == due["brief"].text

    stream = llm.astream(QUESTION, ALICE)
    chunks = [await anext(stream)]
    scene.postgres.kill()
    chunks += [chunk async for chunk in stream]
    whole: AIMessageChunk = reduce(add, chunks)
    assert (whole.text, whole.response_metadata) == (due["brief"].text, due["brief"].response_metadata)

    with pytest.raises(psycopg.OperationalError):
        await llm.ainvoke(QUESTION, ALICE)
    answer = await plain.ainvoke(QUESTION, ALICE)
    check_plain(answer, due, "OperationalError")
    assert "could not be read (OperationalError)" in caplog.text
    assert "Be brief" not in caplog.text
    assert "alice" not in caplog.text

    answer = await cached.ainvoke(QUESTION, ALICE)
    assert answer.text == due["brief"].text
    assert answer.response_metadata["amulet"]["preferences_age_s"] > 0
    with pytest.raises(psycopg.OperationalError):
        await scene.memory.aremember("alice@example.com", "Be kind.")
    with pytest.raises(psycopg.OperationalError):  # who knows whether that was written?
        await cached.ainvoke(QUESTION, ALICE)


def test_preferences_outlive_the_server_and_pools_find_it_again(mortal):
    with PostgresStore.from_conn_string(mortal.uri, pool_config={"min_size": 1, "max_size": 2}) as store:
        memory = PreferenceMemory(store)
        memory.remember("alice@example.com", BRIEF)
        mortal.kill()
        with pytest.raises((psycopg.OperationalError, StoreTimeoutError)):
            memory.recall("alice@example.com")
        mortal.start_again()
        for _ in range(2):  # connections of before fail once
            with contextlib.suppress(psycopg.OperationalError):
                memory.recall("alice@example.com")
        assert memory.recall("alice@example.com") == [BRIEF]


# Stores that fail otherwise


class FailingStore(InMemoryStore):
    def batch(self, _ops):
        raise ConnectionError("Be brief. is what alice@example.com prefers")  # noqa: EM101, TRY003

    abatch = batch


@pytest.fixture
def failing() -> ChatAmulet:
    return make_llm(memory=FailingStore(), on_store_error="plain", preference="Answer in German.")


def test_store_error_is_the_callers_unless_they_have_chosen_a_plain_answer():
    llm = make_llm(memory=FailingStore())
    with pytest.raises(ConnectionError):
        llm.invoke(QUESTION, ALICE)
    with pytest.raises(ConnectionError):
        next(llm.stream(QUESTION, ALICE))
    assert llm.invoke(QUESTION).text == llm.invoke(QUESTION, ALICE, preference=[]).text


async def test_every_path_gives_a_plain_answer_with_a_warning_and_a_flag(failing, due, caplog):
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
        check_plain(answer, due, "ConnectionError")
    assert "could not be read (ConnectionError)" in caplog.text
    assert "brief" not in caplog.text
    assert "alice" not in caplog.text


def test_plain_answer_is_not_cached_for_those_who_have_chosen_none(failing, due, cache):
    failing.cache = cache
    failing.invoke(QUESTION, ALICE)
    healthy = make_llm(cache=cache, on_store_error="plain")
    assert "store_error" not in healthy.invoke(QUESTION, preference=[]).response_metadata.get("amulet", {})
    assert healthy.invoke(QUESTION, preference=[]).text == due["plain"].text


def test_wrong_user_id_is_an_error_all_the_same(failing):
    with pytest.raises(UserIdError, match="is empty"):
        failing.invoke(QUESTION, {"configurable": {"user_id": ""}})


def test_store_that_takes_too_long_has_failed(due):
    class Stuck(InMemoryStore):
        def batch(self, _ops):
            time.sleep(0.3)

    memory = PreferenceMemory(Stuck(), read_timeout=0.01)
    with pytest.raises(StoreTimeoutError):
        make_llm(memory=memory).invoke(QUESTION, ALICE)
    answer = make_llm(memory=memory, on_store_error="plain").invoke(QUESTION, ALICE)
    check_plain(answer, due, "StoreTimeoutError")


def test_answers_say_nothing_of_stores_that_work(due):
    memory = PreferenceMemory({"alice@example.com": BRIEF})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        answer = make_llm(memory=memory, on_store_error="plain").invoke(QUESTION, ALICE)
    assert (answer.text, answer.response_metadata) == (due["brief"].text, due["brief"].response_metadata)
