"""Pooling over any number of axes as LiteRT's 2-D max and average pooling.

A window over several axes is a window over two of them, then over the rest: the maximum of maxima,
the mean of means (under "same" padding too, where the counts of each axis multiply).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import lax

from sentei.litert.rewrites.graph import Rule, Run, Step, Value, size
from sentei.litert.rewrites.views import View, widened


@dataclass(frozen=True)
class _Window:
    """A pooling window; each attribute has one entry per axis of the tensor."""

    lengths: tuple[int, ...]
    strides: tuple[int, ...]
    padding: tuple[tuple[int, int], ...]

    @classmethod
    def of(cls, step: Step) -> _Window | None:
        """The window of a step, if it is a plain one."""
        dilations = (*step.params["base_dilation"], *step.params["window_dilation"])
        if any(d != 1 for d in dilations) or not step.inputs[0].floating:
            return None
        return cls(
            tuple(step.params["window_dimensions"]),
            tuple(step.params["window_strides"]),
            tuple((int(low), int(high)) for low, high in step.params["padding"]),
        )

    def axes(self) -> list[int]:
        """The axes along which the window does anything."""
        rows = zip(self.lengths, self.strides, self.padding, strict=True)
        return [i for i, row in enumerate(rows) if row != (1, 1, (0, 0))]

    def same(self, shape: Sequence[int]) -> bool:
        """Whether the padding is none or that of TensorFlow's "same" on every axis."""
        return all(
            pads in ((0, 0), _same_padding(length, window, stride))
            for length, window, stride, pads in zip(
                shape, self.lengths, self.strides, self.padding, strict=True
            )
        )

    def wide(self, axis: int) -> _Window:
        """The same window on a tensor with an axis inserted."""

        def insert(row: tuple[Any, ...], item: Any) -> tuple[Any, ...]:
            return (*row[:axis], item, *row[axis:])

        return _Window(
            insert(self.lengths, 1), insert(self.strides, 1), insert(self.padding, (0, 0))
        )


def _same_padding(length: int, window: int, stride: int) -> tuple[int, int]:
    total = max((-(-length // stride) - 1) * stride + window - length, 0)
    return total // 2, total - total // 2


_Pool = Callable[[Any, _Window], Any]


def _max(array: Any, window: _Window) -> Any:
    """Max pooling of an image batch, in the form the converter turns into MAX_POOL_2D."""
    return lax.reduce_window(
        array, -np.inf, lax.max, window.lengths, window.strides, window.padding
    )


def _mean(array: Any, window: _Window) -> Any:
    """Mean pooling without counting padding, in the form turned into AVERAGE_POOL_2D."""
    configuration = (window.lengths, window.strides, window.padding)
    total = lax.reduce_window(array, 0.0, lax.add, *configuration)
    if all(pads == (0, 0) for pads in window.padding):
        return total / float(size(window.lengths))
    return total / lax.reduce_window(jnp.ones_like(array), 0.0, lax.add, *configuration)


def _pooled(value: Value, window: _Window, pool: _Pool) -> Value:
    """Pools a tensor of any rank by 2-D pooling."""
    axes = window.axes()
    if len(value.shape) == 3 and axes == [1]:
        return View(pool(widened(value, 1), window.wide(1)), axis=1).shown()
    array = value.array
    while axes:
        pair = axes[-2:] if len(axes) > 1 and axes[-1] - axes[-2] == 1 else axes[-1:]
        array = _pooled_along(array, pair, window, pool)
        axes = axes[: -len(pair)]
    return Value(array)


def _pooled_along(array: Any, axes: list[int], window: _Window, pool: _Pool) -> Any:
    """Pools along one axis or two adjacent ones; before is the batch, after channels."""
    before, after = array.shape[: axes[0]], array.shape[axes[-1] + 1 :]
    spatial = [array.shape[axis] for axis in axes]
    lone = [1] * (2 - len(axes))
    image = array.reshape(size(before), *spatial, *lone, size(after))
    pooled = pool(
        image,
        _Window(
            (1, *[window.lengths[a] for a in axes], *lone, 1),
            (1, *[window.strides[a] for a in axes], *lone, 1),
            ((0, 0), *[window.padding[a] for a in axes], *[(0, 0)] * len(lone), (0, 0)),
        ),
    )
    return pooled.reshape(*before, *pooled.shape[1 : 1 + len(axes)], *after)


def _maximum(step: Step, run: Run) -> Sequence[Any] | None:
    window = _Window.of(step)
    return None if window is None else [_pooled(step.inputs[0], window, _max)]


def _sum(step: Step, run: Run) -> Sequence[Any] | None:
    """A sum is the mean times the window's size, with the padding's zeros counted."""
    window = _Window.of(step)
    if window is None:
        return None
    padded = Value(jnp.pad(step.inputs[0].array, window.padding))
    mean = _pooled(padded, replace(window, padding=((0, 0),) * len(window.padding)), _mean)
    return [mean.array * float(size(window.lengths))]


def _quotient(step: Step, run: Run) -> Sequence[Any] | None:
    """A window's sum over its count of real numbers is mean pooling."""
    total = step.inputs[0].made_by("reduce_window_sum")
    window = _Window.of(total) if total is not None else None
    if total is None or window is None or not window.same(total.inputs[0].shape):
        return None
    padded = any(pads != (0, 0) for pads in window.padding)
    if padded:
        if not _counts(step.inputs[1], window):
            return None
    elif step.inputs[1].scalar != size(window.lengths):
        return None
    return [_pooled(total.inputs[0], window, _mean)]


def _counts(value: Value, window: _Window) -> bool:
    """Whether a value counts, for each window, the numbers that are not padding."""
    spread = value.made_by("broadcast_in_dim")
    counts = (spread.inputs[0] if spread is not None else value).made_by("reduce_window_sum")
    if counts is None or counts.inputs[0].scalar != 1.0:
        return False
    other = _Window.of(counts)
    return other is not None and [
        (other.lengths[a], other.strides[a], other.padding[a]) for a in other.axes()
    ] == [(window.lengths[a], window.strides[a], window.padding[a]) for a in window.axes()]


RULES: dict[str, Rule] = {
    "reduce_window_max": _maximum,
    "reduce_window_sum": _sum,
    "div": _quotient,
}
