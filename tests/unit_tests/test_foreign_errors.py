"""Foreign errors become our own, and bring no text along."""

import gc
import traceback
from contextlib import suppress

import pytest

from langchain_amulet.exceptions import (
    EngineMemoryError,
    GenerationError,
    SchemaError,
    StoreConnectionError,
    StoreError,
    StoreTimeoutError,
    UnexpectedError,
)
from langchain_amulet.foreign_errors import failed_store, shielded, unexpected

SECRET = "I am diabetic."  # noqa: S105


class QuotingError(Exception):
    """An error that holds a text wherever it can."""

    def __init__(self) -> None:
        super().__init__(SECRET)
        self.doc = SECRET
        self.add_note(SECRET)
        self.__cause__ = KeyError(SECRET)


class Scenes:
    """A function of each kind that raises an error."""

    def __init__(self, error: BaseException) -> None:
        self.error = error

    @shielded(unexpected)
    def function(self):
        raise self.error

    @shielded(unexpected)
    async def coroutine(self):
        raise self.error

    @shielded(unexpected)
    def generator(self):
        yield 1
        raise self.error

    @shielded(unexpected)
    async def async_generator(self):
        yield 1
        raise self.error

    async def play(self, kind: str) -> None:
        match kind:
            case "function":
                self.function()
            case "coroutine":
                await self.coroutine()
            case "generator":
                list(self.generator())
            case "async_generator":
                assert [item async for item in self.async_generator()] == [1]


KINDS = ["function", "coroutine", "generator", "async_generator"]


def everything_of(error: BaseException | None) -> str:
    """All that an error and the errors behind it hold, except local variables."""
    if error is None:
        return ""
    held = [
        repr(error),
        str(error),
        repr(error.args),
        repr(getattr(error, "__dict__", "")),
        *getattr(error, "__notes__", []),
    ]
    return " ".join([*held, everything_of(error.__cause__), everything_of(error.__context__)])


@pytest.mark.parametrize("kind", KINDS)
async def test_foreign_error_becomes_ours_and_says_type_and_place_but_no_text(kind):
    with pytest.raises(UnexpectedError, match="failed with QuotingError") as caught:
        await Scenes(QuotingError()).play(kind)
    assert SECRET not in everything_of(caught.value) + "".join(traceback.format_exception(caught.value))
    [note] = caught.value.__notes__
    assert 'test_foreign_errors.py", line ' in note
    assert f", in {kind}" in note
    assert caught.value.__context__ is None


@pytest.mark.parametrize("kind", KINDS)
async def test_our_own_error_passes_without_the_foreign_ones_behind_it(kind):
    inner, outer = SchemaError("inner"), SchemaError("outer")
    outer.__cause__, inner.__context__ = inner, QuotingError()
    with pytest.raises(SchemaError, match="outer") as caught:
        await Scenes(outer).play(kind)
    assert caught.value is outer
    assert outer.__cause__ is inner
    assert SECRET not in everything_of(outer)
    assert "Caused by" in inner.__notes__[0]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(3)], ids=["interrupt", "exit"])
async def test_what_is_no_exception_passes(kind, error):
    with pytest.raises(type(error)) as caught:
        await Scenes(error).play(kind)
    assert caught.value is error


def test_cause_from_the_engine_is_kept():
    failure = GenerationError("The model failed")
    failure.__cause__ = RuntimeError("CUDA")
    with suppress(GenerationError):
        Scenes(failure).function()
    assert str(failure.__cause__) == "CUDA"


async def test_closing_a_shielded_stream_closes_what_is_behind_it():
    closed = []

    class Stream:
        @shielded(unexpected)
        def read(self):
            try:
                yield from range(3)
            finally:
                closed.append("sync")

        @shielded(unexpected)
        async def aread(self):
            try:
                for number in range(3):
                    yield number
            finally:
                closed.append("async")

    stream, astream = Stream().read(), Stream().aread()
    assert (next(stream), await anext(astream)) == (0, 0)
    stream.close()
    await astream.aclose()
    assert closed == ["sync", "async"]


@pytest.mark.parametrize(
    ("error", "ours", "told"),
    [
        (ConnectionRefusedError(111, SECRET), StoreConnectionError, "ConnectionRefusedError, errno 111"),
        (TimeoutError(SECRET), StoreTimeoutError, "TimeoutError"),
        (KeyError(SECRET), StoreError, "KeyError"),
    ],
)
def test_error_of_a_store_keeps_its_kind_and_code(error, ours, told):
    failure = failed_store(error)
    assert type(failure) is ours
    assert told in str(failure)
    assert SECRET not in everything_of(failure)


def test_missing_memory_stays_a_memory_error():
    with pytest.raises(EngineMemoryError):
        Scenes(MemoryError()).function()


def test_raised_error_leaves_no_cycle_behind():
    @shielded(unexpected)
    def fail():
        return dict[str, str]()["x"]

    gc.collect()
    gc.disable()
    try:
        with suppress(UnexpectedError):
            fail()
        assert gc.collect() == 0
    finally:
        gc.enable()
