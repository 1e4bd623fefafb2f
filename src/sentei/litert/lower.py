"""From model to file contents: trace and convert, here or in a second process on JAX."""

from __future__ import annotations

from dataclasses import dataclass
from time import perf_counter
from typing import TYPE_CHECKING, Any

import keras

from sentei.litert.signature import Signature, TensorSpec

if TYPE_CHECKING:
    from sentei.litert.convert import Leftover


@dataclass(frozen=True)
class Lowered:
    """A converted model.

    Attributes:
        content: The `.tflite` file's bytes.
        outputs: The specs of the outputs.
        leftovers: The operations that the runtime may not have.
        seconds: The time each step took.
    """

    content: bytes
    outputs: tuple[TensorSpec, ...]
    leftovers: tuple[Leftover, ...]
    seconds: dict[str, float]


def lower(model: Any, signature: Signature) -> Lowered:
    """Converts a model, whatever the backend.

    Args:
        model: A built Keras model.
        signature: What it is called with.

    Returns:
        The file's contents.

    Raises:
        UnsupportedModel: A layer cannot be exported, or the second process cannot load it.
        ExportError: The converter refuses the model.
    """
    if keras.backend.backend() == "jax":
        return lower_here(model, signature)
    from sentei.litert.child import lower_elsewhere

    return lower_elsewhere(model, signature)


def lower_here(model: Any, signature: Signature) -> Lowered:
    """Converts a model in this process, which must run Keras on JAX.

    Args:
        model: A built Keras model.
        signature: What it is called with.

    Returns:
        The file's contents.

    Raises:
        UnsupportedModel: A layer cannot be exported.
        ExportError: The converter refuses the model.
    """
    from sentei.litert.convert import convert
    from sentei.litert.trace import trace

    start = perf_counter()
    graph = trace(model, signature)
    traced = perf_counter()
    converted = convert(graph)
    seconds = {"trace": traced - start, "convert": perf_counter() - traced}
    return Lowered(converted.content, graph.outputs, converted.leftovers, seconds)
