"""LiteRT's own integer kernels in fixed point, step by step: hard swish, and 4-bit convolutions.

The hard swish multiplies 16-bit numbers and rounds in between, so it is not `x * relu6(x + 3) / 6`
rounded: one integer in some hundred is another. XNNPACK leaves the operator to it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from keras import ops

from sentei.quantization.exactly import quotient

_LOWEST, _HIGHEST = -(2**15), 2**15 - 1
# The kernel reads its input with 7 more bits; relu6 at full range is 32768 steps of this.
_FINER, _RELU_STEP = 7, 3.0 / 2**15
_EXPONENTS = np.arange(-24, 16, dtype=np.float32)
# Powers of two below one, and by how many of them a factor reaches, what takes it to 1/2 or above.
_POWERS = np.exp2(np.arange(-31, 0, dtype=np.float32))
_FINER_BY = np.exp2(np.arange(31, -1, -1, dtype=np.float32))


def hard_swish(tensors: Sequence[Any], scales: Sequence[Any], output: Any, _: Any) -> Any:
    """`HardSwish` of LiteRT's reference operations; see `integers.Exact`.

    Args:
        tensors: What is read, in integers from its zero point.
        scales: The step of its grid.
        output: The step of the output's.
    """
    finer = scales[0] * (1.0 / 2**_FINER)
    factor, exponent = _multiplier(quotient(finer, output))
    relu_factor, relu_exponent = _multiplier(quotient(finer, _RELU_STEP))
    value = ops.left_shift(ops.cast(tensors[0], "int32"), _FINER)
    scaled = _rounded_product(value, factor)
    above = ops.maximum(relu_exponent - 1, 0)
    relu = _rounded_product(_saturated(ops.left_shift(value, above)), relu_factor)
    once = ops.cast(relu_exponent > 0, "int32")
    relu = _saturated(ops.left_shift(relu, once))
    relu = _shifted_right(relu, ops.maximum(-relu_exponent, 0))
    relu = ops.right_shift(relu + 2**15, 1)
    product = _towards_zero(relu * scaled)
    return ops.cast(_shifted_right(product, ops.maximum(-exponent, 0)), "float32")


def rounded_twice(total: Any, finer: Any, upwards: bool) -> Any:
    """What `MultiplyByQuantizedMultiplier` of LiteRT makes of sums.

    A factor is a number from 1/2 up to 1 and a power of two. The product with the number is rounded
    to an integer, and so is that over the power of two. Its factors have 31 bits, float32 has 24:
    one integer in a hundred thousand is another one.

    Args:
        total: The products of sums and factors, in steps.
        finer: The powers of two, see `finer_by`; they broadcast against the products.
        upwards: Whether halves go up the second time, as in the kernels of ruy, which has none for
            grouped convolutions, or away from zero, as in LiteRT's own.
    """
    once = ops.round(total * finer) / finer
    return ops.floor(once + 0.5) if upwards else ops.sign(once) * ops.floor(ops.abs(once) + 0.5)


def finer_by(factor: Any) -> Any:
    """The power of two that takes a factor below 1/2 to between 1/2 and 1; 1 for larger ones.

    Args:
        factor: Positive numbers.
    """
    reached = ops.expand_dims(factor, -1) >= ops.convert_to_tensor(_POWERS)
    count = ops.sum(ops.cast(reached, "int32"), axis=-1)
    return ops.take(ops.convert_to_tensor(_FINER_BY), count)


def _multiplier(ratio: Any) -> tuple[Any, Any]:
    """A number as `factor / 2^15 * 2^exponent`, the factor of 15 bits."""
    reached = ratio >= ops.convert_to_tensor(np.exp2(_EXPONENTS))
    exponent = ops.sum(ops.cast(reached, "int32"), keepdims=True) + int(_EXPONENTS[0])
    powers = np.exp2(15 - np.arange(int(_EXPONENTS[0]), int(_EXPONENTS[-1]) + 2))
    places = exponent - int(_EXPONENTS[0])
    size = ops.take(ops.convert_to_tensor(powers.astype(np.float32)), places)
    factor = ops.cast(ops.floor(ratio * size + 0.5), "int32")
    return ops.minimum(factor, _HIGHEST), exponent


def _towards_zero(x: Any) -> Any:
    """`x / 2^15` without its fraction, as C divides."""
    return ops.sign(x) * ops.right_shift(ops.abs(x), 15)


def _rounded_product(a: Any, b: Any) -> Any:
    product = a * b
    return _towards_zero(product + ops.where(product >= 0, 2**14, 1 - 2**14))


def _saturated(x: Any) -> Any:
    return ops.clip(x, _LOWEST, _HIGHEST)


def _shifted_right(x: Any, places: Any) -> Any:
    """Divided by a power of two, halves away from zero."""
    mask = ops.left_shift(ops.ones_like(places), places) - 1
    threshold = ops.right_shift(mask, 1) + ops.cast(x < 0, "int32")
    over = ops.cast(ops.bitwise_and(x, mask) > threshold, "int32")
    return ops.right_shift(x, places) + over
