"""Layers that say what shall be done to them: the wrappers that the old toolkit's users know."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol

import keras

from sentei.core.errors import SenteiError
from sentei.core.graph import is_graph
from sentei.core.install import strip
from sentei.core.projection import Projection
from sentei.core.select import Selected, children, select, sublayers
from sentei.tfmot.wrapping import Wrapping


class Wish(Protocol):
    """What shall be done to weights, without saying to which.

    Attributes:
        order: Wishes of a lower one make their rules first.
    """

    order: int

    def key(self) -> str:
        """Equal for wishes that mean the same: layers that have it share their rules."""

    def rules(self, model: Any, layers: Sequence[Any]) -> list[Projection]:
        """The rules for some layers of a built model."""


class Annotated(Wrapping):
    """A layer, and what shall be done to its weights. It computes what the layer computes.

    What it says takes effect when the model is compiled (`sentei.tfmot.attach`).

    Attributes:
        wish: What shall be done.
    """

    wish: Wish


# Subclassed models have no layers that could be put in another's place: wishes about a whole one.
_WISHES: weakref.WeakKeyDictionary[Any, list[Wish]] = weakref.WeakKeyDictionary()


def ask(model: Any, wish: Wish) -> None:
    """Says what shall be done to all of a model, which is not changed otherwise.

    Args:
        model: A subclassed model.
        wish: What.
    """
    _WISHES.setdefault(model, []).append(wish)


def forget(model: Any, kind: type) -> None:
    """Takes back what was asked for a whole model.

    Args:
        model: A subclassed model.
        kind: The class of the wishes.
    """
    if model in _WISHES:
        _WISHES[model] = [wish for wish in _WISHES[model] if not isinstance(wish, kind)]


def asked(model: Any) -> bool:
    """Whether something was asked for a whole model.

    Args:
        model: A Keras model.
    """
    return bool(_WISHES.get(model))


def wishes(model: Any) -> list[tuple[Any, Wish]]:
    """What was asked about the layers of a model: each layer and its wish, outermost first.

    Args:
        model: A Keras model.
    """
    found: list[tuple[Any, Wish]] = []
    for layer, _ in sublayers(model):
        # A quantized model's scheme may say what its weights shall keep.
        wish = getattr(getattr(layer, "scheme", None), "wish", None)
        if isinstance(layer, Annotated):
            found.append((layer, layer.wish))
        elif wish is not None:
            found.append((layer, wish))
        elif layer in _WISHES:
            found += [(layer, wish) for wish in _WISHES[layer]]
    return found


def chosen(
    model: Any, layers: Sequence[Any], declared: Callable[[Any], Iterable[Any] | None]
) -> list[Selected]:
    """The weights of some layers that a rule is about.

    Args:
        model: A built Keras model.
        layers: Layers of it; what is inside them counts.
        declared: From a layer to the variables that it lists itself; None when it does not. What
            is inside a layer that does is left to it.
    """
    taken: set[int] = set()
    for around in layers:
        waiting = [around]
        while waiting:
            layer = waiting.pop()
            taken.add(id(layer))
            if declared(layer) is None:
                waiting.extend(children(layer))
    return select(
        model, lambda layer: id(layer) in taken, declare=lambda layer: declared(layer) or ()
    )[0]


def rewrapped(model: Any, function: Callable[[Any], Any]) -> Any:
    """A model of the same structure, and without an optimizer, on other layers.

    Args:
        model: A Sequential or Functional model, models nested in it included.
        function: From each layer to the one that takes its place; variables are shared wherever
            it gives the layer itself, or a wrapper of it.

    Returns:
        The model, uncompiled.
    """
    known: dict[int, Any] = {}

    def once(layer: Any) -> Any:
        if id(layer) not in known:
            known[id(layer)] = replaced(layer)
        return known[id(layer)]

    def replaced(layer: Any) -> Any:
        if not isinstance(layer, keras.layers.Layer) or isinstance(layer, keras.layers.InputLayer):
            return layer  # a function of keras.ops, an input
        if is_graph(layer):
            return rewrapped(layer, function)
        return function(layer)

    compiled, model.compiled = model.compiled, False  # a clone of a compiled model is compiled
    try:
        return keras.models.clone_model(model, _inputs_like(model), clone_function=once)
    finally:
        model.compiled = compiled


def _inputs_like(model: Any) -> Any:
    """New inputs by the names of a Functional model's; Keras' own clone loses them."""
    if isinstance(model, keras.Sequential):
        return None
    inputs = [layer for layer in model.layers if isinstance(layer, keras.layers.InputLayer)]
    names = {id(layer.output): layer.name for layer in inputs}

    def like(tensor: Any) -> Any:
        return keras.Input(batch_shape=tensor.shape, dtype=tensor.dtype, name=names[id(tensor)])

    return keras.tree.map_structure(like, model.input)


def unwrapped(model: Any, wrapper: type[Annotated], wish: type) -> Any:
    """A model without wrappers of a kind, uncompiled; a subclassed one is changed itself.

    Args:
        model: A Keras model.
        wrapper: The class of the wrappers.
        wish: The class of the wishes about a whole model.
    """
    if not is_graph(model):
        forget(model, wish)
        return strip(model)
    return rewrapped(model, lambda layer: layer.layer if isinstance(layer, wrapper) else layer)


def require_model(model: Any) -> None:
    """Checks that it is a model that is to be stripped.

    Args:
        model: What the user passed.

    Raises:
        SenteiError: When it is no Keras model.
    """
    if not isinstance(model, keras.Model):
        raise SenteiError(
            f"Expected model to be a `keras.Model` instance but got: {type(model).__name__}."
        )
