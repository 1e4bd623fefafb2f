"""Keras layers whose own `call` cannot be traced, or says the same at far greater length."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import ops

from sentei.core.errors import UnsupportedModel

Call = Callable[..., Any]


def _time_distributed(layer: Any) -> Call:
    """All time steps as one batch; Keras calls the inner layer once for each."""
    inner = layer.layer
    accepted = inspect.signature(inner.call).parameters

    def call(inputs: Any, training: bool | None = None, mask: Any = None) -> Any:
        steps = tuple(inputs.shape[:2])

        def merged(tensor: Any) -> Any:
            return ops.reshape(tensor, (steps[0] * steps[1], *tensor.shape[2:]))

        options: dict[str, Any] = {}
        if "training" in accepted:
            options["training"] = training
        if "mask" in accepted and mask is not None:
            options["mask"] = merged(mask)
        outputs = inner.call(merged(inputs), **options)
        return ops.reshape(outputs, (*steps, *outputs.shape[1:]))

    return call


def _integer_lookup(layer: Any) -> Call:
    """A comparison with every word of the vocabulary; Keras asks a hash table of TensorFlow's."""
    if layer.invert or layer.output_mode == "tf_idf":
        raise UnsupportedModel(
            f"Layer {layer.name!r} (IntegerLookup) cannot be exported: invert=True and "
            'output_mode="tf_idf" have no LiteRT form. Apply it before the model.'
        )
    words = np.asarray(layer.get_vocabulary(include_special_tokens=False), np.int32)
    masked = layer.mask_token is not None
    first_oov, oov = int(masked), layer.num_oov_indices

    def call(inputs: Any) -> Any:
        numbers = ops.cast(inputs, "int32")
        hits = ops.cast(ops.equal(ops.expand_dims(numbers, -1), words), "int32")
        found = ops.sum(hits * np.arange(1, len(words) + 1, dtype=np.int32), axis=-1)
        unknown = ops.mod(numbers, oov) + first_oov if oov > 1 else first_oov
        result = ops.where(found > 0, found + (first_oov + oov - 1), unknown)
        if masked:
            result = ops.where(ops.equal(numbers, layer.mask_token), 0, result)
        return _encoded(result, layer, first_oov + oov + len(words))

    return call


def _encoded(numbers: Any, layer: Any, depth: int) -> Any:
    """Indices as the layer's output mode wants them."""
    if layer.output_mode == "int":
        return numbers
    encoding = keras.layers.CategoryEncoding(
        layer.max_tokens if layer.pad_to_max_tokens else depth, layer.output_mode
    )
    return encoding(numbers)


# Layer class: makes the `call` that takes the place of the layer's own while it is traced.
CALLS: dict[type, Callable[[Any], Call]] = {
    keras.layers.IntegerLookup: _integer_lookup,
    keras.layers.TimeDistributed: _time_distributed,
}
