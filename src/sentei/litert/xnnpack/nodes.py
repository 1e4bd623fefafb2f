"""A `.tflite` graph as XNNPACK sees it: its nodes, with padding fused and weights unpacked.

Follows the delegate of LiteRT (`xnnpack_delegate.cc`, which hands the operators over and unpacks
DENSIFY and DEQUANTIZE of constants while the file is loaded) and `xnn_subgraph_fusion` of XNNPACK's
`src/subgraph.c`, which makes a PAD of zeros the padding of the convolution that alone reads it.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace

import numpy as np

from sentei.litert.flatmodel import Operator, Subgraph

_UNPACKING = ("DENSIFY", "DEQUANTIZE")
_CONVOLUTIONS = ("CONV_2D", "DEPTHWISE_CONV_2D")
# Operators whose later inputs are parameters of XNNPACK's node, not inputs of it.
_ONE_INPUT = {
    "MEAN", "PAD", "RESHAPE", "RESIZE_BILINEAR", "SLICE", "STRIDED_SLICE", "SUM", "TRANSPOSE"
}  # fmt: skip
_SAME = 0  # schema.Padding.SAME


@dataclass(frozen=True)
class Padding:
    """Rows and columns of zeros around an image.

    `same` is TensorFlow's padding by the size of the output, which XNNPACK cannot put into numbers
    when the stride is not 1.
    """

    top: int = 0
    bottom: int = 0
    left: int = 0
    right: int = 0
    same: bool = False

    def is_all(self, size: int) -> bool:
        """Whether there are exactly `size` on every side."""
        return not self.same and {self.top, self.bottom, self.left, self.right} == {size}

    def __str__(self) -> str:
        if self.same:
            return "'same'"
        return f"{self.top} above, {self.bottom} below, {self.left} left, {self.right} right"


@dataclass(frozen=True)
class Node:
    """One node of XNNPACK's graph.

    Attributes:
        operator: The operator it comes from: its place in the graph of the file.
        kind: The operator's name.
        label: What to call it: the layer, or the name of its output.
        inputs: Tensors it reads that are computed.
        outputs: Tensors it writes.
        dtypes: The types of all it reads and writes.
        shapes: The shapes of its data inputs, constants too.
        options: The schema's options.
        kernel: Height and width of a convolution's window, None for other kinds.
        channels: Channels that the filter of a convolution has.
        padding: Of a convolution.
        weight: The filter of a convolution or dense layer, dense, None when it is computed.
        constant_inputs: Which of `shapes` belong to constants.
    """

    operator: int
    kind: str
    label: str
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    dtypes: frozenset[str]
    shapes: tuple[tuple[int, ...], ...]
    options: object = field(default=None, repr=False)
    kernel: tuple[int, int] | None = None
    channels: int = 0
    padding: Padding = Padding()
    weight: np.ndarray | None = field(default=None, repr=False)
    constant_inputs: tuple[bool, ...] = ()

    def option(self, name: str, default: int = 1) -> int:
        """A number among the options."""
        return int(getattr(self.options, name, default))

    @property
    def stride(self) -> tuple[int, int]:
        """Steps of a convolution, down and across."""
        return self.option("strideH"), self.option("strideW")

    @property
    def dilation(self) -> tuple[int, int]:
        """Distance of a convolution's taps, down and across."""
        return self.option("dilationHFactor"), self.option("dilationWFactor")

    @property
    def nonzeros(self) -> int:
        """Weights of its filter that are not zero, 0 without one."""
        return 0 if self.weight is None else int(np.count_nonzero(self.weight))

    @property
    def is_pointwise(self) -> bool:
        """Whether XNNPACK counts its weights: a 1x1 convolution or a dense layer."""
        return (self.kind == "CONV_2D" and self.kernel == (1, 1)) or (
            self.kind == "FULLY_CONNECTED"
        )


@dataclass(frozen=True)
class Graph:
    """The nodes in running order, and the values that the caller of the graph sees.

    Attributes:
        nodes: The nodes.
        inputs: Tensors that come from outside.
        outputs: Tensors that are asked for.
        stored_sparse: Whether a weight is stored sparse: only then does the delegate ask XNNPACK
            for sparse inference at all.
    """

    nodes: tuple[Node, ...]
    inputs: frozenset[int]
    outputs: frozenset[int]
    stored_sparse: bool

    def producers(self) -> dict[int, int]:
        """Tensor → the node that writes it."""
        return {value: n for n, node in enumerate(self.nodes) for value in node.outputs}

    def consumers(self) -> Counter[int]:
        """How many nodes read each tensor; one more for what is asked for."""
        counts = Counter(value for node in self.nodes for value in set(node.inputs))
        counts.update(self.outputs)
        return counts


def read_graph(graph: Subgraph, labels: dict[int, str] | None = None) -> Graph:
    """The graph of a file as XNNPACK's nodes.

    Args:
        graph: The graph.
        labels: What to call operators, by place; others are called by their output.

    Returns:
        Its nodes.
    """
    constants: dict[int, int] = {
        i: i for i, tensor in enumerate(graph.tensors) if tensor.buffer is not None
    }
    nodes = []
    for place, op in enumerate(graph.operators):
        if op.name in _UNPACKING and op.inputs[0] in constants:
            constants[op.outputs[0]] = constants[op.inputs[0]]
        else:
            label = (labels or {}).get(place) or graph.tensors[op.outputs[0]].name
            nodes.append(_node(graph, place, op, label, constants))
    found = Graph(
        tuple(nodes),
        frozenset(graph.inputs),
        frozenset(graph.outputs),
        any(tensor.sparsity is not None for tensor in graph.tensors),
    )
    return _fuse_padding(graph, found)


def _node(graph: Subgraph, place: int, op: Operator, label: str, constants: dict[int, int]) -> Node:
    reads = [index for index in op.inputs if index >= 0]
    data = reads[:1] if op.name in _ONE_INPUT else reads
    node = Node(
        operator=place,
        kind=op.name,
        label=label,
        inputs=tuple(index for index in data if index not in constants),
        outputs=op.outputs,
        dtypes=frozenset(graph.tensors[index].dtype for index in (*data, *op.outputs)),
        shapes=tuple(graph.tensors[index].shape for index in data),
        options=op.options,
        constant_inputs=tuple(index in constants for index in data),
    )
    if op.name not in (*_CONVOLUTIONS, "FULLY_CONNECTED"):
        return node
    shape = graph.tensors[op.inputs[1]].shape
    source = constants.get(op.inputs[1])
    weight = None if source is None else graph.tensors[source].data()
    if op.name == "FULLY_CONNECTED":
        return replace(node, weight=weight)
    sized = replace(node, weight=weight, kernel=(shape[1], shape[2]), channels=shape[3])
    return replace(sized, padding=_padding(sized))


def _padding(node: Node) -> Padding:
    """TensorFlow's padding in numbers, as `xnn_define_convolution_2d` puts it for stride 1."""
    if node.option("padding", 1) != _SAME or node.kernel is None:
        return Padding()
    if node.stride != (1, 1):
        return Padding(same=True)
    height, width = (
        (size - 1) * distance for size, distance in zip(node.kernel, node.dilation, strict=True)
    )
    return Padding(height // 2, height - height // 2, width // 2, width - width // 2)


def _fuse_padding(graph: Subgraph, found: Graph) -> Graph:
    """Removes each PAD whose only reader is a convolution that can take its rows and columns."""
    consumers, producers = found.consumers(), found.producers()
    nodes, gone = list(found.nodes), set()
    for n, node in enumerate(found.nodes):
        if node.kind not in _CONVOLUTIONS or node.padding.same or not node.inputs:
            continue
        before = producers.get(node.inputs[0])
        if before is None or nodes[before].kind != "PAD" or consumers[node.inputs[0]] != 1:
            continue
        amounts = graph.tensors[graph.operators[nodes[before].operator].inputs[1]].data()
        if amounts is None or amounts.shape != (4, 2) or amounts[[0, 3]].any():
            continue
        (top, bottom), (left, right) = amounts[1:3].tolist()
        own = node.padding
        padding = Padding(own.top + top, own.bottom + bottom, own.left + left, own.right + right)
        nodes[n] = replace(node, padding=padding, inputs=nodes[before].inputs)
        gone.add(before)
    kept = tuple(node for n, node in enumerate(nodes) if n not in gone)
    return replace(found, nodes=kept)
