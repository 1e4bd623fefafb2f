"""How the kernels of the runtime bring the sums of a contraction to the grid of its output.

XNNPACK rounds once. The runtime's own kernels, which run what XNNPACK does not take (4-bit kernels)
and which microcontrollers have, round twice.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from keras import ops

from sentei.litert.flatmodel import Operator, Tensor
from sentei.litert.runtime import Kernels
from sentei.quantization.fixed_point import rounded_twice

# Operators that multiply by a kernel: the places of the tensor they read and of the kernel.
_KERNEL_OF = {
    "CONV_2D": (0, 1),
    "DEPTHWISE_CONV_2D": (0, 1),
    "FULLY_CONNECTED": (0, 1),
    "TRANSPOSE_CONV": (2, 1),
}


def second_shifts(
    operator: Operator, tensors: Sequence[Tensor], kernels: Kernels
) -> np.ndarray | None:
    """The second of the two roundings of the runtime's kernels, per channel; None if there is none.

    The sum is multiplied with a factor in [1/2, 1) and rounded, then shifted right and rounded
    again: `MultiplyByQuantizedMultiplier` of LiteRT. The reference kernels of dense layers were
    seen to round once.

    Args:
        operator: Any operator.
        tensors: The tensors of its graph.
        kernels: Which of the runtime's kernels run it.

    Returns:
        By how many bits each channel is shifted, -1 where it is rounded once.
    """
    if operator.name not in _KERNEL_OF:
        return None
    if kernels == "reference" and operator.name == "FULLY_CONNECTED":
        return None
    once = kernels == "xnnpack" and not _left_to_runtime(operator, tensors)
    if tensors[operator.outputs[0]].dtype != "int8":
        return None
    image, kernel = _KERNEL_OF[operator.name]
    grids = [tensors[i].quantization for i in (operator.inputs[image], operator.inputs[kernel])]
    output = tensors[operator.outputs[0]].quantization
    if output is None or any(grid is None for grid in grids):
        return None
    factors = [np.asarray(grid.scale, np.float64) for grid in grids if grid is not None]
    _, exponents = np.frexp(factors[0] * factors[1] / np.float64(output.scale[0]))
    shifts = np.full_like(exponents, -1) if once else np.maximum(-exponents, 0)
    channels = tensors[operator.outputs[0]].shape[-1]
    return np.broadcast_to(shifts.astype(np.float32), (channels,))


def _left_to_runtime(operator: Operator, tensors: Sequence[Tensor]) -> bool:
    """Whether XNNPACK does not take an operator: 4-bit kernels, but for even dense layers."""
    kernel = tensors[operator.inputs[_KERNEL_OF[operator.name][1]]]
    even = operator.name == "FULLY_CONNECTED" and kernel.shape[-1] % 2 == 0
    return kernel.dtype == "int4" and not even


def halves_go_up(operator: Operator, tensors: Sequence[Tensor]) -> bool:
    """Whether the second rounding is that of ruy's kernels, which has none for groups.

    Args:
        operator: An operator that `second_shifts` knows.
        tensors: The tensors of its graph.
    """
    image, kernel = (tensors[operator.inputs[place]] for place in _KERNEL_OF[operator.name])
    return operator.name != "CONV_2D" or image.shape[-1] == kernel.shape[-1]


def integers_of(steps: Any, grid: Any, shift: Any, upwards: bool) -> Any:
    """A tensor's integers, flat, as the runtime's own kernels round its sums; see `second_shifts`.

    Args:
        steps: The tensor in steps from its zero point, channels last.
        grid: Its grid, of one scale.
        shift: Per channel; -1 where it is rounded once.
        upwards: Whether the second time halves go up, as in fast kernels, or away from zero.
    """
    shift = ops.convert_to_tensor(shift)
    whole = ops.reshape(steps, (-1, int(shift.shape[0])))
    second = rounded_twice(whole, ops.power(2.0, ops.maximum(shift, 0.0)), upwards)
    integers = ops.where(shift < 0, ops.round(whole), second) + float(grid.zero_point[0])
    return ops.reshape(ops.clip(integers, grid.kind.low, grid.kind.high), (-1,))
