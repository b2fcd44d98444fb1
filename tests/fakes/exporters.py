"""The ways in which observability clients turn what callbacks receive into text, and one that looks at everything.

Clients that are no dependency of the tests are written down here by what they do; each function says whose way it is.
"""

import contextlib
import copy
import dataclasses
import gc
import io
import json
import pickle
import types
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from langchain_core.load import dumps
from langsmith._internal._serde import dumps_json
from pydantic import BaseModel

MOST_OBJECTS = 20_000
MOST_DEPTH = 12
# Where the way leads out of what a callback was given, into all of the process.
_DOORS = (
    type,
    types.ModuleType,
    types.FunctionType,
    types.BuiltinFunctionType,
    types.MethodType,
    types.FrameType,
    types.TracebackType,
    types.CodeType,
)


def langsmith_json(seen: Any) -> str:
    """LangSmith's serialiser, as its client uses it."""
    return dumps_json(seen).decode(errors="replace")


def json_by_str(seen: Any) -> str:
    """`json.dumps(..., default=str)`: home-made loggers, OpenLLMetry."""
    return json.dumps(_string_keys(seen), default=str)


def json_by_repr(seen: Any) -> str:
    """`repr` of what JSON does not have: Sentry, Python's logging of dicts."""
    return json.dumps(_string_keys(seen), default=repr)


def json_by_dict(seen: Any) -> str:
    """`vars` of what JSON does not have, else `str`: OpenInference, MLflow."""

    def default(value: Any) -> Any:
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
        return {**vars(value)} if hasattr(value, "__dict__") and not callable(value) else str(value)

    return _unless_circular(lambda: json.dumps(_string_keys(seen), default=default), seen)


def attributes(seen: Any) -> str:
    """Fields of pydantic models, `__slots__`, `__dict__`, in that order and in depth: Langfuse, Datadog."""
    found: list[str] = []
    _walk_attributes(seen, found, {}, 0)
    return "\n".join(found)


def _walk_attributes(value: Any, found: list[str], known: dict[int, Any], depth: int) -> None:
    if id(value) in known or depth > MOST_DEPTH or isinstance(value, _DOORS) or len(known) > MOST_OBJECTS:
        return
    known[id(value)] = value  # held, so that no other object gets its id
    if isinstance(value, str | bytes):
        found.append(value if isinstance(value, str) else value.decode(errors="replace"))
        return
    children = _children(value)
    if not children:
        found.append(repr(value)[:10_000])
    for child in children:
        _walk_attributes(child, found, known, depth + 1)


def _children(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return [*value.keys(), *value.values()]
    if isinstance(value, list | tuple | set | frozenset):
        return [*value]
    slots = [name for kind in type(value).__mro__ for name in _names(getattr(kind, "__slots__", ()))]
    kept = [getattr(value, name, None) for name in slots if not name.startswith("__")]
    return [*kept, *getattr(value, "__dict__", {}).values()]


def _names(slots: Any) -> tuple[str, ...]:
    return (slots,) if isinstance(slots, str) else tuple(slots)


def public_properties(seen: Any) -> str:
    """`dir` and `getattr` of the objects in call arguments, properties included: rich's inspect, debuggers' watches."""
    shown = [(value, name) for value in _foreign(seen) for name in dir(value) if not name.startswith("_")]
    return "\n".join(repr(_get(value, name)) for value, name in shown)


def _get(value: Any, name: str) -> Any:
    try:
        return getattr(value, name)
    except Exception as error:  # noqa: BLE001 - a property may raise anything
        return error


def _foreign(seen: Any, depth: int = 0) -> Iterator[Any]:
    """Yield this package's objects within dicts, lists and messages."""
    if depth > MOST_DEPTH:
        return
    if type(seen).__module__.startswith("langchain_amulet"):
        yield seen
    elif isinstance(seen, dict | list | tuple):
        for child in _children(seen):
            yield from _foreign(child, depth + 1)


def pickles(seen: Any) -> str:
    """Pickle: queues to other processes, checkpoints, disk caches. What cannot be pickled is left out, piece by piece."""
    return "\n".join(_pickled(piece) for piece in _pieces(seen))


def _pickled(piece: Any) -> str:
    file = io.BytesIO()
    with contextlib.suppress(Exception):  # whatever was written until then is looked at
        pickle.Pickler(file, protocol=2).dump(piece)
    return file.getvalue().decode(errors="replace")


def reductions(seen: Any) -> str:
    """What `__reduce_ex__` and `__getstate__` give: jsonpickle, dill, joblib."""
    found = []
    for value in _foreign(seen):
        with_state = [lambda value=value: value.__reduce_ex__(4), lambda value=value: value.__getstate__()]
        found += [attributes(_call(make)) for make in with_state]
    return "\n".join(found)


def deep_copies(seen: Any) -> str:
    """Copies, which LangGraph's and Langfuse's clients make before they serialise in another thread."""
    return "\n".join(attributes(_call(partial(copy.deepcopy, value))) for value in _foreign(seen))


def _call(make: Callable[[], Any]) -> Any:
    try:
        return make()
    except Exception as error:  # noqa: BLE001 - refusing to be copied is no leak
        return str(error)


def referents(seen: Any) -> str:
    """Every string that the garbage collector reaches, except through classes, functions and modules: heap dumps."""
    found, waiting = list[str](), [seen]
    known: dict[int, Any] = {}
    while waiting and len(known) < MOST_OBJECTS:
        value = waiting.pop()
        if id(value) in known or isinstance(value, _DOORS):
            continue
        known[id(value)] = value
        if isinstance(value, str):
            found.append(value)
        elif not type(value).__module__.startswith(("torch", "transformers", "threading", "asyncio", "_thread")):
            waiting += gc.get_referents(value)
    return "\n".join(found)


def _pieces(seen: Any, depth: int = 0) -> Iterator[Any]:
    if isinstance(seen, dict | list | tuple) and depth < 4:
        for child in _children(seen):
            yield from _pieces(child, depth + 1)
    else:
        yield seen


def _string_keys(seen: Any) -> Any:
    if isinstance(seen, dict):
        return {str(key): _string_keys(value) for key, value in seen.items()}
    if isinstance(seen, list | tuple):
        return [_string_keys(value) for value in seen]
    return seen.model_dump() if isinstance(seen, BaseModel) else seen


def _unless_circular(make: Callable[[], str], seen: Any) -> str:
    try:
        return make()
    except (ValueError, TypeError, RecursionError):
        return str(seen)


EXPORTERS: dict[str, Callable[[Any], str]] = {
    "repr": repr,
    "LangChain": dumps,
    "LangSmith": langsmith_json,
    "JSON by str": json_by_str,
    "JSON by repr": json_by_repr,
    "JSON by dict": json_by_dict,
    "attributes": attributes,
    "properties": public_properties,
    "pickle": pickles,
    "reductions": reductions,
    "copies": deep_copies,
    "referents": referents,
}
