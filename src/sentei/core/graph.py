"""A Functional or Sequential model as plain data: which operation reads which tensors.

Read through `get_config`, which is public and says all of it; nested models are opened, so that a
tensor can be followed across their borders.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import keras

from sentei.core.errors import UnsupportedModel


@dataclass(frozen=True)
class Tensor:
    """A tensor of the graph: an output of a node.

    Attributes:
        node: The node's index.
        output: Which of its outputs.
    """

    node: int
    output: int = 0


@dataclass
class Node:
    """One call of one operation.

    Invariant: every tensor in `args` and `kwargs` belongs to a node before this one.

    Attributes:
        index: Its position in the graph.
        name: Unique in the graph: names of the models around it and the operation's own; a second
            call of a shared layer has `":1"` at its end.
        operation: The Keras layer, or the operation of `keras.ops`; None for an input.
        args: What it is called with; tensors of the graph stand where Keras' tensors stood.
        kwargs: The same by name.
        dtype: The dtype of its first output, where the config tells it.
        shape: The shape of its first output, where the config tells it.
        arity: How many outputs others read, at least 1.
    """

    index: int
    name: str
    operation: Any
    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = field(default_factory=dict)
    dtype: str | None = None
    shape: tuple[int | None, ...] | None = None
    arity: int = 1

    @property
    def inputs(self) -> list[Tensor]:
        """The tensors it reads, in order."""
        return list(tensors_in((self.args, self.kwargs)))


@dataclass
class Graph:
    """The nodes of a model in an order in which they can run.

    Attributes:
        nodes: All of them; `nodes[i].index == i`.
        inputs: The structure of the model's inputs, with tensors as leaves.
        outputs: The structure of its outputs.
    """

    nodes: list[Node]
    inputs: Any
    outputs: Any

    def consumers(self) -> dict[Tensor, list[Node]]:
        """The nodes that read each tensor; those that are read by none are left out."""
        found: dict[Tensor, list[Node]] = {}
        for node in self.nodes:
            for tensor in dict.fromkeys(node.inputs):
                found.setdefault(tensor, []).append(node)
        return found


def is_graph(model: Any) -> bool:
    """Whether a model is Functional or Sequential, so that its graph can be read.

    Args:
        model: Any object.
    """
    if isinstance(model, keras.Sequential):
        return True
    # Keras does not export the class, and its `call` tells whether a subclass computes otherwise.
    classes: list[Any] = [c for c in type(model).__mro__ if c.__name__ == "Functional"]
    functional = classes[0] if classes else None
    return functional is not None and type(model).call is functional.call


def graph_of(model: Any) -> Graph:
    """The graph of a built model, nested Functional and Sequential models opened.

    Args:
        model: A Functional or Sequential model.

    Raises:
        UnsupportedModel: Its graph cannot be read.
    """
    nodes: list[Node] = []
    specs = model.inputs if isinstance(model.inputs, list) else [model.inputs]
    given: list[Tensor] = []
    for spec in specs:
        dtype = keras.backend.standardize_dtype(spec.dtype)
        nodes.append(Node(len(nodes), spec.name, None, dtype=dtype, shape=tuple(spec.shape)))
        given.append(Tensor(len(nodes) - 1))
    outputs = _open(model, given, nodes, (), None)
    graph = Graph(nodes, _pack(model, given), outputs)
    for node in nodes:
        for tensor in node.inputs:
            made_by = nodes[tensor.node]
            made_by.arity = max(made_by.arity, tensor.output + 1)
    return graph


def _pack(model: Any, tensors: list[Tensor]) -> Any:
    """The tensors in the structure in which the model takes them."""
    return _in_structure(structure_of(model), tensors)


def structure_of(model: Any) -> Any:
    """The symbolic inputs of a model, in the structure in which it takes them.

    Args:
        model: a Functional model, or a Sequential one, which has no `input` before it is called.
    """
    return model.inputs[0] if isinstance(model, keras.Sequential) else model.input


def _in_structure(structure: Any, leaves: Sequence[Any]) -> Any:
    found = iter(leaves)
    return keras.tree.map_structure(lambda _: next(found), structure)


def _open(
    model: Any,
    given: list[Tensor],
    nodes: list[Node],
    around: tuple[str, ...],
    training: bool | None,
) -> Any:
    """Adds a model's nodes; the structure of its output tensors."""
    if isinstance(model, keras.Sequential):
        (current,) = given
        for layer in model.layers:
            current = _add(layer, (current,), {}, nodes, around, training)
        return current
    return _open_functional(model, given, nodes, around, training)


def _open_functional(
    model: Any,
    given: list[Tensor],
    nodes: list[Node],
    around: tuple[str, ...],
    training: bool | None,
) -> Any:
    config = _config(model)
    operations = {operation.name: operation for operation in model.operations}
    made: dict[tuple[str, int], Any] = {}  # what each call of an operation gave
    for entry, tensor in zip(_histories(config["input_layers"]), given, strict=True):
        made[entry.call] = tensor
    waiting = [
        (entry["name"], call, node)
        for entry in config["layers"]
        for call, node in enumerate(entry["inbound_nodes"])
        if (entry["name"], call) not in made
    ]
    while waiting:
        later = []
        for name, call, node in waiting:
            needed = list(_references((node["args"], node["kwargs"])))
            if any(reference.call not in made for reference in needed):
                later.append((name, call, node))
                continue
            for reference in needed:
                _describe(nodes, reference.found(made), reference)
            args = _replaced(node["args"], made)
            kwargs = _replaced(node["kwargs"], made)
            made[name, call] = _add(operations[name], tuple(args), kwargs, nodes, around, training)
        if len(later) == len(waiting):
            raise UnsupportedModel(f"The graph of model {model.name!r} cannot be read.")
        waiting = later
    outputs = [entry.found(made) for entry in _histories(config["output_layers"])]
    return _in_structure(model.output, outputs)


def _config(model: Any) -> dict[str, Any]:
    try:
        return model.get_config()
    except (NotImplementedError, TypeError) as error:
        raise UnsupportedModel(
            f"The graph of model {model.name!r} cannot be read, because one of its layers has no "
            f"get_config: {error}"
        ) from error


def _add(
    operation: Any,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    nodes: list[Node],
    around: tuple[str, ...],
    training: bool | None,
) -> Any:
    """Adds one call; the structure of its output tensors."""
    said = kwargs.get("training", training)
    training = training if said is None else said
    if is_graph(operation):
        inner = {k: v for k, v in kwargs.items() if k != "training" and v is not None}
        if not inner and len(args) == 1:
            given = [_tensor(leaf) for leaf in _ordered(operation, args[0])]
            return _open(operation, given, nodes, (*around, operation.name), training)
    if training is not None and _takes_training(operation):
        kwargs = {**kwargs, "training": training}
    name = "/".join([*around, operation.name])
    taken = {node.name for node in nodes}
    call = next(n for n in range(len(nodes) + 1) if _numbered(name, n) not in taken)
    nodes.append(Node(len(nodes), _numbered(name, call), operation, args, kwargs))
    return Tensor(len(nodes) - 1)


def _numbered(name: str, call: int) -> str:
    return f"{name}:{call}" if call else name


def _tensor(leaf: Any) -> Tensor:
    if not isinstance(leaf, Tensor):
        raise UnsupportedModel(f"A nested model is called on {leaf!r}, which is no tensor.")
    return leaf


def _ordered(model: Any, structure: Any) -> list[Any]:
    """A nested model's arguments in the order of its inputs."""
    if isinstance(structure, Mapping) and not isinstance(model, keras.Sequential):
        own = model.input
        if isinstance(own, Mapping):
            return [structure[name] for name in sorted(own)]
        return [structure[spec.name] for spec in model.inputs]
    return _flat(structure)


def _takes_training(operation: Any) -> bool:
    if not isinstance(operation, keras.layers.Layer):
        return False
    return "training" in inspect.signature(operation.call).parameters


def _flat(structure: Any) -> list[Any]:
    if isinstance(structure, Tensor):
        return [structure]
    return list(keras.tree.flatten(structure))


@dataclass(frozen=True)
class _Reference:
    """A tensor in a config: output of a call of an operation."""

    call: tuple[str, int]
    output: int
    shape: tuple[int | None, ...] | None = None
    dtype: str | None = None

    def found(self, made: Mapping[tuple[str, int], Any]) -> Any:
        """The graph's tensor, from what each call gave: a tensor, or a nested model's structure."""
        result = made[self.call]
        if isinstance(result, Tensor):
            return Tensor(result.node, self.output) if self.output else result
        return _flat(result)[self.output]


def _histories(entries: Any) -> list[_Reference]:
    """The references in a config's structure of inputs or outputs, in the order of its leaves."""
    if isinstance(entries, Mapping):
        return [found for name in sorted(entries) for found in _histories(entries[name])]
    if len(entries) == 3 and isinstance(entries[0], str) and isinstance(entries[1], int):
        return [_Reference((entries[0], entries[1]), entries[2])]
    return [found for entry in entries for found in _histories(entry)]


def _reference(value: Any) -> _Reference | None:
    if not isinstance(value, Mapping) or value.get("class_name") != "__keras_tensor__":
        return None
    about = value["config"]
    name, call, output = about["keras_history"]
    return _Reference((name, call), output, tuple(about["shape"]), str(about["dtype"]))


def _references(value: Any) -> Iterator[_Reference]:
    reference = _reference(value)
    if reference is not None:
        yield reference
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _references(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _references(item)


def _replaced(value: Any, made: Mapping[tuple[str, int], Any]) -> Any:
    """A config's arguments with the graph's tensors for references, and objects for the rest."""
    reference = _reference(value)
    if reference is not None:
        return reference.found(made)
    if isinstance(value, Mapping):
        if "class_name" in value and "config" in value:
            return keras.saving.deserialize_keras_object(value)
        return {key: _replaced(item, made) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_replaced(item, made) for item in value)
    return value


def _describe(nodes: list[Node], tensor: Any, reference: _Reference) -> None:
    node = nodes[tensor.node]
    if tensor.output == 0 and node.dtype is None:
        node.dtype, node.shape = reference.dtype, reference.shape


def tensors_in(structure: Any) -> Iterator[Tensor]:
    """The tensors in nested lists, tuples and dicts, in order.

    Args:
        structure: Anything.
    """
    if isinstance(structure, Tensor):
        yield structure
    elif isinstance(structure, Mapping):
        for item in structure.values():
            yield from tensors_in(item)
    elif isinstance(structure, (list, tuple)):
        for item in structure:
            yield from tensors_in(item)


def filled(structure: Any, value_of: Callable[[Tensor], Any]) -> Any:
    """A structure with values in place of its tensors.

    Args:
        structure: Nested lists, tuples and dicts.
        value_of: The value for each tensor.
    """
    if isinstance(structure, Tensor):
        return value_of(structure)
    if isinstance(structure, Mapping):
        return {key: filled(item, value_of) for key, item in structure.items()}
    if isinstance(structure, (list, tuple)):
        return type(structure)(filled(item, value_of) for item in structure)
    return structure
