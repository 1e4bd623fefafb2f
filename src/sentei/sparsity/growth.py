"""Moving connections while their number stays: which go, which come, how many at a time."""

from __future__ import annotations

import math
from typing import Any

import keras
import numpy as np
from keras import ops

from sentei.core.select import Axes
from sentei.sparsity.patterns import Pattern

# Multipliers of lowbias32 (Wellons 2018), an integer hash of good avalanche, as signed integers.
_FIRST, _SECOND = 0x7FEB352D, 0x846CA68B - 2**32
# Enough bits for a float32 to hold exactly.
_EXACT = 0x7FFFFF


def cosine_fraction(step: int, fraction: float, end: float) -> float:
    """The share of connections that move at an update.

    Evci et al. 2020 (arXiv:1911.11134), section 3, f_decay:
    `f(t) = fraction / 2 * (1 + cos(pi t / T_end))`, 0 from `T_end` on.

    Args:
        step: steps taken, `t`.
        fraction: the share at the beginning, alpha.
        end: `T_end`.
    """
    return 0.0 if step >= end else fraction / 2 * (1 + math.cos(math.pi * step / end))


def evolve(
    weight: Any, mask: Any, growth: Any, pattern: Pattern, axes: Axes, keep: Any, move: Any
) -> Any:
    """The mask after `move` of its units went and as many came: Evci et al. 2020, algorithm 1.

    Those of the smallest magnitude go; of all that are not kept, those of the highest growth score
    come (which may be ones that just went).

    Args:
        weight: tensor, zero where `mask` is false.
        mask: boolean tensor of the same shape.
        growth: score by which connections come, of the same shape, finite.
        pattern: which weights go together.
        axes: what the axes of the weight mean.
        keep: units of the pattern that the mask holds, before and after.
        move: how many of them move, at most `keep`.

    Returns:
        The new mask.
    """
    magnitude = ops.cast(ops.abs(weight), "float32")
    kept = pattern.mask(ops.where(mask, magnitude, -np.inf), axes, keep - move)
    kept = ops.logical_and(kept, mask)
    grown = pattern.mask(ops.where(kept, -np.inf, growth), axes, move)
    return ops.logical_or(kept, grown)


def noise(shape: tuple[int, ...], step: Any, seed: int) -> Any:
    """Random scores that depend on step and seed only, the same on every backend and under jit.

    Args:
        shape: of the result.
        step: int32 scalar.
        seed: int.

    Returns:
        float32 tensor of whole numbers in [0, 2**23).
    """
    place = ops.reshape(ops.arange(math.prod(shape), dtype="int32"), shape)
    start = _hash(ops.cast(step, "int32") + np.int32(seed & 0x7FFFFFFF))
    mixed = _hash(ops.bitwise_xor(place, start))
    return ops.cast(ops.bitwise_and(mixed, _EXACT), "float32")


def _hash(x: Any) -> Any:
    """lowbias32 on int32 tensors, whose products wrap on every backend."""
    x = ops.bitwise_xor(x, _shift(x, 16))
    x = _times(x, _FIRST)
    x = ops.bitwise_xor(x, _shift(x, 15))
    x = _times(x, _SECOND)
    return ops.bitwise_xor(x, _shift(x, 16))


def _shift(x: Any, bits: int) -> Any:
    """A shift to the right that fills up with zeros."""
    return ops.bitwise_and(ops.right_shift(x, bits), (1 << (32 - bits)) - 1)


def _times(x: Any, factor: int) -> Any:
    return x * keras.ops.convert_to_tensor(np.int32(factor))
