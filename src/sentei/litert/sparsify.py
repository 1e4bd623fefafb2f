"""The pass over a written file that stores its pruned weights sparse.

A weight becomes a constant that holds only what is not zero, and a `DENSIFY` that writes it out
before its consumers run. XNNPACK does so once, when the file is loaded, and takes such a constant
as the sign to try its sparse kernels (`doctor`).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from copy import copy
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from sentei.core.errors import SenteiError
from sentei.litert import flatbuffer
from sentei.litert.flatmodel import FlatModel, Operator, Subgraph, Tensor
from sentei.litert.flatwriter import LARGEST, operator_code, pack
from sentei.litert.sparse import Sparsity
from sentei.litert.sparse_layout import smallest

Sparse = Literal["auto", True, False]

# Operator → its inputs that may be computed by a DENSIFY: tried in the runtime, with XNNPACK and
# without, in float32, float16 and int8. Others may want their constants to be constants.
_TAKERS: dict[str, frozenset[int]] = {
    "BATCH_MATMUL": frozenset({0, 1}),
    "CONV_2D": frozenset({1}),
    "DEPTHWISE_CONV_2D": frozenset({1}),
    "FULLY_CONNECTED": frozenset({1}),
    "GATHER": frozenset({0}),
    "TRANSPOSE_CONV": frozenset({1}),
}
# XNNPACK fails on the first when it loads the file, and leaves the memory that the second reads
# (which it does not run itself) without values.
_REFUSED = {("FULLY_CONNECTED", "int8"), ("GATHER", "widened float16")}
# DENSIFY has no other types. (float16 is widened by a DEQUANTIZE after it, as XNNPACK expects.)
_DTYPES = ("float32", "float16", "int8")
# Bytes that an operator, a tensor and the tables of a layout take, beside the names.
_OVERHEAD = 400
_VECTORS = {
    np.dtype(np.uint8): (schema.SparseIndexVector.Uint8Vector, schema.Uint8VectorT),
    np.dtype(np.uint16): (schema.SparseIndexVector.Uint16Vector, schema.Uint16VectorT),
    np.dtype(np.int32): (schema.SparseIndexVector.Int32Vector, schema.Int32VectorT),
}


@dataclass(frozen=True)
class Stored:
    """What storing weights sparse did to a file.

    Attributes:
        weights: How many weights are stored sparse.
        dense_bytes: Bytes these weights took before.
        sparse_bytes: Bytes they take now, indices and tables included.
    """

    weights: int
    dense_bytes: int
    sparse_bytes: int

    def __str__(self) -> str:
        return f"{self.weights} weights, {self.sparse_bytes:,} bytes (dense {self.dense_bytes:,})"


@dataclass(frozen=True)
class _Weight:
    """Constants of one graph with the same bytes and shape, and what they become."""

    positions: tuple[int, ...]
    tensor: Tensor
    values: np.ndarray
    layout: Sparsity

    @property
    def pays(self) -> bool:
        """Whether the weight is better stored sparse: it is smaller then, and floating-point.

        Pruned int8 weights are smaller too, but gain nothing else: no runtime computes with them
        sparse, they compress worse than the dense bytes (whose zeros cost an entropy coder less
        than columns do), and the runtime for microcontrollers has no DENSIFY.
        """
        extra = _OVERHEAD + 2 * len(self.tensor.name)
        smaller = self.values.nbytes + self.layout.nbytes + extra < self.tensor.nbytes
        return smaller and self.tensor.dtype != "int8"


def check_sparse(sparse: Any) -> None:
    """Raises SenteiError unless the argument is one of `"auto"`, True and False."""
    if not (isinstance(sparse, bool | np.bool_) or sparse == "auto"):
        raise SenteiError(
            "`sparse` must be 'auto' (where it makes the file smaller), True (every pruned "
            f"weight) or False. Received: sparse={sparse!r}."
        )


def sparsify(content: bytes, sparse: Sparse = "auto") -> tuple[bytes, Stored] | None:
    """Stores the weights of a `.tflite` file sparse.

    Args:
        content: The bytes of a file.
        sparse: `"auto"` does so with each floating-point weight that takes fewer bytes sparse;
            True with each weight that has a zero and is read by operators that take it, int8 ones
            too; False with none.

    Returns:
        The new file and what was done, or None when no weight is stored sparse.

    Raises:
        SenteiError: `sparse` is True, but no weight can be stored sparse.
        CorruptFile: The bytes are no sound `.tflite` file.
    """
    forced = sparse != "auto"
    if not sparse or (not forced and len(content) > LARGEST):
        return None
    model = flatbuffer.parse(content)
    chosen = [[weight for weight in found if forced or weight.pays] for found in _candidates(model)]
    if not any(chosen):
        if forced:
            raise SenteiError(
                "sparse=True, but no weight can be stored sparse: those of dense layers, "
                "embeddings and convolutions of one or two dimensions (the runtime takes no "
                "others) hold no zeros, or in a type that it does not take there. Prune the model "
                "first (sentei.prune), or leave it to sparse='auto'."
            )
        return None
    for graph, (subgraph, weights) in zip(
        model.tree.subgraphs, zip(model.subgraphs, chosen, strict=True), strict=True
    ):
        _rewrite(model.tree, graph, subgraph, weights)
    result = pack(model.tree)
    if not forced and len(result) >= len(content):
        return None
    dense = sum(weight.tensor.nbytes for found in chosen for weight in found)
    return result, Stored(sum(map(len, chosen)), dense, dense + len(result) - len(content))


def _candidates(model: FlatModel) -> list[list[_Weight]]:
    """The weights of each graph that hold zeros and may be stored sparse."""
    users: dict[int, list[tuple[int, int]]] = defaultdict(list)
    for number, graph in enumerate(model.tree.subgraphs):
        for index, tensor in enumerate(graph.tensors):
            users[tensor.buffer].append((number, index))
    found: list[list[_Weight]] = [[] for _ in model.subgraphs]
    for buffer, places in users.items():
        number = places[0][0]
        graph = model.subgraphs[number]
        positions = tuple(index for _, index in places)
        alike = {_kind(graph.tensors[i]) for i in positions} if buffer else set()
        # Bytes that tensors of other graphs or shapes read too must stay as they are.
        if {number} != {n for n, _ in places} or len(alike) != 1:
            continue
        if all(_may_be_sparse(graph, i) for i in positions):
            tensor = graph.tensors[positions[0]]
            dense = tensor.data()
            if dense is not None and np.count_nonzero(dense) < dense.size:
                found[number].append(_Weight(positions, tensor, *smallest(dense)))
    return found


def _kind(tensor: Tensor) -> tuple[Any, ...]:
    grid = tensor.quantization
    return tensor.shape, tensor.dtype, None if grid is None else (grid.axis, *grid.scale.tolist())


def _may_be_sparse(graph: Subgraph, index: int) -> bool:
    """Whether a tensor is a constant that a DENSIFY may stand for."""
    tensor = graph.tensors[index]
    grid = tensor.quantization
    return (
        tensor.buffer is not None
        and tensor.dtype in _DTYPES
        and len(tensor.shape) > 1
        and tensor.sparsity is None
        and index not in (*graph.inputs, *graph.outputs)
        and not (grid is not None and grid.zero_point.any())
        and _all_take(graph, index, tensor.dtype)
    )


def _all_take(graph: Subgraph, index: int, dtype: str) -> bool:
    """Whether every operator that reads a tensor may read the output of a DENSIFY instead."""
    readers = [op for op in graph.operators if index in op.inputs]
    return bool(readers) and all(_takes(graph, op, index, dtype) for op in readers)


def _takes(graph: Subgraph, op: Operator, index: int, dtype: str) -> bool:
    if op.name == "DEQUANTIZE" and dtype == "float16":
        wide = op.outputs[0]
        return wide not in graph.outputs and _all_take(graph, wide, "widened float16")
    if dtype == "int8" and graph.tensors[op.outputs[0]].dtype != dtype:
        return False  # XNNPACK takes no such weight beside float activations
    places = {place for place, read in enumerate(op.inputs) if read == index}
    return (op.name, dtype) not in _REFUSED and places <= _TAKERS.get(op.name, frozenset())


def _rewrite(tree: Any, graph: Any, subgraph: Subgraph, weights: Iterable[_Weight]) -> None:
    """Puts sparse constants and their DENSIFY operators into a graph of the schema."""
    pending: dict[int, Any] = {}
    replaced: dict[int, int] = {}
    for weight in weights:
        first = weight.positions[0]
        item = graph.tensors[first]
        stored = copy(item)
        stored.sparsity = _parameters(weight.layout)
        tree.buffers[item.buffer].data = np.frombuffer(weight.values.tobytes(), np.uint8)
        # The old place becomes the dense output, so that its readers need no change.
        for position in weight.positions:
            graph.tensors[position].buffer = 0
            replaced[position] = first
        item.name = (item.name or b"") + b"/dense"
        graph.tensors.append(stored)
        pending[first] = _densify(tree, len(graph.tensors) - 1, first)
    operators = []
    for op in graph.operators:
        op.inputs = np.array([replaced.get(int(i), int(i)) for i in op.inputs], np.int32)
        operators += [pending.pop(int(i)) for i in op.inputs if int(i) in pending]
        operators.append(op)
    graph.operators = operators


def _densify(tree: Any, stored: int, dense: int) -> Any:
    operator = schema.OperatorT()
    operator.opcodeIndex = operator_code(tree, "DENSIFY")
    operator.inputs, operator.outputs = (np.array([i], np.int32) for i in (stored, dense))
    operator.builtinOptionsType = schema.BuiltinOptions.DensifyOptions
    operator.builtinOptions = schema.DensifyOptionsT()
    return operator


def _parameters(layout: Sparsity) -> Any:
    """A layout as the schema's object."""
    item = schema.SparsityParametersT()
    item.traversalOrder = np.array(layout.order, np.int32)
    item.blockMap = np.array(layout.blocked, np.int32) if layout.blocked else None
    item.dimMetadata = []
    for level in layout.levels:
        metadata = schema.DimensionMetadataT()
        if level.segments is None or level.indices is None:
            metadata.format = schema.DimensionType.DENSE
            metadata.denseSize = level.size
        else:
            metadata.format = schema.DimensionType.SPARSE_CSR
            metadata.arraySegmentsType, metadata.arraySegments = _vector(level.segments)
            metadata.arrayIndicesType, metadata.arrayIndices = _vector(level.indices)
        item.dimMetadata.append(metadata)
    return item


def _vector(values: np.ndarray) -> Sequence[Any]:
    kind, make = _VECTORS[values.dtype]
    vector = make()
    vector.values = values
    return kind, vector
