"""Faults that a test injects into the forwards, draws and rows of an engine."""

import contextlib
import functools
import threading
from collections import Counter
from collections.abc import Iterator
from typing import Any, NamedTuple
from unittest import mock

import torch
from hypothesis import strategies as st
from torch import Tensor, nn
from transformers import PreTrainedModel

from langchain_amulet import ChatAmulet
from langchain_amulet.engine import batch
from langchain_amulet.exceptions import (
    EngineMemoryError,
    GenerationError,
    ModelClosedError,
    ModelLoadError,
    NumericalError,
)
from tests.fakes.figures import count

PERMITTED = (GenerationError, EngineMemoryError, ModelClosedError, ModelLoadError, NumericalError)
"""The errors with which answers may end while faults are injected."""
_SHORTAGES: dict[str, type[Exception]] = {"no memory": torch.OutOfMemoryError, "no host memory": MemoryError}
_PLACES = ("begin", "middle", "end", "draw", "draw", "draw", "reserve", "save", "load")
_calls = st.integers(0, 4) | st.integers(0, 20)


class WorkerKilledError(BaseException):
    """Ends the engine's worker thread, as `SystemExit` would."""


class Fault(NamedTuple):
    """One failure of one place."""

    place: str
    call: int
    """At which call of the place, counted from 0."""
    kind: str

    def strike(self) -> None:
        """Raise the error of this kind."""
        if self.kind == "error":
            msg = "an injected fault"
            raise ValueError(msg)
        if self.kind == "killed":
            raise WorkerKilledError
        msg = "an injected fault"
        raise _SHORTAGES[self.kind](msg)


fault_plans = st.lists(
    st.builds(
        Fault,
        st.sampled_from(_PLACES),
        _calls,
        st.sampled_from(["error", "error", "no memory", "no memory", "no host memory", "killed"]),
    )
    | st.builds(Fault, st.sampled_from(["logits", "values"]), _calls, st.just("nan")),
    min_size=1,
    max_size=4,
)


class Injector:
    """Counts the calls of each place, and lets the planned ones fail."""

    def __init__(self, plan: list[Fault]) -> None:
        self._plan = plan
        self._calls: Counter[str] = Counter()

    def pass_by(self, place: str) -> bool:
        """Raise if a fault is planned here; return whether numbers are to be NaN.

        While a model is tried for a new engine in the place of a dead one, only memory can be short.
        """
        number = self._calls[place]
        self._calls[place] += 1
        due = [fault for fault in self._plan if (fault.place, fault.call) == (place, number)]
        if threading.current_thread().name != "amulet-engine":
            due = [fault for fault in due if fault.kind in _SHORTAGES]
        count("faults injected", len(due))
        for fault in due:
            if fault.kind == "nan":
                return True
            fault.strike()
        return False


@contextlib.contextmanager
def injected(llm: ChatAmulet, plan: list[Fault]) -> Iterator[Injector]:
    """Let the places of a plan fail while the context is open."""
    injector = Injector(plan)
    hooks = [
        module.register_forward_pre_hook(functools.partial(_before, injector, place))
        for place, module in _modules(llm.load().model).items()
    ]
    model = llm.load().model
    for place, module in (("logits", model.get_output_embeddings()), ("values", model.get_input_embeddings())):
        hooks.append(module.register_forward_hook(functools.partial(_spoilt, injector, place)))
    with contextlib.ExitStack() as stack:
        stack.enter_context(_patched(batch, "sample", "draw", injector))
        for name in ("reserve", "save", "load"):
            stack.enter_context(_patched(llm.engine._runner, name, name, injector))
        yield injector
    for hook in hooks:
        hook.remove()


def _modules(model: PreTrainedModel) -> dict[str, nn.Module]:
    """Return where a forward fails: before it has written any keys and values, half of them, or all."""
    layers = next(module for module in model.modules() if isinstance(module, nn.ModuleList))
    return {"begin": model.get_input_embeddings(), "middle": layers[-1], "end": model.get_output_embeddings()}


def _before(injector: Injector, place: str, *_inputs: object) -> None:
    """Fail before a module is called."""
    injector.pass_by(place)


def _spoilt(injector: Injector, place: str, _module: nn.Module, _inputs: object, output: Tensor) -> Tensor | None:
    """Make the logits of the first row NaN, or all its keys and values from now on, if that is planned."""
    if not injector.pass_by(place):
        return None
    spoilt = output.clone()
    spoilt[:1] = torch.nan
    return spoilt


def _patched(owner: Any, name: str, place: str, injector: Injector) -> contextlib.AbstractContextManager[Any]:
    original = getattr(owner, name)

    def faulty(*args: Any, **kwargs: Any) -> Any:
        injector.pass_by(place)
        return original(*args, **kwargs)

    return mock.patch.object(owner, name, faulty)
