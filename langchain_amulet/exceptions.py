"""Every error that langchain-amulet raises on purpose.

    AmuletError
    ├── InvalidParameterError (ValueError)      a number or setting outside its range
    ├── ShapeMismatchError (ValueError)         tensors of two streams that do not fit together
    ├── PreferenceError (TypeError)             something that is no preference
    ├── UserIdError (ValueError)                a user id that is missing, empty or contradicted
    ├── StoreTypeError (TypeError)              something that is no store, or is only to be read
    ├── StoredPreferenceError (ValueError)      a store item that cannot be read as a preference
    ├── StoreTimeoutError (TimeoutError)        a store that takes too long
    ├── UnknownPreferenceError (LookupError)    a preference to change that is not there
    ├── ImportFormatError (ValueError)          something to import that was never exported
    ├── DatasetError (ValueError)               questions that cannot be read, or are not there
    ├── RunError (RuntimeError)                 a folder that holds another evaluation, or a damaged one
    ├── MissingExtraError (ImportError)         a part of the package whose optional extra is not installed
    ├── MessageError (ValueError)               messages that the chat template cannot take
    ├── ModelLoadError (RuntimeError)           weights or tokenizer that cannot be loaded
    │   ├── ModelNotFoundError                  ... because there is no such model
    │   ├── ChatTemplateError                   ... because the tokenizer has no chat template
    │   └── UnsupportedModelError               ... because the engine cannot decode this architecture
    ├── ModelClosedError (RuntimeError)         a model used after close()
    ├── EngineBusyError (RuntimeError)          more requests at once than the engine's queue holds
    ├── EngineMemoryError (MemoryError)         a request too large for the memory that there is
    ├── GenerationError (RuntimeError)          the model itself failed while it answered
    ├── NumericalError (ArithmeticError)        the model's logits are not numbers
    ├── ToolError (ValueError)                  a tool, or a choice of tools, that cannot be bound
    ├── SchemaError (ValueError)                a schema that cannot be followed, or that nothing satisfies
    ├── MaxTokensError (ValueError)             a structure that cannot end within max_tokens
    ├── GrammarError (RuntimeError)             a grammar that grew too complex while it was followed
    ├── GenerationTimeoutError (TimeoutError)   an answer that took longer than its timeout
    └── ContextLengthError                      a prompt longer than the model's context

Each child also inherits the built-in or LangChain error that it refines, so existing handlers keep working::

    try:
        answer = llm.invoke(question)
    except AmuletError as error:
        print(error)  # what was found, what is allowed, what to do

Fields of `ChatAmulet` that pydantic refuses arrive as its `ValidationError`, with the same message.
"""

from langchain_core.exceptions import ContextOverflowError, ModelTimeoutError
from langchain_core.exceptions import ModelNotFoundError as LangChainModelNotFoundError


class AmuletError(Exception):
    """Base of every error raised by langchain-amulet."""


class InvalidParameterError(AmuletError, ValueError):
    """A parameter is outside the range that it documents."""


class ShapeMismatchError(AmuletError, ValueError):
    """Two tensors that belong together do not fit together."""


class PreferenceError(AmuletError, TypeError):
    """Something was given as a preference that is none."""


class UserIdError(AmuletError, ValueError):
    """A user id is empty, not a string, or contradicts the authenticated one."""


class StoreTypeError(AmuletError, TypeError):
    """What was given as a store is none; or it can only be read, or only be asked by async callers."""


class StoredPreferenceError(AmuletError, ValueError):
    """An item in the store cannot be read as a preference."""


class StoreTimeoutError(AmuletError, TimeoutError):
    """The store of preferences has not answered in time."""


class UnknownPreferenceError(AmuletError, LookupError):
    """A preference that was to be changed is not there."""


class ImportFormatError(AmuletError, ValueError):
    """What was to be imported is nothing that a memory has exported."""


class DatasetError(AmuletError, ValueError):
    """A dataset is not there, or a line of it is broken, empty or there twice."""


class RunError(AmuletError, RuntimeError):
    """A folder holds an evaluation of another kind, or a file of it is damaged."""


class MissingExtraError(AmuletError, ImportError):
    """A part of the package needs an optional extra that is not installed."""


class MessageError(AmuletError, ValueError):
    """The chat template cannot take these messages."""


class ModelLoadError(AmuletError, RuntimeError):
    """A model or its tokenizer could not be loaded."""


class ModelNotFoundError(ModelLoadError, LangChainModelNotFoundError):
    """There is no model under this name."""


class ChatTemplateError(ModelLoadError):
    """The tokenizer has no chat template, so messages cannot be turned into a prompt."""


class UnsupportedModelError(ModelLoadError):
    """The engine cannot decode this architecture or attention implementation."""


class ModelClosedError(AmuletError, RuntimeError):
    """The model was used after `close()`."""


class EngineBusyError(AmuletError, RuntimeError):
    """The engine's queue is full, and it is configured to say so."""


class EngineMemoryError(AmuletError, MemoryError):
    """One request alone takes more memory than there is."""


class GenerationError(AmuletError, RuntimeError):
    """The model failed while it answered; the cause is chained."""


class NumericalError(AmuletError, ArithmeticError):
    """The model's logits are NaN or leave no token to choose."""


class ContextLengthError(AmuletError, ContextOverflowError):
    """The prompt does not fit into the model's context."""


class ToolError(AmuletError, ValueError):
    """A tool, or a choice of tools, cannot be bound."""


class SchemaError(AmuletError, ValueError):
    """A schema cannot be followed, or nothing satisfies it."""


class MaxTokensError(AmuletError, ValueError):
    """The structure that was asked for cannot end within `max_tokens`."""


class GrammarError(AmuletError, RuntimeError):
    """A grammar has become too complex to follow."""


class GenerationTimeoutError(AmuletError, ModelTimeoutError, TimeoutError):
    """An answer was not complete within its `timeout`."""
