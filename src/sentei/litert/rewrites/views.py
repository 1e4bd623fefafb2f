"""Tensors that a rule computed in another form, and the number-by-number steps behind them.

LiteRT has no 1-D convolution: a signal runs as an image of height 1. A transposed convolution may
come out too large and be cut. If the bias, batch normalization and activation that follow ran on
the tensor the program asked for, the converter could not fuse them into the convolution; so they
run on the tensor as it was computed, and reshaping or cutting comes last.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax.numpy as jnp
from jax import lax

from sentei.litert.rewrites.arithmetic import ELEMENTWISE
from sentei.litert.rewrites.graph import Rule, Run, Step, Value

# Primitives whose inputs must all have the same shape.
_STRICT = ("select_n", "clamp")


@dataclass(frozen=True)
class View:
    """How a value follows from a tensor computed in another form.

    Invariant: the value that `shown` gives has this view, and equals `array` cut and squeezed.

    Attributes:
        array: The tensor as computed.
        axis: An axis of length 1 that the value does not have, or None.
        cuts: Per axis of `array`, how much is cut off its start and end; empty for nothing.
    """

    array: Any
    axis: int | None = None
    cuts: tuple[tuple[int, int], ...] = ()

    def shown(self) -> Value:
        """The value that is seen through this view."""
        array = self.array
        if any(cut != (0, 0) for cut in self.cuts):
            ends = [n - end for n, (_, end) in zip(array.shape, self.cuts, strict=True)]
            array = lax.slice(array, [start for start, _ in self.cuts], ends)
        return Value(array if self.axis is None else lax.squeeze(array, [self.axis]), view=self)

    def entered(self, value: Value) -> Any | None:
        """Another operand of a number-by-number step, in the form of this view.

        Args:
            value: A value that broadcasts against the one seen through this view.

        Returns:
            Its tensor, with lengths of 1 where it repeats, or None if it does not fit.
        """
        other = value.view
        if isinstance(other, View) and (other.axis, other.cuts) == (self.axis, self.cuts):
            return other.array
        if not value.shape:
            return value.array
        array = _unspread(value)
        array = array if self.axis is None else lax.expand_dims(array, [self.axis])
        moved = [i for i, cut in enumerate(self.cuts) if cut != (0, 0)]
        fits = len(array.shape) == len(self.array.shape)
        return array if fits and all(array.shape[axis] == 1 for axis in moved) else None


def widened(value: Value, axis: int) -> Any:
    """A value's tensor with an axis of length 1 inserted.

    Args:
        value: The value.
        axis: Where the new axis goes.

    Returns:
        The tensor.
    """
    view = value.view
    if isinstance(view, View) and view.axis == axis and not view.cuts:
        return view.array
    return lax.expand_dims(value.array, [axis])


def _unspread(value: Value) -> Any:
    """A tensor with a length of 1 along each axis where it only repeats its numbers."""
    spread = value.made_by("broadcast_in_dim")
    if spread is None:
        return value.array
    source = spread.inputs[0]
    shape = [1] * len(value.shape)
    for axis, length in zip(spread.params["broadcast_dimensions"], source.shape, strict=True):
        shape[axis] = length
    return source.array.reshape(shape)


def _elementwise(step: Step, run: Run) -> Sequence[Any] | None:
    seen = next((value for value in step.inputs if value.view is not None), None)
    if seen is None or seen.shape != step.shapes[0]:
        return None
    view: View = seen.view
    arrays = [array for value in step.inputs if (array := view.entered(value)) is not None]
    if len(arrays) < len(step.inputs):
        return None
    if step.name in _STRICT:
        arrays = [jnp.broadcast_to(a, view.array.shape) if a.shape else a for a in arrays]
    return [replace(view, array=array).shown() for array in step.bind(*arrays)]


RULES: dict[str, Rule] = dict.fromkeys(ELEMENTWISE, _elementwise)
