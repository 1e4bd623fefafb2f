"""How many bits an entropy coder would take for a tensor of integers, with a gradient to follow.

The estimate is what the codec's best mode comes near to: a share of zeros that differs from row to
row and from column to column, a sign, and magnitudes with shares of their own. Its tables are
refitted to the integers as training moves them (Wiedemann et al. 2020, "DeepCABAC",
arXiv:1907.11900, section 3; Oktay et al. 2020, arXiv:1906.06624, eq. 3), and training goes down
the slope between one integer and the next.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from keras import ops

# Magnitudes with a share of their own; larger ones have a geometric tail.
LISTED = 4
# No decision is believed to be surer than this: a coder has to learn it first.
_LEAST, _MOST = 1e-4, 0.98
_SMOOTHING = 0.02
_LEAST_SLOPE = 1.0


@dataclass(frozen=True)
class Table:
    """What a coder knows of a tensor's integers.

    Attributes:
        densities: For each axis, the share of integers that are not zero at each of its indices.
        shares: Of those that are not zero, the shares of the magnitudes 1, 2, ... `LISTED`, and of
            all larger ones; shape `(LISTED + 1,)`.
        excess: How far the larger ones are beyond `LISTED` on average; shape `(1,)`.
    """

    densities: Sequence[Any]
    shares: Any
    excess: Any


def fit(integers: Any, xp: Any = ops) -> Table:
    """The table of a tensor.

    Args:
        integers: Whole numbers in floating point, of any shape.
        xp: The library of arrays: `keras.ops` or `numpy`.
    """
    size = xp.abs(integers)
    occupied = _number(size > 0, xp)
    rank = len(integers.shape)
    around = [tuple(other for other in range(rank) if other != axis) for axis in range(rank)]
    densities = [xp.mean(occupied, axis=axes) for axes in around]
    count = xp.maximum(xp.sum(occupied), 1.0)
    larger = _number(size > LISTED, xp)
    counts = [xp.sum(_number(size == k, xp)) for k in range(1, LISTED + 1)]
    shares = xp.stack([*counts, xp.sum(larger)]) / count
    beyond = xp.sum(xp.maximum(size - float(LISTED), 0.0)) / xp.maximum(xp.sum(larger), 1.0)
    return Table(densities, shares, xp.reshape(xp.maximum(beyond, 1.0), (1,)))


def code_length(places: Any, table: Table, most: int) -> Any:
    """Bits of every element of a tensor.

    With `u` between the integers k and k + 1 the slope is that of the straight line between their
    costs, `-log2 p(k)` and `-log2 p(k + 1)`, but at least one bit: where hardly anything is zero
    yet a zero is dear, and going down would lead away from it. The value is the nearest's cost.

    Args:
        places: Where each weight is between the integers: weight / step.
        table: What the coder knows.
        most: The largest magnitude; none of `places` is beyond.

    Returns:
        Of the shape of `places`.
    """
    size = ops.abs(places)
    known = ops.stop_gradient(size)
    zero, other = of_occupation(places.shape, table)
    magnitudes = of_magnitudes(table, most + 1)
    low = ops.cast(known, "int32")  # rounds down
    below = ops.where(low > 0, other + ops.take(magnitudes, low), zero)
    above = other + ops.take(magnitudes, low + 1)
    nearest = ops.where(known - ops.cast(low, "float32") > 0.5, above, below)
    return nearest + ops.maximum(above - below, _LEAST_SLOPE) * (size - known)


def of_occupation(shape: Sequence[int], table: Table, xp: Any = ops) -> tuple[Any, Any]:
    """Bits to say that an element is zero, and that it is not.

    The chance is the product of the axes' densities, each over the whole tensor's: as if the axes
    were independent.

    Args:
        shape: The tensor's.
        table: What the coder knows.
        xp: The library of arrays: `keras.ops` or `numpy`.

    Returns:
        Two arrays of that shape.
    """
    mean = xp.maximum(xp.mean(table.densities[0]), _LEAST)
    chance = mean
    for axis, density in enumerate(table.densities):
        around = [1] * len(shape)
        around[axis] = -1
        # Half an element everywhere, so that an empty row may fill again.
        least = 0.5 * shape[axis] / math.prod(shape)
        chance = chance * xp.reshape((density + least) / (mean + least), around)
    chance = xp.clip(chance, _LEAST, _MOST)
    return -_log2(1.0 - chance, xp), -_log2(chance, xp)


def of_magnitudes(table: Table, most: int, xp: Any = ops) -> Any:
    """Bits of the sign and of each magnitude from 0 (which has none) to `most`.

    Args:
        table: What the coder knows.
        most: The largest, more than `LISTED`.
        xp: The library of arrays: `keras.ops` or `numpy`.

    Returns:
        Array of shape `(most + 1,)`.
    """
    even = 1.0 / (LISTED + 1)
    costs = 1.0 - _log2(table.shares * (1.0 - _SMOOTHING) + even * _SMOOTHING, xp)
    last = 1.0 / (table.excess[0] + 1.0)  # the chance that one of the tail is not larger still
    more = xp.arange(most - LISTED, dtype="float32")
    tail = costs[LISTED] - _log2(last, xp) - more * _log2(1.0 - last, xp)
    return xp.concatenate([xp.zeros(1), costs[:LISTED], tail])


def _log2(x: Any, xp: Any) -> Any:
    return xp.log(x) * (1.0 / math.log(2.0))


def _number(condition: Any, xp: Any) -> Any:
    return condition.astype(np.float32) if xp is np else ops.cast(condition, "float32")
