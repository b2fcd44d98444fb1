"""The errors that requests end with when the model or the device fails."""

import traceback
from typing import TypeVar

from langchain_amulet.engine.sequence import Sequence
from langchain_amulet.exceptions import EngineMemoryError, GenerationError

_Failure = TypeVar("_Failure", bound=Exception)


def failure_of(error: BaseException) -> GenerationError:
    """The error for one of those whose answer it has ended: each has one to itself, with a traceback of its own."""
    failure = GenerationError(f"The model failed while it answered: {type(error).__name__}: {error}")
    return caused(failure, error)


def too_large(sequence: Sequence, error: BaseException) -> EngineMemoryError:
    """The error for a request that does not fit into memory even alone."""
    failure = EngineMemoryError(
        f"A request of {sequence.num_streams} streams and {sequence.num_tokens} tokens does not fit into the memory of "
        f"the device, with nothing else running. Shorten the conversation, or use fewer preferences."
    )
    return caused(failure, error)


def caused(failure: _Failure, error: BaseException) -> _Failure:
    """Chain the cause, with its traceback as text: frames would keep the tensors of the forward alive."""
    if error.__traceback__ is not None:
        error.add_note("".join(traceback.format_tb(error.__traceback__)))
        error.__traceback__ = None
    failure.__cause__ = error
    return failure
