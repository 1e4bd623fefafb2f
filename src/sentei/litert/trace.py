"""Keras model → StableHLO: the graph that the converter reads, traced by JAX at inference."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import keras
import numpy as np


@dataclass(frozen=True)
class Port:
    """One named input or output of a graph.

    Attributes:
        name: The name in the file's signature.
        shape: The shape, batch first; `None` where the size is left open.
        dtype: The dtype's name, such as `"float32"`.
    """

    name: str
    shape: tuple[int | None, ...]
    dtype: str


@dataclass(frozen=True)
class Graph:
    """A traced model.

    Invariants:
        The module's `main` takes the weights first, in order, then the inputs, in order.

    Attributes:
        stablehlo: The module as MLIR text. The weights are arguments, so it stays small.
        weights: The weights' values.
        inputs: The ports of the inputs.
        outputs: The ports of the outputs.
    """

    stablehlo: str
    weights: tuple[np.ndarray, ...]
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]


def trace(model: keras.Model, batch_size: int = 1) -> Graph:
    """Traces a built model at inference.

    Args:
        model: The model.
        batch_size: The size of the first axis of every input.

    Returns:
        The graph.
    """
    variables = list(model.variables)
    names = [tensor.name for tensor in keras.tree.flatten(model.inputs)]
    structure = model.input

    def run(weights: Sequence[Any], inputs: Sequence[Any]) -> list[Any]:
        with keras.StatelessScope(list(zip(variables, weights, strict=True))):
            outputs = model(keras.tree.pack_sequence_as(structure, inputs), training=False)
        return keras.tree.flatten(outputs)

    specs = [
        jax.ShapeDtypeStruct((batch_size, *tensor.shape[1:]), tensor.dtype)
        for tensor in keras.tree.flatten(model.inputs)
    ]
    weights = [np.asarray(variable.value) for variable in variables]
    lowered = jax.jit(run, keep_unused=True).lower(weights, specs)
    inputs = tuple(
        Port(name, tuple(spec.shape), spec.dtype.name)
        for name, spec in zip(names, specs, strict=True)
    )
    outputs = tuple(
        Port(f"output_{i}", tuple(out.shape), out.dtype.name)
        for i, out in enumerate(lowered.out_info)
    )
    return Graph(lowered.as_text(debug_info=True), tuple(weights), inputs, outputs)
