"""The step sizes with which a weight loses least."""

from __future__ import annotations

from typing import Any

import numpy as np
from keras import ops

from sentei.quantization.grid import Grid, Kind, extremes, numbers
from sentei.quantization.weight_quantizer import WeightQuantizer

# Shares of the step of the largest number. Below a third, even two bits lose more by clipping.
_SHARES = np.linspace(1.0, 0.3, 71)


def find_steps(layer: Any) -> None:
    """Gives the weights of a quantized model, whose scheme wants it, steps of their own.

    Args:
        layer: A `QuantizedModel`.
    """
    for weight in layer.plan.weights:
        quantizer = layer.by_name[weight.label]
        if weight.steps != "largest" and type(quantizer) is WeightQuantizer:
            value = np.asarray(ops.convert_to_numpy(weight.variable.value), np.float32)
            quantizer.set_steps(nearest_step(value, weight.kind))


def nearest_step(value: np.ndarray, kind: Kind) -> np.ndarray:
    """The step sizes whose grid is nearest to a weight, in the mean of squares.

    Nagel et al. 2021 (arXiv:2106.08295), equation 5, searched over shares of the largest number.

    Args:
        value: The weight.
        kind: The sort of its grid.

    Returns:
        float32, one per scale of the grid.
    """
    value = np.asarray(value, np.float32)
    largest, zero = numbers(*extremes(value, kind, np), kind, np)
    largest = np.asarray(largest, np.float32)
    best, least = largest, np.full(largest.shape, np.inf)
    for share in _SHARES:
        step = largest * np.float32(share)
        grid = Grid(kind, step, np.asarray(zero, np.int64))
        error = _sums((grid.dequantize(grid.quantize(value)) - value) ** 2, kind)
        best = np.where(error < least, step, best)
        least = np.minimum(error, least)
    return best


def _sums(values: np.ndarray, kind: Kind) -> np.ndarray:
    """The sum of the numbers that share a scale."""
    if kind.axis is None:
        return np.sum(values, dtype=np.float64).reshape(1)
    if kind.block is None:
        axes = tuple(axis for axis in range(values.ndim) if axis != kind.axis)
        return np.asarray(np.sum(values, axis=axes, dtype=np.float64))
    blocks = -(-values.shape[0] // kind.block)
    padded = np.pad(values, ((0, blocks * kind.block - values.shape[0]), (0, 0)))
    return np.asarray(np.sum(padded.reshape(blocks, kind.block, -1), axis=1, dtype=np.float64))
