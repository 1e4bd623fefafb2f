"""JAX primitives that the converter gets wrong or leaves over, in terms of others."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import lax

from sentei.litert.composite import MOST_AXES
from sentei.litert.rewrites.arithmetic import ELEMENTWISE
from sentei.litert.rewrites.graph import Rule, Run, Step, Value, size


def _cube_root(step: Step, run: Run) -> Sequence[Any] | None:
    """The converter writes POW, which is NaN below zero."""
    x = step.inputs[0].array
    return [jnp.sign(x) * jnp.abs(x) ** (1 / 3)]


def _exclusive_or(step: Step, run: Run) -> Sequence[Any] | None:
    first, second = (value.array for value in step.inputs)
    return [lax.ne(first, second)] if first.dtype == bool else None


def _running(combine: Callable[[Any, Any], Any], neutral: float) -> Rule:
    """A running product or extreme: each round combines with what lies twice as far back."""

    def rule(step: Step, run: Run) -> Sequence[Any] | None:
        array, axis = step.inputs[0].array, step.params["axis"]
        if not step.inputs[0].floating:
            return None
        length, reverse = array.shape[axis], step.params["reverse"]
        reach = 1
        while reach < length:
            margins = [(0, 0)] * array.ndim
            margins[axis] = (0, reach) if reverse else (reach, 0)
            shifted = jnp.pad(array, margins, constant_values=neutral)
            start = reach if reverse else 0
            array = combine(array, lax.slice_in_dim(shifted, start, start + length, axis=axis))
            reach *= 2
        return [array]

    return rule


def _largest(step: Step, run: Run) -> Sequence[Any] | None:
    """The k largest numbers: TOPK_V2, as long as their places are used, too."""
    if step.params["axis"] != len(step.shapes[0]) - 1:
        return None
    values, places = step.bind(step.inputs[0].array)
    return [jnp.where(places < 0, jnp.zeros_like(values), values), places]


def _of_many_axes(step: Step, run: Run) -> Sequence[Any] | None:
    """Number by number it is the same on a matrix: windows of images have six axes (Swin)."""
    shape = step.shapes[0]
    alike = all(not value.shape or value.shape == shape for value in step.inputs)
    if len(shape) <= MOST_AXES or not alike:
        return None
    flat = (shape[0], -1)

    def flattened(value: Value) -> Any:
        if not value.shape:
            return value.array
        if value.scalar is not None:
            return jnp.full((shape[0], size(shape[1:])), value.scalar, value.array.dtype)
        return value.array.reshape(flat) if value.matrix is None else value.matrix

    matrix = step.bind(*map(flattened, step.inputs))[0]
    return [Value(matrix.reshape(shape), matrix=matrix)]


def _there_and_back(step: Step, run: Run) -> Sequence[Any] | None:
    """Between two reshapes that undo each other nothing stands, not even for integers."""
    value, shape = step.inputs[0], step.shapes[0]
    if value.matrix is not None and value.matrix.shape == shape:
        return [value.matrix]
    first = value.made_by("reshape")
    return [first.inputs[0]] if first is not None and first.inputs[0].shape == shape else None


RULES: dict[str, Rule] = dict.fromkeys(ELEMENTWISE, _of_many_axes) | {
    "cbrt": _cube_root,
    "cummax": _running(jnp.maximum, -np.inf),
    "cummin": _running(jnp.minimum, np.inf),
    "cumprod": _running(jnp.multiply, 1.0),
    "reshape": _there_and_back,
    "top_k": _largest,
    "xor": _exclusive_or,
}
