"""Layers around other layers that let everything through."""

from __future__ import annotations

import inspect
from typing import Any

import keras

from sentei.core.errors import SenteiError


class Wrapping(keras.layers.Layer):
    """A layer around another one, which computes what that one computes.

    It holds no weights of its own and is called as the layer is called.

    Attributes:
        layer: The layer.
        prefix: How the names of such wrappers begin.
    """

    prefix = "annotated_"

    def __init__(self, layer: Any, **kwargs: Any) -> None:
        if not isinstance(layer, keras.layers.Layer):
            raise SenteiError(
                f"{type(self).__name__} wraps a Keras layer. Received: {layer!r} of type "
                f"{type(layer).__name__}."
            )

        def call(*args: Any, **kwargs: Any) -> Any:
            return self.run(*args, **kwargs)

        # Keras looks at the signatures to know what a layer takes: queries, masks, states.
        call.__signature__ = self.signature(layer)  # type: ignore[attr-defined]
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

    @staticmethod
    def signature(layer: Any) -> inspect.Signature:
        """What a call takes: what the layer's does.

        Args:
            layer: The layer.
        """
        return inspect.signature(layer.call)

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

    def run(self, *args: Any, **kwargs: Any) -> Any:
        """What a call gives: what the layer gives.

        Args:
            *args: As the layer takes them.
            **kwargs: The same.
        """
        return self.layer(*args, **kwargs)

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
        """What the constructor takes beside the layer."""
        raise NotImplementedError

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments."""
        serialized = {
            name: keras.saving.serialize_keras_object(value)
            for name, value in {"layer": self.layer, **self.settings()}.items()
        }
        return {**super().get_config(), **serialized}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Wrapping:
        """The wrapper that `get_config` described.

        Args:
            config: What it gave.
        """
        load = keras.saving.deserialize_keras_object
        return cls(**{k: load(v) if isinstance(v, dict) else v for k, v in config.items()})
