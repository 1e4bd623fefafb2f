"""Integer arithmetic as the runtime does it, in floating point: not one step off, at any depth.

Rounding a real sum is not enough: it differs from rounding the integers' sum once in some ten
thousand numbers, and a deep network multiplies one such step to as much as all of its rounding
errors together. So at inference the sums are formed of integers, which float32 adds up exactly,
and brought to the output's grid by the very operations of XNNPACK, which runs the file on phones
and in browsers:

- contractions: `round(float32(sum) * (s_in * s_kernel / s_out))`, halves to even (its `qs8-qc8w`
  kernels with "fp32" requantization); products of two tensors and means likewise;
- sums of two tensors: fixed-point multipliers of 21 bits (its `qs8-vadd` kernels);
- contractions that XNNPACK leaves to the runtime, those of 4-bit weights: rounded twice, see
  `fixed_point.rounded_twice`.

Jacob et al. 2018 (arXiv:1712.05877), section 2, is where the scheme comes from.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import keras
import numpy as np
from keras import layers as kl
from keras import ops

from sentei.core.graph import Node, Tensor
from sentei.quantization import computed, rules
from sentei.quantization.affine import Affine
from sentei.quantization.biases import Contraction
from sentei.quantization.computed import Compute
from sentei.quantization.exactly import inverse, product, quotient
from sentei.quantization.fixed_point import finer_by, hard_swish, rounded_twice
from sentei.quantization.grid import Kind

# From the output in steps, these steps of grids and that of the output's, to whole steps.
Rounding = Callable[[Any, Sequence[Any], Any], Any]

_ADDS = {"Add": 1, "Subtract": -1}


@dataclass(frozen=True, eq=False)
class Exact:
    """A node that is computed in integers, with those fused behind it.

    Attributes:
        read: The labels of the grids of the tensors it reads.
        output: The label of the grid it ends on.
        tensor: The tensor on that grid; None: it is hidden before the layer's own activation.
        nodes: The indices of the fused nodes, its own first.
        limits: What a rectifier cuts off, in real numbers; infinite where there is none.
        compute: The arithmetic, up to the rounding.
        kernel: The label of the kernel's grid, or None.
        contraction: What is known of its bias, or None.
        rounded: How the runtime rounds what `steps` gives.
    """

    read: tuple[str, ...]
    output: str
    tensor: Tensor | None
    nodes: tuple[int, ...]
    limits: tuple[float, float]
    compute: Compute
    kernel: str | None = None
    contraction: Contraction | None = None
    rounded: Rounding = lambda total, *_: ops.round(total)

    def steps(self, tensors: Sequence[Any], scales: Sequence[Any], output: Any, zero: Any) -> Any:
        """The output in steps from its zero point, rectified and not rounded yet.

        Args:
            tensors: What is read, in integers from the zero points, float32.
            scales: The steps of their grids, and last that of the kernel if there is one.
            output: The step of the output's grid, of shape `(1,)` like the others.
            zero: Its zero point, floating.
        """
        total = self.compute(tensors, scales, output, zero)
        low, high = self.limits
        if math.isfinite(low):
            total = ops.maximum(total, low / output)
        return ops.minimum(total, high / output) if math.isfinite(high) else total


def exact_nodes(
    nodes: Sequence[Node],
    chains: Sequence[Sequence[int]],
    of_tensor: Mapping[Tensor, str],
    hidden: Mapping[tuple[int, str], str],
    kinds: Mapping[str, Kind],
    found: Sequence[Contraction],
    affines: Mapping[int, Affine],
) -> dict[int, Exact]:
    """The nodes of a graph whose integers are known to the last bit.

    Args:
        nodes: The graph's.
        chains: The indices of nodes that are fused.
        of_tensor: The label of the grid of each quantized tensor.
        hidden: The labels of the grids within layers.
        kinds: The kinds of all grids by their labels.
        found: The contractions.
        affines: What becomes a convolution, by index.

    Returns:
        By the index of the first of the fused nodes.
    """
    chained = {chain[0]: tuple(chain) for chain in chains}
    exact: dict[int, Exact] = {}
    for contraction in found:
        kernel = kinds[contraction.kernel]
        entry = _of_contraction(contraction, nodes, of_tensor, hidden, kernel)
        if entry is not None:
            exact[entry.nodes[0]] = entry
    for node in nodes:
        entry = _of_sum(node, nodes, chained.get(node.index, (node.index,)), of_tensor)
        if entry is not None:
            exact[node.index] = entry
    for index, affine in affines.items():
        read = (affine.image,)
        exact[index] = Exact(
            read, affine.output, affine.tensor, affine.nodes, affine.limits, affine.compute
        )
    return {i: e for i, e in exact.items() if _is_known(e, nodes[i], nodes, kinds)}


def exact_gates(
    nodes: Sequence[Node],
    of_tensor: Mapping[Tensor, str],
    hidden: Mapping[tuple[int, str], str],
    kinds: Mapping[str, Kind],
) -> dict[int, Exact]:
    """The activations within layers, and in SiLU, whose integers are known, by the node's index.

    Args:
        nodes: The graph's.
        of_tensor: The label of the grid of each quantized tensor.
        hidden: The labels of the grids within layers.
        kinds: The kinds of all grids by their labels.
    """
    found: dict[int, Exact] = {}
    for (index, where), label in hidden.items():
        node = nodes[index]
        image = hidden.get((index, "activation"), of_tensor.get(node.inputs[0]))
        output = of_tensor.get(Tensor(index))
        if image is None or output is None:
            continue
        if where == "sigmoid":
            read: tuple[str, ...] = (image, label)
            compute: Compute = computed.product_of_two
        elif where == "activation" and rules.own_activation(node.operation) == "hard_silu":
            read, compute = (image,), hard_swish
        else:
            continue
        limits = -math.inf, math.inf
        entry = Exact(read, output, Tensor(index), (index,), limits, compute)
        if _is_known(entry, node, nodes, kinds):
            found[index] = entry
    return found


def _is_known(entry: Exact, node: Node, nodes: Sequence[Node], kinds: Mapping[str, Kind]) -> bool:
    labels = [*entry.read, entry.output, *([] if entry.kernel is None else [entry.kernel])]
    read = [nodes[i] for i in (*entry.nodes, *(tensor.node for tensor in node.inputs))]
    return all(_ordinary(kinds[one]) for one in labels) and all(map(_single_precision, read))


def _ordinary(kind: Kind) -> bool:
    return kind.bits <= 8 and kind.block is None and kind.rounding == "half_even"


def _single_precision(node: Node) -> bool:
    """Whether a node computes in float32: half precision does not hold all integers."""
    policy = getattr(node.operation, "compute_dtype", "float32")
    return policy == "float32" and node.dtype in (None, "float32")


def _limits(operation: Any) -> tuple[float, float] | None:
    """What a rectifier cuts off; None for other operations."""
    if isinstance(operation, kl.ReLU):
        top = operation.max_value
        return 0.0, math.inf if top is None else float(top)
    if isinstance(operation, kl.Activation):
        name = rules.activation_name(operation.activation)
    else:
        name = type(operation).__name__.lower()
    return {"relu": (0.0, math.inf), "relu6": (0.0, 6.0)}.get(name)


def limits_behind(nodes: Sequence[Node], chain: Sequence[int]) -> tuple[float, float] | None:
    """What the last of some fused nodes cuts off; None if it is neither rectifier nor first.

    Args:
        nodes: The graph's.
        chain: The indices of the fused nodes.
    """
    operation = nodes[chain[-1]].operation
    if len(chain) > 1 and not isinstance(operation, kl.BatchNormalization):
        return _limits(operation)
    return -math.inf, math.inf


def _of_contraction(
    found: Contraction,
    nodes: Sequence[Node],
    of_tensor: Mapping[Tensor, str],
    hidden: Mapping[tuple[int, str], str],
    kernel: Kind,
) -> Exact | None:
    layer, first = found.layer, found.nodes[0]
    if hasattr(layer, "pointwise_kernel"):
        return None
    tensor: Tensor | None = Tensor(found.nodes[-1])
    limits = limits_behind(nodes, found.nodes)
    output = of_tensor[Tensor(found.nodes[-1])]
    if found.hidden:
        name = rules.own_activation(layer)
        if name in rules.RECTIFIERS:
            limits = (0.0, 6.0 if name == "relu6" else math.inf)
        else:
            tensor, output = None, hidden[first, "activation"]
    if limits is None:
        return None

    def compute(tensors: Sequence[Any], scales: Sequence[Any], output: Any, _: Any) -> Any:
        image, kernel = scales
        total = ops.round(_products(layer, tensors[0], kernel))
        rank = len(total.shape)
        folded = found.folded(image, kernel)
        total = total * found.channels(folded.sign, rank) + found.channels(folded.bias, rank)
        return total * factor(scales, output, rank)

    def factor(scales: Sequence[Any], output: Any, rank: int) -> Any:
        image, kernel = scales
        ratio = quotient(product(image, found.folded(image, kernel).step), output)
        return found.channels(ratio, rank)

    def twice(total: Any, scales: Sequence[Any], output: Any) -> Any:
        finer = finer_by(factor(scales, output, len(total.shape)))
        return rounded_twice(total, finer, upwards=getattr(layer, "groups", 1) == 1)

    labels = (found.image,)
    entry = Exact(labels, output, tensor, found.nodes, limits, compute, found.kernel, found)
    return replace(entry, rounded=twice) if _left_to_runtime(layer, kernel) else entry


def _left_to_runtime(layer: Any, kernel: Kind) -> bool:
    """Whether XNNPACK does not take a contraction: its 4-bit kernels are for even dense layers."""
    # A depthwise kernel of 4 bits is held in 8.
    if kernel.bits != 4 or isinstance(layer, (kl.DepthwiseConv1D, kl.DepthwiseConv2D)):
        return False
    return not isinstance(layer, (kl.Dense, kl.EinsumDense)) or layer.kernel.shape[0] % 2 == 1


def _products(layer: Any, x: Any, scale: Any) -> Any:
    """A layer's sums of products of integers: without bias and activation."""
    axis = {id(variable): axis for variable, axis in rules.kernels(layer)}[id(layer.kernel)]
    around = [1] * len(layer.kernel.shape)
    if axis is not None:
        around[axis] = -1
    integers = ops.round(layer.kernel.value * inverse(ops.reshape(scale, around)))
    with _bare(layer, integers):
        return layer(x)


@contextmanager
def _bare(layer: Any, kernel: Any) -> Iterator[None]:
    """A layer with a bias of zeros, no activation and a kernel of one's choice."""
    values = [(variable, variable.value) for variable in layer.variables]
    if layer.use_bias:
        zeros = np.zeros(layer.bias.shape, "float32")
        values = [(v, ops.convert_to_tensor(zeros) if v is layer.bias else x) for v, x in values]
    values = [(v, kernel if v is layer.kernel else value) for v, value in values]
    activation = layer.activation
    try:
        layer.activation = None
        with keras.StatelessScope(values):
            yield
    finally:
        layer.activation = activation


def emitted(found: Contraction, x: Any, image: np.ndarray, kernel: np.ndarray) -> Any:
    """A contraction as the file shall hold it: its factor and bias as constants, rounded here.

    Args:
        found: The contraction.
        x: What it reads.
        image: The step of its grid, of shape `(1,)`.
        kernel: The kernel's, of shape `(channels,)` or `(1,)`.

    Returns:
        Its output with the batch normalization, before any activation.
    """
    folded = found.folded(image, kernel, np)
    with _bare(found.layer, found.layer.kernel.value):
        y = found.layer(x)
    rank = len(y.shape)
    if found.normalization is not None:
        y = y * found.channels(folded.factor, rank)
    if isinstance(folded.bias, float):
        return y
    # In double precision: the converter divides by the step again.
    bias = folded.bias.astype(np.float64) * (image.astype(np.float64) * folded.step)
    return y + found.channels(bias.astype(np.float32), rank)


def _of_sum(
    node: Node, nodes: Sequence[Node], chain: tuple[int, ...], of_tensor: Mapping[Tensor, str]
) -> Exact | None:
    """A sum, difference or product of two tensors, a mean over an image or parts of it."""
    tensor, read = Tensor(chain[-1]), node.inputs
    limits = limits_behind(nodes, chain)
    if limits is None or tensor not in of_tensor or any(t not in of_tensor for t in read):
        return None
    name = type(node.operation).__name__
    compute: Any
    if len(read) == 2 and name in _ADDS and _leaves(node) == 2:
        compute = computed.sum_of_two(_ADDS[name])
    elif len(read) == 2 and name == "Multiply" and _leaves(node) == 2:
        compute = computed.product_of_two
    elif name == "GlobalAveragePooling2D":
        compute = computed.mean(node.operation)
    elif (
        name == "AveragePooling2D" and math.prod(node.operation.pool_size) <= computed.LARGEST_POOL
    ):
        compute = computed.pool(node.operation)
    elif rules.role(node.operation) == ("function", "hard_silu"):
        compute = hard_swish
    elif _slope(node.operation) is not None:
        compute = computed.leaky(_slope(node.operation))
    else:
        return None
    labels = tuple(of_tensor[t] for t in read)
    return Exact(labels, of_tensor[tensor], tensor, chain, limits, compute)


def _leaves(node: Node) -> int:
    return len(keras.tree.flatten((node.args, node.kwargs)))


def _slope(operation: Any) -> float | None:
    """The slope of a leaky rectifier for numbers below 0; None for other operations."""
    if isinstance(operation, kl.LeakyReLU):
        return float(operation.negative_slope)
    return None
