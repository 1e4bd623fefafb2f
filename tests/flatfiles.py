"""Tiny `.tflite` files made by hand with the schema's object API, and what they compute in numpy.

They are independent of sentei's own exporter, so tests of the reader, the runner and the command
line can use them as an oracle.
"""

from dataclasses import dataclass, field

import numpy as np
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.tools import flatbuffer_utils

TYPES = {
    "float32": schema.TensorType.FLOAT32,
    "int4": schema.TensorType.INT4,
    "int32": schema.TensorType.INT32,
    "int64": schema.TensorType.INT64,
    "int8": schema.TensorType.INT8,
}


def pack(model):
    """The bytes of a schema object."""
    return bytes(flatbuffer_utils.convert_object_to_bytearray(model))


@dataclass
class Writer:
    """Collects tensors and operators of one graph and packs them."""

    buffers: list = field(default_factory=lambda: [schema.BufferT()])
    tensors: list = field(default_factory=list)
    operators: list = field(default_factory=list)
    codes: list = field(default_factory=list)

    def tensor(
        self, name, shape, dtype="float32", data=None, grid=None, open_shape=None, sparsity=None
    ):
        """Adds a tensor; `grid` is (scale or scales, zero point or points, axis)."""
        item = schema.TensorT(
            shape=list(shape), type=TYPES[dtype], name=name.encode(), sparsity=sparsity
        )
        if open_shape is not None:
            item.shapeSignature = list(open_shape)
        if data is not None:
            item.buffer = len(self.buffers)
            self.buffers.append(
                schema.BufferT(data=np.frombuffer(np.asarray(data).tobytes(), np.uint8))
            )
        if grid is not None:
            scale, zero_point, axis = grid
            item.quantization = schema.QuantizationParametersT(
                scale=np.atleast_1d(scale).astype(np.float32).tolist(),
                zeroPoint=np.atleast_1d(zero_point).astype(np.int64).tolist(),
                quantizedDimension=axis,
            )
        self.tensors.append(item)
        return len(self.tensors) - 1

    def operator(self, name, inputs, outputs, options=None):
        """Adds an operator by its schema name."""
        number = getattr(schema.BuiltinOperator, name)
        self.codes.append(
            schema.OperatorCodeT(
                deprecatedBuiltinCode=min(number, 127), builtinCode=number, version=1
            )
        )
        item = schema.OperatorT(opcodeIndex=len(self.codes) - 1, inputs=inputs, outputs=outputs)
        if options is not None:
            kind = type(options).__name__.removesuffix("T")
            item.builtinOptionsType = getattr(schema.BuiltinOptions, kind)
            item.builtinOptions = options
        self.operators.append(item)

    def finish(self, inputs, outputs, signature=None):
        """Packs the file; `signature` is (names of inputs, names of outputs)."""
        graph = schema.SubGraphT(
            tensors=self.tensors,
            inputs=inputs,
            outputs=outputs,
            operators=self.operators,
            name=b"main",
        )
        model = schema.ModelT(
            version=3, operatorCodes=self.codes, subgraphs=[graph], buffers=self.buffers
        )
        if signature is not None:
            maps = [
                [schema.TensorMapT(name=name.encode(), tensorIndex=i) for name, i in pairs]
                for pairs in (
                    zip(signature[0], inputs, strict=True),
                    zip(signature[1], outputs, strict=True),
                )
            ]
            model.signatureDefs = [
                schema.SignatureDefT(
                    inputs=maps[0],
                    outputs=maps[1],
                    signatureKey=b"serving_default",
                    subgraphIndex=0,
                )
            ]
        return pack(model)


# A dense layer 4 → 3: y = x @ KERNEL.T + BIAS, with the kernel as the file lays it out (out, in).
KERNEL = np.array([[1, 0, 0, -2], [0, 3, 0, 0], [0, 0, -4, 0]], np.float32)
BIAS = np.array([0.5, -1.0, 2.0], np.float32)


def dense(batch=1, open_batch=False):
    """A float dense layer with the signature `features → scores`."""
    writer = Writer()
    x = writer.tensor("x", (batch, 4), open_shape=(-1, 4) if open_batch else None)
    kernel = writer.tensor("kernel", KERNEL.shape, data=KERNEL)
    bias = writer.tensor("bias", BIAS.shape, data=BIAS)
    y = writer.tensor("y", (batch, 3), open_shape=(-1, 3) if open_batch else None)
    writer.operator("FULLY_CONNECTED", [x, kernel, bias], [y], schema.FullyConnectedOptionsT())
    return writer.finish([x], [y], (["features"], ["scores"]))


INPUT_SCALE, INPUT_ZERO, KERNEL_SCALE, OUTPUT_SCALE, OUTPUT_ZERO = 0.25, 3, 0.125, 0.5, -7


def dense_int8():
    """The same layer in int8, its grids chosen so that small multiples of 1/4 are exact."""
    writer = Writer()
    x = writer.tensor("x", (1, 4), "int8", grid=(INPUT_SCALE, INPUT_ZERO, 0))
    integers = (KERNEL / KERNEL_SCALE).astype(np.int8)
    scales, zeros = np.full(3, KERNEL_SCALE), np.zeros(3)
    kernel = writer.tensor("kernel", KERNEL.shape, "int8", integers, (scales, zeros, 0))
    step = INPUT_SCALE * KERNEL_SCALE
    bias = writer.tensor(
        "bias", (3,), "int32", (BIAS / step).astype(np.int32), (scales * INPUT_SCALE, zeros, 0)
    )
    y = writer.tensor("y", (1, 3), "int8", grid=(OUTPUT_SCALE, OUTPUT_ZERO, 0))
    writer.operator("FULLY_CONNECTED", [x, kernel, bias], [y], schema.FullyConnectedOptionsT())
    return writer.finish([x], [y], (["features"], ["scores"]))


def row_sparsity(matrix):
    """Values and layout of a matrix as dense rows of compressed sparse columns."""
    rows, columns = np.nonzero(matrix)
    segments = np.concatenate([[0], np.cumsum(np.count_nonzero(matrix, axis=1))])
    return matrix[rows, columns], schema.SparsityParametersT(
        traversalOrder=[0, 1],
        dimMetadata=[
            schema.DimensionMetadataT(format=schema.DimensionType.DENSE, denseSize=len(matrix)),
            schema.DimensionMetadataT(
                format=schema.DimensionType.SPARSE_CSR,
                arraySegmentsType=schema.SparseIndexVector.Uint8Vector,
                arraySegments=schema.Uint8VectorT(values=segments.tolist()),
                arrayIndicesType=schema.SparseIndexVector.Uint8Vector,
                arrayIndices=schema.Uint8VectorT(values=columns.tolist()),
            ),
        ],
    )


def dense_sparse():
    """The float layer with its kernel stored sparse and expanded by a DENSIFY."""
    writer = Writer()
    values, layout = row_sparsity(KERNEL)
    x = writer.tensor("x", (1, 4))
    stored = writer.tensor("kernel", KERNEL.shape, data=values, sparsity=layout)
    kernel = writer.tensor("kernel_dense", KERNEL.shape)
    bias = writer.tensor("bias", BIAS.shape, data=BIAS)
    y = writer.tensor("y", (1, 3))
    writer.operator("DENSIFY", [stored], [kernel], schema.DensifyOptionsT())
    writer.operator("FULLY_CONNECTED", [x, kernel, bias], [y], schema.FullyConnectedOptionsT())
    return writer.finish([x], [y])


def two_inputs():
    """`first - second` and `second` looked up in a table, to see that names and order are kept."""
    writer = Writer()
    a, b = writer.tensor("a", (2, 3)), writer.tensor("b", (2, 3))
    ids = writer.tensor("ids", (2,), "int32")
    table = writer.tensor("table", (5, 2), data=np.arange(10, dtype=np.float32).reshape(5, 2))
    difference, rows = writer.tensor("difference", (2, 3)), writer.tensor("rows", (2, 2))
    writer.operator("SUB", [a, b], [difference], schema.SubOptionsT())
    writer.operator("GATHER", [table, ids], [rows], schema.GatherOptionsT())
    return writer.finish(
        [b, a, ids], [difference, rows], (["second", "first", "ids"], ["difference", "rows"])
    )


def running_sum():
    """`h := h + x`, the state `h` a variable of the file: a second run without reset differs."""
    writer = Writer()
    x, y = writer.tensor("x", (1, 2)), writer.tensor("y", (1, 2))
    identity = writer.tensor("identity", (2, 2), data=np.eye(2, dtype=np.float32))
    bias = writer.tensor("bias", (2,), data=np.zeros(2, np.float32))
    state = writer.tensor("state", (1, 2))
    writer.tensors[state].isVariable = True
    inputs = [x, identity, identity, bias, state]
    writer.operator("RNN", inputs, [y], schema.RNNOptionsT())
    return writer.finish([x], [y])


FILES = {
    "dense": dense,
    "dense_int8": dense_int8,
    "dense_open_batch": lambda: dense(open_batch=True),
    "dense_sparse": dense_sparse,
    "two_inputs": two_inputs,
}
