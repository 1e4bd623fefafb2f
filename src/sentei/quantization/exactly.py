"""Products and quotients whose last bit no compiler changes.

A quantized file computes with numbers that are worked out beforehand: a multiplier per channel, a
bias as an integer. The simulation works the same numbers out in a compiled program, and XLA does
not compute what one wrote: `x / s` with one `s` for many `x` becomes `x * (1 / s)`, quotients of
products are divided in another order, `g / sqrt(x)` becomes `g * rsqrt(x)`, and a product that is
added to something is added without being rounded (a fused multiply-add). PyTorch's roots and
TensorFlow's reciprocals are not rounded to the nearest. Each changes the last bit of one number in
some, and beside a tie that is another integer for a whole channel.

A maximum with the lowest number changes no number, and none of this passes through it.
"""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from keras import ops

_LOWEST = np.finfo(np.float32).min


def pinned(x: Any, xp: Any = ops) -> Any:
    """The same numbers, computed by themselves.

    Args:
        x: Finite, float32.
        xp: The library of arrays: `keras.ops` or `numpy`.
    """
    return xp.maximum(x, _LOWEST)


def root(x: Any, xp: Any = ops) -> Any:
    """The square root, rounded once.

    Args:
        x: Not negative, float32.
        xp: The library of arrays: `keras.ops` or `numpy`.
    """
    # Not on a device that has no float64; elsewhere single precision is right already.
    if xp is ops and keras.backend.backend() == "torch" and x.device.type != "mps":
        return ops.cast(ops.sqrt(ops.cast(x, "float64")), "float32")
    return pinned(xp.sqrt(x), xp)


def product(a: Any, b: Any, xp: Any = ops) -> Any:
    """`a * b`, rounded once.

    Args:
        a: Finite, float32.
        b: Likewise, of a shape that goes with it.
        xp: The library of arrays: `keras.ops` or `numpy`.
    """
    return pinned(a * b, xp)


def inverse(x: Any, xp: Any = ops) -> Any:
    """`1 / x`, rounded once.

    Args:
        x: Positive, float32.
        xp: The library of arrays: `keras.ops` or `numpy`.
    """
    # A one that no compiler knows, so that it is a division.
    return pinned(xp.sign(x) / x, xp)


def quotient(a: Any, b: Any, xp: Any = ops) -> Any:
    """`a / b`, rounded once.

    Args:
        a: Finite, float32.
        b: Not 0, of a shape that goes with it.
        xp: The library of arrays: `keras.ops` or `numpy`.
    """
    # The sum changes no number either: it is one divisor for each dividend.
    return pinned(pinned(a, xp) / (b + 0.0 * a), xp)
