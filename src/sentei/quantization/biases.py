"""Biases as the file holds them: int32 on the grid of the products.

A contraction adds up products of integers; its bias is added to that sum, so it is rounded to a
multiple of `input scale * kernel scale`, with the batch normalization behind the contraction folded
into both (Jacob et al. 2018, arXiv:1712.05877, section 2.4, and LiteRT's quantization
specification). Where few products make a sum, this moves a whole channel by a visible share of a
step, so the simulation has to do the same.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from keras import layers as kl
from keras import ops

from sentei.core.graph import Node, Tensor
from sentei.quantization import rules
from sentei.quantization.exactly import pinned, product, quotient, root
from sentei.quantization.quantizer import Quantizer

# A factor of (nearly) zero silences a channel: the file keeps the kernel's own scale then.
SILENT = 2.0**-24
_BIASED = (
    kl.Dense,
    kl.Conv1D,
    kl.Conv2D,
    kl.Conv1DTranspose,
    kl.Conv2DTranspose,
    kl.DepthwiseConv1D,
    kl.DepthwiseConv2D,
    kl.SeparableConv1D,
    kl.SeparableConv2D,
)


@dataclass(frozen=True, eq=False)
class Folded:
    """A contraction's sums as the file forms them, the batch normalization in them.

    Attributes:
        factor: What the batch normalization multiplies each channel by, or 1.
        sign: Of each channel's sum of products, or 1.
        step: What one of that sum stands for, per channel.
        bias: What is added to it, a whole number per channel, or 0.
        real: The bias in real numbers.
    """

    factor: Any
    sign: Any
    step: Any
    bias: Any
    real: Any


@dataclass(frozen=True, eq=False)
class Contraction:
    """One call of a layer with a kernel, up to where its sums are rounded.

    Attributes:
        layer: The layer.
        normalization: The batch normalization that is folded into it, or None.
        image: The label of the grid of what it reads.
        kernel: The label of its kernel's grid.
        nodes: The indices of the fused nodes, its own first.
    """

    layer: Any
    normalization: Any
    image: str
    kernel: str
    nodes: tuple[int, ...]

    @property
    def place(self) -> int:
        """The node whose output has the bias in it: the contraction's or its normalization's."""
        return self.nodes[0] if self.normalization is None else self.nodes[1]

    @property
    def hidden(self) -> bool:
        """Whether the layer's own activation comes before its output."""
        return rules.own_activation(self.layer) != "linear"

    def folded(self, image_scale: Any, kernel_scale: Any, xp: Any = ops) -> Folded:
        """The sums' numbers, the same to the last bit from either library.

        Args:
            image_scale: The step of what is read, of shape `(1,)`.
            kernel_scale: The kernel's, of shape `(channels,)` or `(1,)`.
            xp: The library of arrays: `keras.ops`, or `numpy` for concrete numbers.
        """
        read = _traced if xp is ops else _concrete
        if isinstance(self.layer, (kl.DepthwiseConv1D, kl.DepthwiseConv2D)):
            # One scale per channel that is read: it has that many outputs.
            kernel_scale = xp.repeat(kernel_scale, self.layer.depth_multiplier)
        bias = read(self.layer.bias) if self.layer.use_bias else None
        sign: Any = 1.0
        factor: Any = 1.0
        if self.normalization is not None:
            factor, offset = affine_of_normalization(self.normalization, xp)
            bias = offset if bias is None else product(bias, factor, xp) + offset
            size = xp.abs(factor)
            silent = size < SILENT
            sign = xp.where(silent, 0.0, xp.sign(factor))
            kernel_scale = product(kernel_scale, xp.where(silent, 1.0, size), xp)
        step = product(image_scale, kernel_scale, xp)
        if bias is None:
            return Folded(factor, sign, kernel_scale, 0.0, 0.0)
        return Folded(factor, sign, kernel_scale, xp.round(quotient(bias, step, xp)), bias)

    def channels(self, values: Any, rank: int) -> Any:
        """One number per channel in a shape that goes with the output.

        Args:
            values: 1-D, or one number.
            rank: How many axes the output has.
        """
        if isinstance(values, float):
            return values
        around = [1] * rank
        around[_channel_axis(self.layer, rank)] = -1
        return (
            values.reshape(around)
            if isinstance(values, np.ndarray)
            else ops.reshape(values, around)
        )

    def rounding(self, image: Quantizer, kernel: Quantizer) -> Callable[[Any], Any]:
        """What adds to a contraction's output what rounding the bias adds to each channel.

        To be called outside of the layer: within it, variables show in the layer's precision.

        Args:
            image: The quantizer of what the contraction reads.
            kernel: The quantizer of its kernel.

        Returns:
            A function from the output, of any floating dtype, to a tensor of its shape and dtype.
        """
        scale = image.numbers()[0]
        folded = self.folded(scale, kernel.numbers()[0])
        moved = folded.bias * (scale * folded.step) - folded.real
        moved = ops.stop_gradient(ops.where(image.ready(), moved, 0.0))
        return lambda x: x + ops.cast(self.channels(moved, len(x.shape)), x.dtype)


def contractions(
    nodes: Sequence[Node],
    chains: Sequence[Sequence[int]],
    of_tensor: dict[Tensor, str],
    hidden: dict[tuple[int, str], str],
    weights: Sequence[Any],
) -> list[Contraction]:
    """The contractions of a graph that the file computes with integers.

    Args:
        nodes: The graph's.
        chains: The indices of nodes that are fused.
        of_tensor: The label of the grid of each quantized tensor.
        hidden: The labels of the grids within layers.
        weights: The plan's quantized weights.
    """
    chained = {chain[0]: tuple(chain) for chain in chains}
    found = []
    for node in nodes:
        layer = node.operation
        if not isinstance(layer, _BIASED) or len(node.inputs) != 1:
            continue
        chain = chained.get(node.index, (node.index,))
        behind = nodes[chain[1]].operation if len(chain) > 1 else None
        normalization = behind if isinstance(behind, kl.BatchNormalization) else None
        if normalization is not None and not _same_axis(layer, normalization, node):
            continue
        if layer.use_bias and any(w.variable is layer.bias for w in weights):
            continue  # on a grid of its own, already
        name = "pointwise_kernel" if hasattr(layer, "pointwise_kernel") else "kernel"
        own = [w for w in weights if w.layer is layer and w.variable.name == name]
        # A sum over several blocks is not a whole number of anything.
        kernel = own[0].label if own and own[0].kind.block is None else None
        image = hidden.get((node.index, "depthwise"), of_tensor.get(node.inputs[0]))
        if image is not None and kernel is not None and Tensor(chain[-1]) in of_tensor:
            found.append(Contraction(layer, normalization, image, kernel, chain))
    return found


def _traced(variable: Any) -> Any:
    return ops.cast(variable.value, "float32")


def _concrete(variable: Any) -> np.ndarray:
    with keras.StatelessScope():
        return np.asarray(ops.convert_to_numpy(variable.value), np.float32)


def affine_of_normalization(normalization: Any, xp: Any = ops) -> tuple[Any, Any]:
    """Factor and offset of a batch normalization at inference, one per channel.

    Args:
        normalization: The layer.
        xp: The library of arrays: `keras.ops`, or `numpy` for concrete numbers.
    """
    read = _traced if xp is ops else _concrete
    variance = read(normalization.moving_variance) + np.float32(normalization.epsilon)
    deviation = xp.maximum(root(variance, xp), np.float32(1e-30))
    gamma = read(normalization.gamma) if normalization.scale else xp.ones_like(deviation)
    factor = quotient(gamma, deviation, xp)
    offset = product(-read(normalization.moving_mean), factor, xp)
    if normalization.center:
        offset = pinned(offset + read(normalization.beta), xp)
    return factor, offset


def _channel_axis(layer: Any, rank: int) -> int:
    return 1 if getattr(layer, "data_format", None) == "channels_first" else rank - 1


def _same_axis(layer: Any, normalization: Any, node: Node) -> bool:
    if node.shape is None:
        return False
    rank = len(node.shape)
    axis = normalization.axis
    axes = [axis] if isinstance(axis, int) else list(axis)
    return [a % rank for a in axes] == [_channel_axis(layer, rank)]
