"""Converts foreign errors at the edge of the package to its own, without the texts that they quote.

`@shielded(...)` decorates the functions of the public surface: plain ones, coroutine functions, generators and async
generators. Messages, attributes and causes of foreign errors may quote preferences (a JSON error holds the document, a
database error the row). So an error that leaves the package says in its notes only the type of the foreign error and
where it was raised.
"""

import functools
import inspect
import traceback
from collections.abc import Callable
from contextlib import aclosing
from types import TracebackType
from typing import Any, TypeVar, cast

from langchain_amulet.exceptions import (
    AmuletError,
    EngineMemoryError,
    GenerationError,
    InvalidParameterError,
    MessageError,
    ModelClosedError,
    ModelLoadError,
    StoreConnectionError,
    StoreError,
    StoreTimeoutError,
    UnexpectedError,
)

_Function = TypeVar("_Function", bound=Callable[..., Any])
_Convert = Callable[[Exception], AmuletError]

# Weights load, and the engine runs, without any text: what made them fail is kept.
_WITH_CAUSE = (ModelLoadError, GenerationError, EngineMemoryError, ModelClosedError)
_CODES = ("errno", "sqlstate", "sqlite_errorname")  # of the errors of operating system, PostgreSQL and SQLite


def shielded(convert: _Convert) -> Callable[[_Function], _Function]:
    """Return a decorator that lets errors of this package through, and converts all others.

    What is no `Exception`, such as `KeyboardInterrupt` or the cancellation of a task, passes unchanged.

    Args:
        convert: Returns the error to raise in place of a foreign one, such as `unexpected`.
    """

    def decorate(function: _Function) -> _Function:
        wrap = next(wrap for is_kind, wrap in _WRAPPERS if is_kind(function))
        return cast("_Function", functools.wraps(function)(wrap(function, convert)))

    return decorate


# An error is raised after the `except` block, so that Python does not chain it to the foreign one; and from a list, so
# that no local variable of a frame in its traceback holds it: such a cycle would keep all that the frames hold.


def _function(function: Callable[..., Any], convert: _Convert) -> Callable[..., Any]:
    def shield(*args: Any, **kwargs: Any) -> Any:
        try:
            return function(*args, **kwargs)
        except Exception as error:  # noqa: BLE001 - any foreign one
            failures = [_own(error, convert)]
        raise failures.pop()

    return shield


def _coroutine(function: Callable[..., Any], convert: _Convert) -> Callable[..., Any]:
    async def shield(*args: Any, **kwargs: Any) -> Any:
        try:
            return await function(*args, **kwargs)
        except Exception as error:  # noqa: BLE001
            failures = [_own(error, convert)]
        raise failures.pop()

    return shield


def _generator(function: Callable[..., Any], convert: _Convert) -> Callable[..., Any]:
    def shield(*args: Any, **kwargs: Any) -> Any:
        try:
            return (yield from function(*args, **kwargs))
        except Exception as error:  # noqa: BLE001
            failures = [_own(error, convert)]
        raise failures.pop()

    return shield


def _async_generator(function: Callable[..., Any], convert: _Convert) -> Callable[..., Any]:
    async def shield(*args: Any, **kwargs: Any) -> Any:
        try:
            async with aclosing(function(*args, **kwargs)) as items:
                async for item in items:
                    yield item
        except Exception as error:  # noqa: BLE001
            failures = [_own(error, convert)]
        else:
            return
        raise failures.pop()

    return shield


_WRAPPERS: tuple[tuple[Callable[[Any], bool], Callable[..., Any]], ...] = (
    (inspect.isasyncgenfunction, _async_generator),
    (inspect.iscoroutinefunction, _coroutine),
    (inspect.isgeneratorfunction, _generator),
    (callable, _function),
)


def unexpected(error: Exception) -> AmuletError:
    """Return the error for a foreign one that the package did not foresee."""
    kind = type(error).__name__
    if isinstance(error, MemoryError):
        return EngineMemoryError("There is not enough memory for this call. Shorten the conversation or the schema.")
    return UnexpectedError(
        f"langchain-amulet failed with {kind}, which it did not expect. Check the arguments of the call; if they are "
        "right, report this error with its notes, which say where it was. The text of the original error is left out, "
        "since it may quote private text."
    )


def failed_rendering(error: Exception) -> AmuletError:
    """Return the error for one that was raised while messages, tools and preferences became a prompt."""
    return MessageError(
        f"The messages, tools or chat_template_kwargs cannot be written as a prompt: {type(error).__name__}. The notes "
        "of this error say where. Tool calls must have arguments that JSON can represent, nested less than 100 deep."
    )


def failed_input(error: Exception) -> AmuletError:
    """Return the error for one that LangChain raised when it converted the input of a call to messages."""
    return MessageError(
        f"The input cannot be converted to messages: {type(error).__name__}. Pass a string, a prompt value, or a list "
        'of messages such as HumanMessage("..."), ("human", "...") or {"role": "user", "content": "..."}.'
    )


def failed_load(error: Exception) -> AmuletError:
    """Return the error for one that was raised while a model was loaded. It keeps its text: no preference is near."""
    failure = ModelLoadError(f"The model cannot be loaded: {type(error).__name__}: {error}. Check model_kwargs.")
    failure.__cause__ = error
    return failure


def failed_config(error: Exception) -> AmuletError:
    """Return the error for one that LangChain raised when it read the config of a call."""
    return InvalidParameterError(
        f"The config is not one that LangChain accepts: {type(error).__name__}. Pass a dict such as "
        '{"configurable": {"user_id": "alice"}}, or for a batch one such dict per input.'
    )


def failed_store(error: Exception) -> AmuletError:
    """Return the error for one that a store of preferences, or a function in its place, has raised."""
    kind = type(error).__name__
    found = [(name, getattr(link, name, None)) for link in (error, error.__cause__) for name in _CODES]
    codes = "".join(f", {name} {code}" for name, code in dict.fromkeys(found) if code is not None)
    msg = (
        f"The store of preferences failed with {kind}{codes}; the notes of this error say where. The text of the "
        "original error is left out, since it may quote preferences. To answer without preferences when they cannot be "
        'read, set ChatAmulet(on_store_error="plain").'
    )
    if isinstance(error, TimeoutError):
        return StoreTimeoutError(msg)
    failure = StoreConnectionError(msg) if isinstance(error, ConnectionError) else StoreError(msg)
    failure.kind = kind
    return failure


def _own(error: Exception, convert: _Convert) -> Exception:
    if isinstance(error, TypeError) and error.__traceback__ is not None and error.__traceback__.tb_next is None:
        return error  # the function was called with other parameters than it has
    if isinstance(error, AmuletError):
        return _without_foreign_causes(error)
    own = convert(error)
    own.add_note(_origin(error))
    return own


def _without_foreign_causes(error: AmuletError) -> AmuletError:
    """Replace foreign errors in the chain of an error by notes, in place."""
    if isinstance(error, _WITH_CAUSE):
        return error
    cause, context, is_suppressed = error.__cause__, error.__context__, error.__suppress_context__
    for link in dict.fromkeys((cause, context)):
        if isinstance(link, AmuletError):
            _without_foreign_causes(link)
        elif isinstance(link, Exception):
            error.add_note(_origin(link))
    error.__cause__ = cause if isinstance(cause, AmuletError) else None
    error.__context__ = context if isinstance(context, AmuletError) else None
    error.__suppress_context__ = is_suppressed
    return error


def _origin(error: Exception) -> str:
    """Return the type of an error and where it was raised, without its text and without lines of source code."""
    return f"Caused by {type(error).__module__}.{type(error).__qualname__}:\n{_places(error.__traceback__)}"


def _places(trace: TracebackType | None) -> str:
    frames = [(frame.f_code, line) for frame, line in traceback.walk_tb(trace)]
    return "\n".join(f'  File "{code.co_filename}", line {line}, in {code.co_name}' for code, line in frames)
