"""One-dimensional signals as images of height 1.

LiteRT has no 1-D convolution or pooling: both run as their 2-D form. If the bias, batch
normalization and activation behind them ran on the narrow tensor again, the converter could not
fuse them, so number-by-number steps stay on the wide one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax

from sentei.litert.rewrites.arithmetic import ELEMENTWISE
from sentei.litert.rewrites.graph import Rule, Run, Step, Value, Wide


def widened(value: Value, axis: int) -> Any:
    """A value's tensor with an axis of length 1 inserted.

    Args:
        value: The value.
        axis: Where the new axis goes.

    Returns:
        The tensor.
    """
    if value.wide is not None and value.wide.axis == axis:
        return value.wide.array
    spread = value.made_by("broadcast_in_dim")
    if spread is not None:
        # Spread anew from the source: the converter sees a bias through this, not a reshaped block.
        dimensions = [d + (d >= axis) for d in spread.params["broadcast_dimensions"]]
        shape = (*value.shape[:axis], 1, *value.shape[axis:])
        return jax.lax.broadcast_in_dim(spread.inputs[0].array, shape, dimensions)
    return jax.lax.expand_dims(value.array, [axis])


def narrowed(array: Any, axis: int) -> Value:
    """The value whose wide form is given.

    Args:
        array: The wide tensor.
        axis: Its extra axis.

    Returns:
        The value.
    """
    return Value(jax.lax.squeeze(array, [axis]), wide=Wide(axis, array))


def _elementwise(step: Step, run: Run) -> Sequence[Any] | None:
    axis = next((v.wide.axis for v in step.inputs if v.wide is not None), None)
    if axis is None:
        return None
    rank = len(step.shapes[0])
    if any(v.shape and len(v.shape) != rank for v in step.inputs):
        return None
    arrays = [widened(v, axis) if v.shape else v.array for v in step.inputs]
    return [narrowed(output, axis) for output in step.bind(*arrays)]


RULES: dict[str, Rule] = dict.fromkeys(ELEMENTWISE, _elementwise)
