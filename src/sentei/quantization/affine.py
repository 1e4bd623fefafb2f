"""Operations that multiply channels by numbers and add numbers: `y = x * factor + offset`.

A batch normalization with no convolution before it, `Rescaling`, `Normalization`, the hard sigmoid,
and arithmetic of a tensor with a constant. LiteRT has no integer operator with real constants, but
a depthwise convolution of 1 x 1 is one: channel c has the kernel `127 * sign(factor_c)` on the step
`|factor_c| / 127`, which is the factor without an error, and the offset is its int32 bias.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from keras import layers as kl
from keras import ops

from sentei.core.graph import Node, Tensor
from sentei.quantization import rules
from sentei.quantization.biases import SILENT, affine_of_normalization
from sentei.quantization.exactly import product, quotient
from sentei.quantization.grid import Grid, Kind
from sentei.quantization.quantizer import Quantizer

# From a library of arrays to factor and offset, each float32 of shape `(channels,)` or `(1,)`.
Numbers = Callable[[Any], tuple[Any, Any]]

_LARGEST = 127.0
_KERNEL = Kind(bits=8, symmetric=True, narrow=True, axis=2)


@dataclass(frozen=True, eq=False)
class Affine:
    """A node that multiplies and adds, with a rectifier fused behind it.

    Attributes:
        image: The label of the grid of what it reads.
        output: The label of the grid it ends on.
        tensor: The tensor on that grid.
        nodes: The indices of the fused nodes, its own first.
        limits: What the rectifier cuts off; infinite where there is none.
        numbers: Its factors and offsets.
    """

    image: str
    output: str
    tensor: Tensor
    nodes: tuple[int, ...]
    limits: tuple[float, float]
    numbers: Numbers

    def sums(self, image: Any, xp: Any = ops) -> tuple[Any, Any, Any]:
        """The convolution's numbers, the same to the last bit from either library.

        Args:
            image: The step of the grid that is read, of shape `(1,)`.
            xp: The library of arrays: `keras.ops`, or `numpy` for concrete numbers.

        Returns:
            Of each channel, or of all: the kernel's integer, its step, and the bias, a whole number
            of steps of the products.
        """
        factor, offset = self.numbers(xp)
        size = xp.abs(factor)
        silent = size < SILENT
        # Not divided by 127: XLA would multiply by the reciprocal, numpy would not.
        step = product(xp.where(silent, 1.0, size), np.float32(1 / _LARGEST), xp)
        integer = xp.where(silent, 0.0, xp.sign(factor) * np.float32(_LARGEST))
        return integer, step, xp.round(quotient(offset, product(image, step, xp), xp))

    def compute(self, tensors: Sequence[Any], scales: Sequence[Any], output: Any, _: Any) -> Any:
        """The output in steps of its grid, as XNNPACK computes it; see `integers.Exact`.

        Args:
            tensors: What is read, in integers from its zero point.
            scales: The step of its grid.
            output: The step of the output's.
        """
        integer, step, bias = self.sums(scales[0])
        return (tensors[0] * integer + bias) * quotient(product(scales[0], step), output)

    def emitted(self, x: Any, image: Quantizer, output: Quantizer) -> Any:
        """The convolution that the file shall hold, on marked tensors.

        Args:
            x: What is read, of shape `(batch, ..., channels)`.
            image: The quantizer of its grid, which marks.
            output: That of the output's.

        Returns:
            The output with its rectifier, of the shape of `x`.
        """
        mark: Any = image.emit
        grid, shape = image.grid(), tuple(x.shape)
        integer, step, bias = (
            np.broadcast_to(values, (shape[-1],)) for values in self.sums(grid.scale, np)
        )
        kernel = np.reshape(integer * step, (1, 1, -1, 1)).astype(np.float32)
        zeros = np.zeros(step.shape, np.int64)
        marked = mark(ops.convert_to_tensor(kernel), Grid(_KERNEL, step.copy(), zeros))
        if len(shape) != _IMAGE_RANK:
            x = mark(ops.reshape(x, _as_image(shape)), grid)
        y = ops.depthwise_conv(x, marked, 1, padding="valid", data_format="channels_last")
        if np.any(bias):
            # In double precision: the converter divides by the step again.
            real = bias.astype(np.float64) * (grid.scale.astype(np.float64) * step)
            y = y + ops.convert_to_tensor(np.reshape(real, (1, 1, 1, -1)).astype(np.float32))
        if self.limits[0] == 0.0:
            y = ops.relu6(y) if math.isfinite(self.limits[1]) else ops.relu(y)
        if len(shape) == _IMAGE_RANK:
            return y
        y = mark(y, output.grid())
        return ops.reshape(y, (-1, *shape[1:]))


_IMAGE_RANK = 4


def _as_image(shape: tuple[int | None, ...]) -> tuple[int, ...]:
    """A shape of four axes with the same channels."""
    between = [int(size or -1) for size in shape[1:-1]]
    rows, columns = math.prod(between[:1]), math.prod(between[1:])
    return -1, rows, columns, int(shape[-1] or -1)


def numbers_of(node: Node, nodes: Sequence[Node]) -> Numbers | None:
    """The factors and offsets of a node that multiplies and adds per channel; None for others.

    Args:
        node: The node.
        nodes: The graph's.
    """
    if len(node.inputs) != 1 or nodes[node.inputs[0].node].shape is None:
        return None
    shape = nodes[node.inputs[0].node].shape or ()
    if len(shape) < 2 or any(size is None for size in shape[1:]):
        return None
    channels, layer = int(shape[-1] or 0), node.operation
    if isinstance(layer, kl.BatchNormalization):
        return _normalized(layer) if layer.axis in (-1, len(shape) - 1) else None
    if isinstance(layer, kl.Rescaling):
        return _constants(layer.scale, layer.offset, channels)
    if isinstance(layer, kl.Normalization):
        return _standardized(layer, channels)
    if rules.role(layer) == ("function", "hard_sigmoid"):
        return _constants(1 / 6, 0.5, channels)
    return _with_a_constant(node, channels)


def affines(
    nodes: Sequence[Node],
    chains: Sequence[Sequence[int]],
    of_tensor: Mapping[Tensor, str],
    numbers: Mapping[int, Numbers],
    limits: Callable[[Sequence[int]], tuple[float, float] | None],
) -> dict[int, Affine]:
    """The nodes of a graph that become depthwise convolutions, by index.

    Args:
        nodes: The graph's.
        chains: The indices of nodes that are fused.
        of_tensor: The label of the grid of each quantized tensor.
        numbers: What `numbers_of` gives, by index; only where it gives something.
        limits: What the last of some fused nodes cuts off; None if it is no rectifier.
    """
    chained = {chain[0]: tuple(chain) for chain in chains}
    inside = {index for chain in chains for index in chain[1:]}
    found: dict[int, Affine] = {}
    for index, own in numbers.items():
        chain = chained.get(index, (index,))
        tensor = Tensor(chain[-1])
        if index in inside or tensor not in of_tensor:
            continue
        cut, image = limits(chain), of_tensor.get(nodes[index].inputs[0])
        if cut is not None and image is not None:
            found[index] = Affine(image, of_tensor[tensor], tensor, chain, cut, own)
    return found


def _normalized(layer: Any) -> Numbers:
    return lambda xp: affine_of_normalization(layer, xp)


def _standardized(layer: Any, channels: int) -> Numbers | None:
    if getattr(layer, "mean", None) is None:
        return None
    mean, variance = (np.float32(ops.convert_to_numpy(x)) for x in (layer.mean, layer.variance))
    deviation = np.maximum(np.sqrt(variance), np.float32(keras.config.epsilon()))
    if layer.invert:
        return _constants(deviation, mean, channels)
    return _constants(1.0 / deviation, -mean / deviation, channels)


def _with_a_constant(node: Node, channels: int) -> Numbers | None:
    """A sum, difference, product or quotient of a tensor and a constant."""
    leaves = keras.tree.flatten((node.args, node.kwargs))
    if len(leaves) != 2:
        return None
    first = isinstance(leaves[0], Tensor)
    constant: Any = leaves[1] if first else leaves[0]
    name = type(node.operation).__name__
    try:
        value = np.asarray(ops.convert_to_numpy(constant), np.float32)
    except (TypeError, ValueError):
        return None
    if name == "Add":
        return _constants(1.0, value, channels)
    if name == "Subtract":
        return _constants(1.0, -value, channels) if first else _constants(-1.0, value, channels)
    if name == "Multiply":
        return _constants(value, 0.0, channels)
    if name in ("Divide", "TrueDivide") and first and np.all(value != 0):
        return _constants(1.0 / value, 0.0, channels)
    return None


def _constants(factor: Any, offset: Any, channels: int) -> Numbers | None:
    """Numbers that are known now; None unless there is one for all channels or one for each."""
    values = [np.asarray(value, np.float32) for value in (factor, offset)]
    for value in values:
        if value.size not in (1, channels) or (value.size > 1 and value.shape[-1] != value.size):
            return None
        if not np.all(np.isfinite(value)):
            return None
    values = [value.reshape(-1) for value in values]
    return lambda xp: tuple(v if xp is np else ops.convert_to_tensor(v) for v in values)  # type: ignore[return-value]
