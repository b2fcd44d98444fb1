"""The exceptions of langchain-amulet.

    AmuletError
    ├── InvalidParameterError (ValueError)      a parameter is outside its documented range
    ├── ShapeMismatchError (ValueError)         tensors of two streams have incompatible shapes
    ├── PreferenceError (TypeError)             a preference has the wrong type
    ├── UserIdError (ValueError)                a user id is missing, invalid, or not the authenticated one
    ├── StoreTypeError (TypeError)              a store has the wrong type, is read-only or async-only
    ├── StoreError (RuntimeError)               the store, or a function in its place, has raised an error
    │   └── StoreConnectionError (ConnectionError)  ... because it is not reachable
    ├── StoredPreferenceError (ValueError)      an item of the store cannot be read as a preference
    ├── StoreTimeoutError (TimeoutError)        the store did not respond in time
    ├── UnknownPreferenceError (LookupError)    the preference to change does not exist
    ├── ImportFormatError (ValueError)          data to import does not have the format of an export
    ├── DatasetError (ValueError)               a dataset is missing or cannot be read
    ├── RunError (RuntimeError)                 a folder holds a different evaluation, or a damaged one
    ├── MissingExtraError (ImportError)         an optional extra is not installed
    ├── MessageError (ValueError)               the chat template does not accept the messages
    ├── ModelLoadError (RuntimeError)           weights or tokenizer cannot be loaded
    │   ├── ModelNotFoundError                  ... because the model does not exist
    │   ├── ChatTemplateError                   ... because the tokenizer has no chat template
    │   └── UnsupportedModelError               ... because the engine does not support the architecture
    ├── ModelClosedError (RuntimeError)         the model is used after close()
    ├── EngineBusyError (RuntimeError)          the engine's queue is full
    ├── EngineMemoryError (MemoryError)         one request needs more memory than is available
    ├── GenerationError (RuntimeError)          the model failed during generation
    ├── NumericalError (ArithmeticError)        logits are NaN, or a log-probability is not finite
    ├── ToolError (ValueError)                  a tool or a tool choice cannot be bound
    ├── SchemaError (ValueError)                a schema is unsupported or unsatisfiable
    ├── MaxTokensError (ValueError)             structured output cannot end within max_tokens
    ├── GrammarError (RuntimeError)             a grammar became too complex during generation
    ├── GenerationTimeoutError (TimeoutError)   an answer took longer than its timeout
    ├── ContextLengthError                      a prompt is longer than the model's context
    └── UnexpectedError (RuntimeError)          an error that the package did not foresee

Each class also inherits from the built-in or LangChain error that it specialises, so existing handlers keep working::

    try:
        answer = llm.invoke(question)
    except AmuletError as error:
        print(error)  # what was found, what is allowed, what to do

Every error that langchain-amulet causes or meets is one of these. Neither their messages nor their causes, contexts,
notes and attributes quote preferences: where a foreign error is behind one, a note says its type and its place in the
code, and the error itself is kept only if it comes from loading a model or from the engine, which see no text.

These are not converted:

- pydantic's `ValidationError` for invalid fields of `ChatAmulet`, with the same message and without the input;
- Python's `TypeError` for a call with missing or unknown parameters;
- errors of your own code that LangChain calls: callbacks, response caches, rate limiters, runnables around the model;
- what is no `Exception`: `KeyboardInterrupt`, `SystemExit`, `asyncio.CancelledError`.
"""

from langchain_core.exceptions import ContextOverflowError, ModelTimeoutError
from langchain_core.exceptions import ModelNotFoundError as LangChainModelNotFoundError


class AmuletError(Exception):
    """Base class of all exceptions of langchain-amulet."""


class InvalidParameterError(AmuletError, ValueError):
    """A parameter is outside its documented range."""


class ShapeMismatchError(AmuletError, ValueError):
    """Two tensors have incompatible shapes."""


class PreferenceError(AmuletError, TypeError):
    """A preference is not a string, a `Preference`, a sequence of these, or `None`; or a field has the wrong type."""


class UserIdError(AmuletError, ValueError):
    """A user id is missing, empty, not a string, or differs from the authenticated user."""


class StoreTypeError(AmuletError, TypeError):
    """A store has the wrong type, is read-only, or supports async callers only."""


class StoredPreferenceError(AmuletError, ValueError):
    """An item in the store cannot be read as a preference."""


class StoreTimeoutError(AmuletError, TimeoutError):
    """The store of preferences did not respond in time."""


class StoreError(AmuletError, RuntimeError):
    """The store of preferences, or the function in its place, has raised an error."""

    kind: str = "StoreError"
    """The name of the original error's type."""


class StoreConnectionError(StoreError, ConnectionError):
    """The store of preferences is not reachable."""


class UnknownPreferenceError(AmuletError, LookupError):
    """The preference to change does not exist."""


class ImportFormatError(AmuletError, ValueError):
    """The data to import does not have the format that `PreferenceMemory` exports."""


class DatasetError(AmuletError, ValueError):
    """A dataset is missing, or one of its lines is malformed, empty or a duplicate."""


class RunError(AmuletError, RuntimeError):
    """A folder holds an evaluation with other settings, or one of its files is damaged."""


class MissingExtraError(AmuletError, ImportError):
    """A feature needs an optional extra that is not installed."""


class MessageError(AmuletError, ValueError):
    """The chat template does not accept these messages."""


class ModelLoadError(AmuletError, RuntimeError):
    """A model or its tokenizer could not be loaded."""


class ModelNotFoundError(ModelLoadError, LangChainModelNotFoundError):
    """The model does not exist, locally or on the hub."""


class ChatTemplateError(ModelLoadError):
    """The tokenizer has no chat template, so messages cannot be turned into a prompt."""


class UnsupportedModelError(ModelLoadError):
    """The engine does not support this architecture or attention implementation."""


class ModelClosedError(AmuletError, RuntimeError):
    """The model was used after `close()`."""


class EngineBusyError(AmuletError, RuntimeError):
    """The engine's queue is full, and its config says to refuse requests rather than wait."""


class EngineMemoryError(AmuletError, MemoryError):
    """A single request needs more memory than is available."""


class GenerationError(AmuletError, RuntimeError):
    """The model failed during generation; the cause is chained."""


class NumericalError(AmuletError, ArithmeticError):
    """The model's logits are NaN, no token has a finite logit, or a response has no finite log-probability."""


class ContextLengthError(AmuletError, ContextOverflowError):
    """The prompt is longer than the model's context."""


class ToolError(AmuletError, ValueError):
    """A tool or a tool choice cannot be bound."""


class SchemaError(AmuletError, ValueError):
    """A schema is invalid, has parts that the grammar cannot enforce, or no value satisfies it."""


class MaxTokensError(AmuletError, ValueError):
    """Structured output cannot be complete within `max_tokens`."""


class GrammarError(AmuletError, RuntimeError):
    """A grammar became too complex during generation."""


class GenerationTimeoutError(AmuletError, ModelTimeoutError, TimeoutError):
    """An answer was not complete within its `timeout`."""


class UnexpectedError(AmuletError, RuntimeError):
    """The package met an error that it did not foresee; the notes say which, and where."""
