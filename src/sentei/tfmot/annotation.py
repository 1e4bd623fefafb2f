"""Layers that say what shall be done to them: the wrappers that the old toolkit's users know."""

from __future__ import annotations

import inspect
import weakref
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol

import keras

from sentei.core.errors import SenteiError
from sentei.core.graph import is_graph
from sentei.core.install import strip
from sentei.core.project import Projection
from sentei.core.select import Selected, children, select, sublayers


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


class Annotated(keras.layers.Layer):
    """A layer, and what shall be done to its weights. It computes what the layer computes.

    It holds no weights of its own and is called as the layer is called. What it says takes effect
    when the model is compiled (`sentei.tfmot.attach`).

    Attributes:
        layer: The layer.
        wish: What shall be done.
        prefix: How the names of such wrappers begin.
    """

    prefix = "annotated_"
    wish: Wish

    def __init__(self, layer: Any, **kwargs: Any) -> None:
        if not isinstance(layer, keras.layers.Layer):
            raise SenteiError(
                f"{type(self).__name__} wraps a Keras layer. Received: {layer!r} of type "
                f"{type(layer).__name__}."
            )

        def call(*args: Any, **kwargs: Any) -> Any:
            return layer(*args, **kwargs)

        # Keras looks at the signatures to know what a layer takes: queries, masks, states.
        call.__signature__ = inspect.signature(layer.call)  # type: ignore[attr-defined]
        self.call = call
        self.build.__signature__ = inspect.signature(layer.build)  # type: ignore[attr-defined]
        kwargs.setdefault("name", f"{self.prefix}{layer.name}")
        kwargs.setdefault("dtype", layer.dtype_policy)
        super().__init__(**kwargs)
        self.autocast = False  # the layer casts its inputs itself
        self.layer = layer
        self.supports_masking = layer.supports_masking
        # The first layer of a Sequential model may carry the shape of its inputs.
        shape = getattr(layer, "_input_shape_arg", None)
        if shape is not None and getattr(self, "_input_shape_arg", None) is None:
            self._input_shape_arg = shape

    def build(self, *shapes: Any, **named: Any) -> None:
        """Builds the layer; one that is built by being called is left to that.

        Args:
            *shapes: As the layer's `build` takes them.
            **named: The same.
        """
        # A layer that takes its weights from its parts has no `build`: calling it builds them.
        if not self.layer.built and type(self.layer).build is not keras.layers.Layer.build:
            self.layer.build(*shapes, **named)
        self.built = True

    def get_build_config(self) -> dict[str, Any] | None:
        """The layer's."""
        return self.layer.get_build_config()

    def build_from_config(self, config: dict[str, Any]) -> None:
        """Builds the layer as it was.

        Args:
            config: What `get_build_config` gave.
        """
        if not self.layer.built:
            self.layer.build_from_config(config)
        self.built = True

    def compute_mask(self, *args: Any, **kwargs: Any) -> Any:
        """The layer's."""
        return self.layer.compute_mask(*args, **kwargs)

    def compute_output_shape(self, *args: Any, **kwargs: Any) -> Any:
        """The layer's."""
        return self.layer.compute_output_shape(*args, **kwargs)

    def compute_output_spec(self, *args: Any, **kwargs: Any) -> Any:
        """The layer's."""
        if self.layer.built:
            return self.layer.compute_output_spec(*args, **kwargs)
        return keras.Operation.compute_output_spec(self, *args, **kwargs)

    def settings(self) -> dict[str, Any]:
        """What shall be done, as the constructor takes it."""
        raise NotImplementedError

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments."""
        serialized = {
            name: keras.saving.serialize_keras_object(value)
            for name, value in {"layer": self.layer, **self.settings()}.items()
        }
        return {**super().get_config(), **serialized}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Annotated:
        """The wrapper that `get_config` described.

        Args:
            config: What it gave.
        """
        load = keras.saving.deserialize_keras_object
        return cls(**{k: load(v) if isinstance(v, dict) else v for k, v in config.items()})


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


def wishes(model: Any) -> list[tuple[Any, Wish]]:
    """What was asked about the layers of a model: each layer and its wish, outermost first.

    Args:
        model: A Keras model.
    """
    found: list[tuple[Any, Wish]] = []
    for layer, _ in sublayers(model):
        if isinstance(layer, Annotated):
            found.append((layer, layer.wish))
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
