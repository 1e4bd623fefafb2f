"""What the runtime computes from whole tensors of integers: sums, products, means, leaky slopes."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from keras import ops

from sentei.quantization.exactly import product, quotient

# From tensors in integers from their zero points, the steps of their grids (last that of the kernel
# if there is one), and step and zero point of the output's, to the output in steps from its zero
# point.
Compute = Callable[[Sequence[Any], Sequence[Any], Any, Any], Any]

LARGEST_POOL = 256
# XNNPACK adds tensors whose larger ratio of scales is from 2^-10 up to 2^8.
_RATIOS = np.float32(2.0) ** np.arange(-10, 9, dtype=np.float32)
_MULTIPLIER_BITS = 20


def product_of_two(tensors: Sequence[Any], scales: Sequence[Any], output: Any, _: Any) -> Any:
    """A product, as a `Compute`."""
    return tensors[0] * tensors[1] * quotient(product(*scales), output)


def sum_of_two(sign: int) -> Compute:
    """XNNPACK's `qs8-vadd`: fixed-point multipliers of 21 bits.

    Args:
        sign: 1 for a sum, -1 for a difference.
    """

    def compute(tensors: Sequence[Any], scales: Sequence[Any], output: Any, _: Any) -> Any:
        ratios = [quotient(scale, output) for scale in scales]
        exponent = ops.sum(
            ops.cast(ops.maximum(*ratios) >= ops.convert_to_tensor(_RATIOS), "int32")
        ) + (-10 - 1)
        shift = _MULTIPLIER_BITS - exponent
        size = ops.cast(ops.left_shift(ops.ones_like(shift), shift), "float32")
        first, second = (ops.cast(ops.round(ratio * size), "int32") for ratio in ratios)
        a, b = (ops.cast(x, "int32") for x in tensors)
        total = a * first + b * second * sign + ops.left_shift(ops.ones_like(shift), shift - 1)
        return ops.cast(ops.right_shift(total, shift), "float32")

    return compute


def mean(layer: Any) -> Compute:
    """A mean over the places of an image.

    Args:
        layer: The global pooling.
    """

    def compute(tensors: Sequence[Any], scales: Sequence[Any], output: Any, _: Any) -> Any:
        x = tensors[0]
        axes = (1, 2) if layer.data_format == "channels_last" else (2, 3)
        count = float(math.prod(int(x.shape[axis]) for axis in axes))
        total = ops.sum(x, axis=axes, keepdims=layer.keepdims)
        return total * product(quotient(scales[0], output), np.float32(1.0 / count))

    return compute


def pool(layer: Any) -> Compute:
    """LiteRT's own kernel: the integers themselves are averaged, halves go away from 0.

    Args:
        layer: The pooling, of at most `LARGEST_POOL` places.
    """

    def compute(tensors: Sequence[Any], scales: Sequence[Any], output: Any, zero: Any) -> Any:
        average = layer(tensors[0]) + zero
        # No sum of so few integers comes as close to a half without being one.
        nearest = ops.floor(ops.abs(average) + (0.5 + 0.25 / LARGEST_POOL))
        return ops.sign(average) * nearest - zero

    return compute


def leaky(slope: float | None) -> Compute:
    """XNNPACK's `qs8-vlrelu`: multipliers with 8 bits behind the point, halves go up.

    Args:
        slope: Of numbers below 0.
    """

    def compute(tensors: Sequence[Any], scales: Sequence[Any], output: Any, _: Any) -> Any:
        ratio, x = quotient(scales[0], output), tensors[0]
        above = ops.round(256.0 * ratio)
        below = ops.round(256.0 * product(ratio, np.float32(slope or 0.0)))
        return ops.floor((x * ops.where(x < 0, below, above) + 128.0) / 256.0)

    return compute
