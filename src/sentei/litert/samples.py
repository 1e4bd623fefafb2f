"""Sample inputs for a model: the user's own cut into batches, or random ones it can read."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import keras
import numpy as np

from sentei.core.errors import SenteiError
from sentei.core.select import sublayers
from sentei.litert.signature import Signature, TensorSpec, float_model_of

# One array per input, in the signature's order, with the signature's batch size.
Sample = tuple[np.ndarray, ...]

# Integers of unknown meaning: small enough to index whatever a custom layer indexes.
_UNKNOWN_INTEGERS = 4


def random_samples(model: Any, signature: Signature, count: int = 2, seed: int = 0) -> list[Sample]:
    """Draws inputs of the kind that the model's first layers expect.

    Indices stay inside the table of the Embedding that reads them, and what is fed to a Rescaling
    or Normalization layer is such that it comes out of it around zero; other numbers are standard
    normal and uniform on [0, 1) in turn.

    Args:
        model: A built Keras model.
        signature: What it is called with, with a fixed batch size.
        count: How many samples (batches).
        seed: Seed of the random numbers.

    Returns:
        The samples.
    """
    generator = np.random.default_rng(seed)
    model = float_model_of(model)
    drawers = [_drawer(model, i, spec) for i, spec in enumerate(signature.inputs)]
    return [tuple(draw(generator, turn) for draw in drawers) for turn in range(count)]


def given_samples(given: Any, signature: Signature) -> list[Sample]:
    """Cuts the user's samples into batches.

    Args:
        given: An array per input of shape `(samples, ...)`, alone or in a list or dict by name.
        signature: What the model is called with, with a fixed batch size.

    Returns:
        Batches of the signature's size; the last one is filled up by repeating the last row.

    Raises:
        SenteiError: An input is missing or has another shape than the model's.
    """
    specs = signature.inputs
    names = [spec.name for spec in specs]
    if isinstance(given, Mapping):
        if set(given) != set(names):
            raise SenteiError(
                f"`verify` must hold samples for the inputs {names}. Received: {sorted(given)}."
            )
        values = [given[name] for name in names]
    else:
        values = list(given) if isinstance(given, list | tuple) and len(specs) > 1 else [given]
    if len(values) != len(specs):
        raise SenteiError(
            f"`verify` must hold samples for the {len(specs)} inputs {names}. "
            f"Received: {len(values)}."
        )
    arrays = [_fit(value, spec) for value, spec in zip(values, specs, strict=True)]
    return list(_batches(arrays, specs))


def _fit(value: Any, spec: TensorSpec) -> np.ndarray:
    array = np.asarray(value)
    if array.ndim != len(spec.shape) or array.shape[1:] != spec.shape[1:] or 0 in array.shape:
        raise SenteiError(
            f"`verify` holds an array of shape {list(array.shape)} for input {spec}; it must be "
            f"(samples, {', '.join(map(str, spec.shape[1:]))})."
        )
    return array.astype(spec.dtype)


def _batches(arrays: Sequence[np.ndarray], specs: Sequence[TensorSpec]) -> Iterator[Sample]:
    sizes = {array.shape[0] for array in arrays if array.ndim}
    if len(sizes) > 1:
        raise SenteiError(
            f"`verify` holds different numbers of samples per input: {sorted(sizes)}."
        )
    step = next((spec.shape[0] for spec in specs if spec.shape), 1) or 1
    for start in range(0, sizes.pop() if sizes else 1, step):
        yield tuple(
            array[np.minimum(np.arange(start, start + step), array.shape[0] - 1)]
            if array.ndim
            else array
            for array in arrays
        )


def _drawer(
    model: Any, position: int, spec: TensorSpec
) -> Callable[[np.random.Generator, int], np.ndarray]:
    """How to draw one input, judged by the layers that read it."""
    readers = [layer for first in _readers(model, position) for layer, _ in sublayers(first)]
    tables = [
        int(size)
        for layer in readers
        for size in (getattr(layer, "input_dim", None), getattr(layer, "num_tokens", None))
        if size
    ]
    kind = np.dtype(spec.dtype).kind
    shape = [size or 1 for size in spec.shape]
    scale, offset = _preprocessing(readers)

    def draw(generator: np.random.Generator, turn: int) -> np.ndarray:
        if kind == "b":
            return generator.random(shape) < 0.5
        if tables:
            return generator.integers(0, min(tables), shape).astype(spec.dtype)
        if kind in "iu" and scale == 1.0:
            limit = 256 if spec.dtype == "uint8" else _UNKNOWN_INTEGERS
            return generator.integers(0, limit, shape).astype(spec.dtype)
        values = generator.random(shape) if turn % 2 else generator.normal(size=shape)
        if kind in "iu":
            values = np.clip((generator.random(shape) - offset) / scale, 0, 255)
        elif scale != 1.0 or offset != 0.0:
            values = (values - offset) / scale
        return values.astype(spec.dtype)

    return draw


def _preprocessing(readers: Sequence[Any]) -> tuple[float, float]:
    """The factor and offset that the first preprocessing layer among some applies."""
    for layer in readers:
        if isinstance(layer, keras.layers.Rescaling):
            return float(np.mean(layer.scale)), float(np.mean(layer.offset))
        if isinstance(layer, keras.layers.Normalization) and layer.built and not layer.invert:
            mean, variance = (
                np.mean(keras.ops.convert_to_numpy(value)) for value in (layer.mean, layer.variance)
            )
            deviation = float(np.sqrt(variance)) or 1.0
            return 1.0 / deviation, -float(mean) / deviation
    return 1.0, 0.0


def _readers(model: Any, position: int) -> list[Any]:
    """The layers that read one input, up to the first with weights, inside nested models as well.

    A subclassed model does not tell: there it may be any of its layers.
    """
    if not hasattr(model, "inputs"):
        return [model]
    if isinstance(model, keras.Sequential):
        found = []
        for layer in model.layers:
            found.extend(_open(layer, 0))
            if layer.weights:
                break
        return found
    try:
        entries = model.get_config()["layers"]
    except (NotImplementedError, KeyError):  # A custom layer without a config.
        return [model]
    tensor = model.inputs[position]
    waiting = [
        layer.name
        for layer in model.layers
        if isinstance(layer, keras.layers.InputLayer) and layer.output is tensor
    ]
    layers = {layer.name: layer for layer in model.layers}
    read: dict[tuple[str, int], None] = {}
    while waiting:
        name = waiting.pop(0)
        for entry in entries:
            reader = entry["name"]
            sources = [source for node in entry["inbound_nodes"] for source in _sources(node)]
            for place in [i for i, source in enumerate(sources) if source == name]:
                # What has no weights (a cast, a reshape, a plain operation) is looked through.
                if (reader, place) not in read and not getattr(layers.get(reader), "weights", []):
                    waiting.append(reader)
                read[reader, place] = None
    return [
        first
        for reader, place in read
        if reader in layers
        for first in _open(layers[reader], place)
    ]


def _open(layer: Any, position: int) -> list[Any]:
    nested = isinstance(layer, keras.Model) and hasattr(layer, "inputs")
    return _readers(layer, position) if nested else [layer]


def _sources(node: Any) -> Iterator[str]:
    """The names of the layers whose outputs a call in a Functional model's config reads."""
    if isinstance(node, Mapping):
        if node.get("class_name") == "__keras_tensor__":
            yield node["config"]["keras_history"][0]
            return
        node = list(node.values())
    if isinstance(node, list | tuple):
        for item in node:
            yield from _sources(item)
