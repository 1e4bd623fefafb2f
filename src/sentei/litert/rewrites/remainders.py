"""JAX primitives that the converter gets wrong or leaves over, in terms of others."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import lax

from sentei.litert.rewrites.graph import Rule, Run, Step


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


RULES: dict[str, Rule] = {
    "cbrt": _cube_root,
    "cummax": _running(jnp.maximum, -np.inf),
    "cummin": _running(jnp.minimum, np.inf),
    "cumprod": _running(jnp.multiply, 1.0),
    "top_k": _largest,
    "xor": _exclusive_or,
}
