"""Runs the layers of a model as compiled graphs while rows decode.

A layer is traced once and compiled once; all layers of the same structure share the graph, which takes their weights as
arguments. So compiling takes as long for a deep model as for a shallow one. Numbers of rows and lengths are symbols.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.func import functional_call
from transformers import PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer

from langchain_amulet.engine.runners.row_cache import RowCache

_PRIMES = (5, 7, 11, 13, 17, 19, 23, 29, 31, 37, 41, 43)
_SIMPLE = (bool, int, float, str, type(None))

Graph: TypeAlias = Callable[..., Any]
_Shape: TypeAlias = tuple[object, ...]


class CompiledLayers:
    """The layers of one model as compiled graphs.

    Args:
        model: A causal language model. It is unchanged outside `replacing`.
        cache: The rows of its runner.

    Raises:
        ValueError: The model's layers were not found, or may change between two steps.
    """

    def __init__(self, model: PreTrainedModel, cache: RowCache) -> None:
        self._cache = cache
        self._layers = _decoder_layers(model)
        self._kinds = _numbered([_structure(layer) for layer in self._layers])
        self._states = [[*layer.parameters(), *layer.buffers()] for layer in self._layers]
        self._graphs: dict[tuple[object, ...], Graph] = {}
        self.is_warming_up = True
        """Whether sizes are marked as symbols, which takes time at each call."""
        self.num_graphs = 0
        """Graphs compiled so far, those for other shapes included."""

    @contextmanager
    def replacing(self) -> Iterator[None]:
        """Within this context, the forward of each layer is a compiled graph."""
        try:
            for index, layer in enumerate(self._layers):
                layer.__dict__["forward"] = partial(self._run, index)
            yield
        finally:
            for layer in self._layers:
                layer.__dict__.pop("forward", None)

    def _run(self, index: int, *args: Any, **kwargs: Any) -> Any:
        """Run one layer on the rows that its part of the cache places."""
        if not any(value is self._cache for value in (*args, *kwargs.values())):  # another thread uses the model
            layer = self._layers[index]
            return type(layer).forward(layer, *args, **kwargs)
        shape, tensors = _flattened(args, kwargs, self._cache)
        rows = self._cache.placed(index)
        inputs = [*rows, *tensors, *self._states[index]]
        key = (self._kinds[index], shape)
        if key not in self._graphs:
            self._graphs[key] = self._with_inductor(self._traced(index, args, kwargs, inputs))
        if self.is_warming_up:
            _mark_symbols(inputs[: len(rows) + len(tensors)], *rows[0].shape[:3:2])
        return self._graphs[key](*inputs)

    def _traced(self, index: int, args: tuple[Any, ...], kwargs: dict[str, Any], inputs: Sequence[Tensor]) -> Graph:
        """Return the layer as a graph of operations on its inputs: rows of the cache, arguments and weights."""
        from torch.fx.experimental.proxy_tensor import make_fx  # imports sympy

        layer = self._layers[index]
        names = [name for name, _ in (*layer.named_parameters(), *layer.named_buffers())]

        def forward(*inputs: Tensor) -> Any:
            given = iter(inputs)
            rows = _TracedRows(next(given), next(given), next(given))
            new_args, new_kwargs = _rebuilt(args, kwargs, self._cache, rows, given)
            return functional_call(layer, dict(zip(names, given, strict=True)), new_args, new_kwargs)

        replaced = layer.__dict__.pop("forward")
        try:
            graph = make_fx(forward, tracing_mode="symbolic")(*_with_other_sizes(inputs, self._states[index]))
        finally:
            layer.__dict__["forward"] = replaced
        if any(node.op == "get_attr" for node in graph.graph.nodes):
            msg = "the layer holds tensors that are neither parameters nor buffers"
            raise ValueError(msg)
        return graph

    def _with_inductor(self, graph: Graph) -> Graph:
        from torch._inductor.compile_fx import compile_fx  # takes seconds

        def backend(traced: torch.fx.GraphModule, inputs: list[Tensor]) -> Any:
            self.num_graphs += 1
            return compile_fx(traced, inputs)

        compiled: Graph = torch.compile(graph, backend=backend, fullgraph=True)  # raises after 8 sets of shapes
        return compiled


class _TracedRows:
    """Stands for the cache of one layer while the layer is traced."""

    def __init__(self, keys: Tensor, values: Tensor, positions: Tensor) -> None:
        self._keys, self._values, self._positions = keys, values, positions
        self._rows = torch.arange(positions.shape[0], device=positions.device)

    def update(self, keys: Tensor, values: Tensor, *_args: Any, **_kwargs: Any) -> tuple[Tensor, Tensor]:
        """Write one token per row, `(B, H, 1, D)`, and return all that a row may attend to, `(B, H, span, D)`."""
        self._keys[self._rows, :, self._positions] = keys[:, :, 0]
        self._values[self._rows, :, self._positions] = values[:, :, 0]
        return self._keys, self._values


def _decoder_layers(model: PreTrainedModel) -> list[nn.Module]:
    layers: list[nn.Module] = [module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)]
    expected = model.config.get_text_config(decoder=True).num_hidden_layers
    if len(layers) != expected:
        msg = f"found {len(layers)} layers in place of {expected}"
        raise ValueError(msg)
    if getattr(model, "_hf_peft_config_loaded", False) or hasattr(model, "peft_config"):
        msg = "adapters may be switched between two steps"
        raise ValueError(msg)
    if any("forward" in vars(module) for module in model.modules()):
        msg = "the forward of a module was replaced, as hooks for several devices do"
        raise ValueError(msg)
    return layers


def _structure(layer: nn.Module) -> _Shape:
    """Return what decides which graph a layer has: its modules and their settings, and the shapes of its weights."""
    modules = tuple((name, type(module), _settings(module)) for name, module in layer.named_modules())
    tensors = (*layer.named_parameters(), *layer.named_buffers())
    return modules, tuple((name, tensor.shape, tensor.dtype, tensor.stride()) for name, tensor in tensors)


def _settings(module: nn.Module) -> _Shape:
    """Return the numbers and texts among its attributes, but not which layer it is."""
    simple = {name: value for name, value in vars(module).items() if isinstance(value, _SIMPLE)}
    return tuple(sorted((name, repr(value)) for name, value in simple.items() if name != "layer_idx"))


def _numbered(structures: Sequence[_Shape]) -> list[int]:
    distinct = [*dict.fromkeys(structures)]
    return [distinct.index(structure) for structure in structures]


def _flattened(args: tuple[Any, ...], kwargs: dict[str, Any], cache: RowCache) -> tuple[_Shape, list[Tensor]]:
    """Divide the arguments of a layer into tensors, and the shape of the rest, which is the same at every step."""
    tensors: list[Tensor] = []
    shape: list[object] = []
    for name, value in (*enumerate(args), *kwargs.items()):
        parts = value if isinstance(value, tuple) else (value,)
        found = [part for part in parts if isinstance(part, Tensor)]
        tensors += found
        if value is cache:
            shape.append((name, "cache"))
        elif found and len(found) == len(parts):
            shape.append((name, len(parts)))
        elif isinstance(value, _SIMPLE):
            shape.append((name, value))
        else:
            msg = f"the layer takes an argument {name} of type {type(value).__name__}"
            raise ValueError(msg)
    return tuple(shape), tensors


def _rebuilt(
    args: tuple[Any, ...], kwargs: dict[str, Any], cache: RowCache, rows: _TracedRows, tensors: Iterator[Tensor]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return the arguments with other tensors and other rows, in the order of `_flattened`."""

    def replaced(value: Any) -> Any:
        if value is cache:
            return rows
        if isinstance(value, tuple):
            return tuple(next(tensors) for _ in value)
        return next(tensors) if isinstance(value, Tensor) else value

    return tuple(map(replaced, args)), {name: replaced(value) for name, value in kwargs.items()}


def _with_other_sizes(inputs: Sequence[Tensor], states: Sequence[Tensor]) -> list[Tensor]:
    """Return inputs whose number of rows and span differ from all other sizes, as tracing takes equal sizes for one."""
    keys = inputs[0]
    taken = {*keys.shape[1::2], *(size for state in states for size in state.shape)}
    rows, span = [prime for prime in _PRIMES if prime not in taken][:2]

    def resized(tensor: Tensor) -> Tensor:
        shape = [*tensor.shape]
        for dim in _symbolic_dims(tensor, *keys.shape[:3:2]):
            shape[dim] = span if dim else rows
        if tensor.is_contiguous():
            return tensor.new_zeros(shape)
        shape[2] += 1
        return tensor.new_zeros(shape)[:, :, :-1]  # a part of each row, as in the cache

    return [*map(resized, inputs[: len(inputs) - len(states)]), *states]


def _mark_symbols(inputs: Sequence[Tensor], num_rows: int, span: int) -> None:
    """Mark the number of rows and the span as sizes that change from step to step."""
    from torch._dynamo import maybe_mark_dynamic  # takes seconds

    for tensor in inputs:
        for dim in _symbolic_dims(tensor, num_rows, span):
            maybe_mark_dynamic(tensor, dim)


def _symbolic_dims(tensor: Tensor, num_rows: int, span: int) -> list[int]:
    """Return the dimensions of an input of a layer that are rows, or positions in `(B, H, S, D)` or `(B, 1, 1, S)`."""
    first = [0] if tensor.shape[:1] == (num_rows,) else []
    return first + [dim for dim in range(2, tensor.dim()) if tensor.shape[dim] == span]
