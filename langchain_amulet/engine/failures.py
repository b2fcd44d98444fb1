"""The errors with which requests end when the model or the device fails."""

import traceback
from typing import TypeVar

from langchain_amulet.engine.sequence import Sequence
from langchain_amulet.exceptions import EngineMemoryError, GenerationError, ModelClosedError

_Failure = TypeVar("_Failure", bound=Exception)


def failure_of(error: BaseException) -> GenerationError:
    """Return the error for one request. Each request needs its own object, since raising it adds a traceback."""
    failure = GenerationError(f"The model failed while it answered: {type(error).__name__}: {error}")
    return caused(failure, error)


def too_large(sequence: Sequence, error: BaseException) -> EngineMemoryError:
    """Return the error for a request that does not fit into memory even alone."""
    failure = EngineMemoryError(
        f"A request of {sequence.num_streams} streams and {sequence.num_tokens} tokens does not fit into the memory of "
        f"the device, with nothing else running. Shorten the conversation, or use fewer preferences."
    )
    return caused(failure, error)


def caused(failure: _Failure, error: BaseException) -> _Failure:
    """Set the cause of a failure, with its traceback as text: frames would keep the tensors of the forward alive."""
    if error.__traceback__ is not None:
        error.add_note("".join(traceback.format_tb(error.__traceback__)))
        error.__traceback__ = None
    failure.__cause__ = error
    return failure


def forked_engine() -> ModelClosedError:
    """Return the error of an answer that was begun before the process was forked."""
    return ModelClosedError(
        "This process was forked from the one whose engine runs the answer, so it cannot read on. Load the model "
        "again, and start a new answer: a ChatAmulet does both at its next call."
    )


def closed_engine(error: BaseException | None) -> ModelClosedError:
    """Return the error of a closed engine; `error` is what closed it, if it was not closed by its owner."""
    if error is None:
        return ModelClosedError("The engine is closed. Load the model again.")
    if isinstance(error, ModelClosedError):
        return ModelClosedError(str(error))
    closed = ModelClosedError(
        f"The engine has closed itself after {type(error).__name__}: {error}. Load the model again."
    )
    closed.__cause__ = error
    return closed
