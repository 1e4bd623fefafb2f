"""Learned step sizes: LSQ, Esser et al. 2020 (arXiv:1902.08153)."""

from __future__ import annotations

from typing import Any

from keras import ops

from sentei.quantization.grid import Kind, spread, straight_through


def learned(x: Any, scale: Any, zero_point: Any, kind: Kind) -> Any:
    """Numbers rounded to a grid whose step size gets LSQ's gradient.

    Equation 3: with `v = x / s`, `dq/ds` is `round(v) - v` inside the range, and the outermost
    integer outside. With low and high end learned this is LSQ+ (Bhalgat et al. 2020,
    arXiv:2004.09576), whose offset moves with the ends.

    Args:
        x: The tensor, float32.
        scale: One per channel, or one; it depends on what is learned.
        zero_point: The same shape, floating; without gradient.
        kind: The grid's kind.

    Returns:
        The same numbers as `fake_quantize`.
    """
    shape = tuple(x.shape)
    step, zero = spread(scale, shape, kind), ops.stop_gradient(spread(zero_point, shape, kind))
    fixed, low, high = ops.stop_gradient(step), kind.low - zero, kind.high - zero
    rounded = straight_through(x, fixed, low, high, kind.rounding)
    inside = ops.logical_and(x >= low * fixed, x <= high * fixed)
    slope = (rounded - ops.where(inside, x, 0.0)) / fixed
    return rounded + ops.stop_gradient(slope) * (step - fixed)


def slowed(value: Any, count: Any, kind: Kind) -> Any:
    """A step size, or a range's end, with its gradient scaled: `g = 1 / sqrt(N Q_P)`.

    Esser et al. 2020, section 2.2: the gradients of N numbers add up in one step size, which would
    otherwise move far faster than the weights do.

    Args:
        value: The step sizes.
        count: How many numbers share one: N.
        kind: The grid's kind; its highest integer is `Q_P`.

    Returns:
        The same numbers.
    """
    factor = 1.0 / ops.sqrt(ops.cast(count, "float32") * float(kind.high))
    fixed = ops.stop_gradient(value)
    # The difference is zero: not a bit of the value changes.
    return fixed + factor * (value - fixed)
