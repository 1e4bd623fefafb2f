"""Models whose graph cannot be read: which of their layers' calls are rounded, and where.

A subclassed model says in Python what it computes. It is run once on symbols, with its layers
watched: which layer read which tensor another one gave. What its own code does between them is not
seen and stays float.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import keras

from sentei.core.errors import UnsupportedModel
from sentei.core.graph import Graph
from sentei.core.select import children
from sentei.quantization import rules
from sentei.quantization.plan import Activation, Float, Plan, SchemeOf, plan_weights

_COMPUTING = ("contraction", "elementwise", "normalization", "rectifier", "function")
_PASSING = ("same_input", "transparent")


@keras.saving.register_keras_serializable("sentei")
@dataclass(frozen=True)
class Spec:
    """A tensor that a model is called with.

    Attributes:
        shape: Its shape; None where it is not known.
        dtype: Its dtype.
        name: Its name.
    """

    shape: tuple[int | None, ...]
    dtype: str
    name: str

    def symbol(self) -> Any:
        """A new symbol of it."""
        return keras.KerasTensor(self.shape, dtype=self.dtype, name=self.name)

    def get_config(self) -> dict[str, Any]:
        """The fields."""
        return {"shape": list(self.shape), "dtype": self.dtype, "name": self.name}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Spec:
        """A spec from its fields.

        Args:
            config: What `get_config` gave.
        """
        return cls(tuple(config["shape"]), config["dtype"], config["name"])


@dataclass
class Rounded:
    """What is rounded at the calls of one layer.

    Attributes:
        layer: The layer.
        inputs: The positions of the tensors that are rounded before it reads them.
        label: The grid of what it gives, or None: not rounded.
        before: The grid of what it reads.
    """

    layer: Any
    label: str | None
    before: str
    inputs: set[int] = field(default_factory=set)


@dataclass(frozen=True)
class _Call:
    """A call that was seen; it holds the tensors, so that no two have the same identity."""

    layer: Any
    read: list[Any]
    given: list[Any]


def plan_subclassed(model: Any, specs: Any, scheme_of: SchemeOf) -> tuple[Plan, dict[str, Rounded]]:
    """The plan of a model whose graph cannot be read.

    Args:
        model: The model; it is built if it is not yet.
        specs: What it is called with: a structure of `Spec`; None: only its weights are quantized.
        scheme_of: The scheme of a layer, from the layer and its name with those around it.

    Returns:
        The plan, and what is rounded at the calls of each layer, by its name.
    """
    if specs is None:
        return Plan(Graph([], None, None), weights=plan_weights(model, scheme_of)), {}
    symbols = keras.tree.map_structure(lambda spec: spec.symbol(), specs)
    if not model.built:
        model(symbols, training=False)
    plan = Plan(Graph([], None, None), weights=plan_weights(model, scheme_of))
    return plan, plan_calls(model, symbols, plan, scheme_of)


def specs_of(model: Any, samples: Any) -> Any:
    """What a subclassed model is called with.

    Args:
        model: The model.
        samples: A batch of its inputs, or None: as it was built.

    Returns:
        A structure of `Spec`, of unknown batch size.

    Raises:
        UnsupportedModel: The model does not know.
    """
    if samples is not None:
        leaves = [
            (tuple(leaf.shape), keras.backend.standardize_dtype(leaf.dtype))
            for leaf in keras.tree.flatten(samples)
        ]
        # As Keras converts what `fit` is given.
        leaves = [(s, keras.backend.floatx() if d == "float64" else d) for s, d in leaves]
        structure = samples
    else:
        built = (model.get_build_config() or {}).get("input_shape")
        if not isinstance(built, (list, tuple)) or isinstance(built[-1], (list, tuple)):
            raise UnsupportedModel(
                f"Model {model.name!r} is a subclass of keras.Model that does not know what it is "
                "called with. Give samples of its inputs: sentei.quantize(model, calibration=x)."
            )
        leaves, structure = [(tuple(built), keras.backend.floatx())], 0
    names = list(structure) if isinstance(structure, dict) else None
    many = names or [f"inputs_{i}" if i else "inputs" for i in range(len(leaves))]
    if isinstance(structure, dict):
        many = sorted(many)
    made = iter(
        Spec((None, *shape[1:]), dtype, name)
        for (shape, dtype), name in zip(leaves, many, strict=True)
    )
    return keras.tree.map_structure(lambda _: next(made), structure)


def plan_calls(model: Any, inputs: Any, plan: Plan, scheme_of: SchemeOf) -> dict[str, Rounded]:
    """Plans what is rounded at the calls of a model's layers, and enters it in a plan.

    A layer's output is rounded, unless the layer that reads it is the batch normalization or ReLU
    that LiteRT fuses into it; its input is, unless it comes rounded from another layer.

    Args:
        model: A subclassed model.
        inputs: What it is called with: symbols.
        plan: The plan, with its weights; its activations and floats are added to.
        scheme_of: The scheme of a layer, from the layer and its name with those around it.

    Returns:
        By the layer's name with those around it.

    Raises:
        UnsupportedModel: The model cannot be run on symbols.
    """
    names = dict(_leaves(model, ()))
    seen = _watch(model, inputs, names)
    found: dict[str, Rounded] = {}
    on_grid: set[int] = set()
    for number, call in enumerate(seen):
        name, role = names[id(call.layer)][0], rules.role(call.layer)[0]
        scheme = scheme_of(call.layer, name)
        kind = None if scheme is None else scheme.activation()
        if role in _PASSING and call.read and all(id(x) in on_grid for x in call.read):
            on_grid.update(map(id, call.given))
        if role not in _COMPUTING or scheme is None or kind is None:
            continue
        fused = _is_fused(call, seen[number + 1 :])
        own = found.setdefault(name, Rounded(call.layer, name, f"{name}/input"))
        if fused:
            own.label = None
        for position, x in enumerate(call.read):
            if _is_floating(x) and id(x) not in on_grid:
                own.inputs.add(position)
        on_grid.update(map(id, call.given))
    for name, own in found.items():
        scheme = scheme_of(own.layer, name)
        kind = None if scheme is None else scheme.activation()
        if scheme is None or kind is None:
            continue
        for position in sorted(own.inputs):
            label = f"{own.before}#{position}" if position else own.before
            plan.activations[label] = Activation(label, kind, scheme)
        if own.label is not None:
            fixed = rules.fixed(_function(own.layer), kind)
            plan.activations[name] = Activation(name, kind, scheme, fixed)
    plan.floats.extend(_floats(model, names, found, scheme_of))
    return found


def _function(layer: Any) -> str:
    role, function = rules.role(layer)
    return rules.own_activation(layer) if role == "contraction" else function


def _floats(
    model: Any, names: dict[int, tuple[str, Any]], found: dict[str, Rounded], scheme_of: SchemeOf
) -> Iterator[Float]:
    for name, layer in names.values():
        if scheme_of(layer, name) is None:
            yield Float(name, "`layers` says so")
        elif rules.role(layer)[0] == "float":
            kind = type(layer).__name__
            known = type(layer).__module__.startswith("keras.")
            reason = "has no integer form in LiteRT" if known else "is a layer of your own"
            yield Float(name, f"{kind} {reason}")
        elif name not in found and rules.role(layer)[0] in _COMPUTING:
            yield Float(name, "it was not called when the model was run on symbols")
    yield Float(model.name, "what its own code computes between layers is not seen")


def _leaves(layer: Any, around: tuple[str, ...]) -> Iterator[tuple[int, tuple[str, Any]]]:
    """The layers whose calls are watched, by identity, with their names."""
    for inner in children(layer):
        path = (*around, inner.name)
        own = not type(inner).__module__.startswith("keras.") or isinstance(inner, keras.Model)
        if own and rules.role(inner)[0] == "float" and children(inner):
            yield from _leaves(inner, path)
        elif not isinstance(inner, keras.layers.InputLayer):
            yield id(inner), ("/".join(path), inner)


def _watch(model: Any, inputs: Any, names: dict[int, tuple[str, Any]]) -> list[_Call]:
    seen: list[_Call] = []

    def around(layer: Any, original: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            result = original(*args, **kwargs)
            read = keras.tree.flatten(args[:1])
            seen.append(_Call(layer, read, keras.tree.flatten(result)))
            return result

        return call

    try:
        with _replacing([layer for _, layer in names.values()], around):
            model(inputs, training=False)
    except Exception as error:
        raise UnsupportedModel(
            f"Model {model.name!r} cannot be run on symbols to see its layers' calls: "
            f"{type(error).__name__}: {error}"
        ) from error
    return seen


@contextmanager
def rounding_calls(
    calls: dict[str, Rounded], rounded: Callable[[str, Any, Any], Any]
) -> Iterator[None]:
    """Lets the layers of a model round what they read and give.

    Args:
        calls: As `plan_calls` gives it.
        rounded: What to put in place of a tensor: a function of the label of its grid, the tensor
            and None.

    Yields:
        Nothing.
    """
    by_layer = {id(own.layer): own for own in calls.values()}

    def around(layer: Any, original: Callable[..., Any]) -> Callable[..., Any]:
        own = by_layer[id(layer)]

        def call(*args: Any, **kwargs: Any) -> Any:
            leaves = keras.tree.flatten(args[:1])
            for position in own.inputs:
                label = f"{own.before}#{position}" if position else own.before
                leaves[position] = rounded(label, leaves[position], None)
            first = keras.tree.pack_sequence_as(args[:1], leaves)
            result = original(*first, *args[1:], **kwargs)
            return result if own.label is None else rounded(own.label, result, None)

        return call

    with _replacing([own.layer for own in calls.values()], around):
        yield


@contextmanager
def _replacing(
    layers: Sequence[Any], around: Callable[[Any, Callable[..., Any]], Callable[..., Any]]
) -> Iterator[None]:
    """Puts a function around the `call` of some layers."""
    with ExitStack() as stack:
        for layer in layers:
            held, original = "call" in vars(layer), layer.call
            layer.call = around(layer, original)
            stack.callback(_restore, layer, original if held else None)
        yield


def _restore(layer: Any, original: Any) -> None:
    if original is None:
        del layer.call
    else:
        layer.call = original


def _is_fused(call: _Call, later: Sequence[_Call]) -> bool:
    """Whether the only layer that reads an output is one that LiteRT fuses into it."""
    role = rules.role(call.layer)[0]
    if role not in ("contraction", "elementwise", "normalization") or len(call.given) != 1:
        return False
    if role == "contraction" and rules.own_activation(call.layer) != "linear":
        return False
    readers = [c for c in later if any(x is call.given[0] for x in c.read)]
    if len(readers) != 1:
        return False
    reader = rules.role(readers[0].layer)[0]
    return reader == "rectifier" or (reader == "normalization" and role == "contraction")


def _is_floating(x: Any) -> bool:
    return hasattr(x, "dtype") and "float" in keras.backend.standardize_dtype(x.dtype)
