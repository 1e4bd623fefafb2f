"""What users' own QuantizeConfigs see in place of a layer: they set its weights and activations."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import keras

# What Keras 3 calls otherwise.
_RENAMED = {(keras.layers.DepthwiseConv2D, "depthwise_kernel"): "kernel"}


class LayerProxy:
    """A layer whose attributes can be set, without anything happening to the layer.

    `layer.kernel = tensor` is how the old toolkit's configs say what the layer shall compute with.
    In Keras 3 most kernels are properties that cannot be set, and no variable can be a tensor: so
    it is written down instead, and carried out for the time of a call.

    Attributes (none of them can collide with a layer's):
        _layer: The layer.
        _values: Of each variable that was set by its attribute: `(variable, value)`, by identity.
        _others: What else was set: `(layer, name, value)`. Layers within the layer share both.
    """

    def __init__(self, layer: Any, shared: LayerProxy | None = None) -> None:
        values: dict[int, tuple[Any, Any]] = {} if shared is None else shared._values
        others: list[tuple[Any, str, Any]] = [] if shared is None else shared._others
        object.__setattr__(self, "_layer", layer)
        object.__setattr__(self, "_values", values)
        object.__setattr__(self, "_others", others)

    @property  # type: ignore[misc]
    def __class__(self) -> Any:  # so that isinstance tells the layer's class
        """The layer's class."""
        return type(self._layer)

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._layer, self._known(name))
        if isinstance(value, keras.layers.Layer):
            return LayerProxy(value, self)
        if isinstance(value, (list, tuple)):
            layers = (keras.layers.Layer,)
            return [LayerProxy(v, self) if isinstance(v, layers) else v for v in value]
        return value

    def __setattr__(self, name: str, value: Any) -> None:
        name = self._known(name)
        current = getattr(self._layer, name, None)
        if isinstance(current, keras.Variable):
            self._values[id(current)] = (current, value)
        else:
            self._others.append((self._layer, name, value))

    def _known(self, name: str) -> str:
        for (kind, old), new in _RENAMED.items():
            if name == old and isinstance(self._layer, kind):
                return new
        return name

    @property
    def replaced(self) -> list[tuple[Any, Any]]:
        """The variables that were set, with their values."""
        return list(self._values.values())

    @contextmanager
    def set_meanwhile(self) -> Iterator[None]:
        """For its time, the layer's other attributes are as they were set."""
        before = []
        try:
            for layer, name, value in self._others:
                before.append((layer, name, getattr(layer, name, None)))
                setattr(layer, name, value)
            yield
        finally:
            for layer, name, value in reversed(before):
                setattr(layer, name, value)
