"""What is inside a file: operators, tensors, types, zeros and sizes."""

import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from rich.table import Table

from sentei.core.errors import CorruptFile
from sentei.litert import flatbuffer, keras_file, tables

_STORED = ("constant", "weight")
# Too many and too dull for a table; they are in `tensors` and in the JSON.
_HIDDEN = ("activation", "optimizer")


@dataclass(frozen=True)
class Grid:
    """A tensor's quantization in short: how many scales, along which axis, and their range."""

    scales: int
    axis: int
    scale_range: tuple[float, float]
    zero_point_range: tuple[int, int]

    def __str__(self) -> str:
        low, high = self.scale_range
        zero_low, zero_high = self.zero_point_range
        zero = f", zero {zero_low}" if zero_low == zero_high else f", zero {zero_low}…{zero_high}"
        zero = "" if zero_low == zero_high == 0 else zero
        if self.scales == 1:
            return f"{low:.4g}{zero}"
        return f"{self.scales} on axis {self.axis}: {low:.3g}…{high:.3g}{zero}"


@dataclass(frozen=True)
class TensorInfo:
    """One tensor of a file.

    Attributes:
        name: Its name.
        role: `"constant"`, `"input"`, `"output"`, `"variable"` or `"activation"` in a `.tflite`;
            `"weight"` or `"optimizer"` in a file of Keras.
        shape: Its dense shape; -1 where open.
        dtype: Its type.
        bytes: Bytes it takes in the file, with the indices of a sparse tensor; 0 for one that is
            computed, and for one that shares the bytes of a tensor listed before.
        zeros: Share of its elements that stand for zero, None for one that is computed.
        quantization: Its grid, or None.
        sparsity: The layout of a sparse tensor, level by level, or None.
    """

    name: str
    role: str
    shape: tuple[int, ...]
    dtype: str
    bytes: int
    zeros: float | None
    quantization: Grid | None = None
    sparsity: str | None = None

    @property
    def size(self) -> int:
        """Number of elements of the dense shape."""
        return int(np.prod(self.shape, dtype=object))


@dataclass(frozen=True)
class Inspection:
    """What `inspect` found; prints as tables.

    Attributes:
        file: The path.
        format: `"tflite"`, `"keras"` or `"weights.h5"`.
        size: Bytes of the file.
        operators: How often each operator (or layer class) occurs, most frequent first.
        tensors: All tensors, largest first.
    """

    file: str
    format: str
    size: int
    operators: dict[str, int]
    tensors: tuple[TensorInfo, ...]

    @property
    def parameters(self) -> int:
        """Number of elements of all stored constants, zeros included."""
        return sum(item.size for item in self._stored())

    @property
    def zeros(self) -> float:
        """Share of those elements that stand for zero."""
        empty = sum(round((item.zeros or 0.0) * item.size) for item in self._stored())
        return empty / self.parameters if self.parameters else 0.0

    @property
    def weight_bytes(self) -> int:
        """Bytes that the stored constants take in the file."""
        return sum(item.bytes for item in self._stored())

    @property
    def dtypes(self) -> dict[str, int]:
        """How many tensors of each type there are."""
        return dict(Counter(item.dtype for item in self.tensors).most_common())

    def _stored(self) -> Iterator[TensorInfo]:
        return (item for item in self.tensors if item.role in _STORED and item.bytes)

    def to_dict(self) -> dict[str, Any]:
        """The same as plain data that JSON can hold."""
        totals = {
            "parameters": self.parameters,
            "zeros": self.zeros,
            "weight_bytes": self.weight_bytes,
            "dtypes": self.dtypes,
        }
        return {**asdict(self), **totals}

    def tables(self) -> list[Table | str]:
        """What `str` shows, for `rich` to print."""
        census = ", ".join(f"{count} {name}" for name, count in self.operators.items())
        heading = f"{self.file}: {self.format}, {self.size:,} bytes"
        shown = [item for item in self.tensors if item.role not in _HIDDEN]
        columns = ("tensor", "role", "shape", "type", "elements", "zeros", "bytes")
        rows = [_row(item) for item in shown]
        total = ("total stored", "", "", "", tables.count(self.parameters))
        rows.append((*total, tables.share(self.zeros), tables.count(self.weight_bytes), "", ""))
        kind = "operators" if self.format == "tflite" else "layers"
        hidden = [
            f"not listed: {len(group)} of role {role}, {sum(item.bytes for item in group):,} bytes"
            for role in _HIDDEN
            if (group := [item for item in self.tensors if item.role == role])
        ]
        return [
            heading,
            f"{sum(self.operators.values())} {kind}: {census}" if census else f"{kind}: not told",
            tables.table((*columns, "quantization", "sparse layout"), rows),
            *hidden,
        ]

    def __str__(self) -> str:
        return tables.plain(*self.tables())


def inspect(file: str | os.PathLike[str]) -> Inspection:
    """Reads a file and says what is in it, without running or building the model.

    Args:
        file: A `.tflite`, `.keras` or `.weights.h5` file; what it is is seen from its content.

    Returns:
        Its operators (layers) and tensors.

    Raises:
        CorruptFile: The file is missing, empty, damaged or none of these formats.
    """
    name, content = os.fspath(file), flatbuffer.read_bytes(file)
    if keras_file.is_archive(content):
        config, weights = keras_file.open_archive(content, name)
        census = keras_file.layers(config)
        found = [_of_keras(item) for item in keras_file.weights(weights, name)]
        kind = "keras"
    elif keras_file.is_weights(content):
        census, kind = Counter(), "weights.h5"
        found = [_of_keras(item) for item in keras_file.weights_apart(file)]
    elif content[4:8] == b"TFL3":
        model = flatbuffer.parse(content, name)
        census, found, kind = model.census(), list(_of_tflite(model)), "tflite"
    else:
        raise CorruptFile(
            f"{name} is none of .tflite, .keras and .weights.h5: it begins like none of them. "
            "Give a file that an exporter or Keras wrote."
        )
    found.sort(key=lambda item: (-item.bytes, item.role, item.name))
    return Inspection(name, kind, len(content), dict(census.most_common()), tuple(found))


def _row(item: TensorInfo) -> tuple[str, ...]:
    return (
        tables.shorten(item.name),
        item.role,
        "x".join(map(str, item.shape)) or "scalar",
        item.dtype,
        tables.count(item.size) if -1 not in item.shape else "–",
        tables.share(item.zeros),
        tables.count(item.bytes),
        str(item.quantization or ""),
        item.sparsity or "",
    )


def _of_keras(weight: keras_file.Weight) -> TensorInfo:
    return TensorInfo(
        name=weight.name,
        role="optimizer" if weight.of_optimizer else "weight",
        shape=weight.shape,
        dtype=weight.dtype,
        bytes=weight.nbytes,
        zeros=weight.zeros,
    )


def _of_tflite(model: flatbuffer.FlatModel) -> Iterator[TensorInfo]:
    seen: set[int] = set()
    for graph in model.subgraphs:
        for index, tensor in enumerate(graph.tensors):
            counted = tensor.buffer is not None and id(tensor.buffer) not in seen
            seen.add(id(tensor.buffer))
            yield TensorInfo(
                name=tensor.name,
                role=_role(graph, index, tensor),
                shape=tensor.shape_signature,
                dtype=tensor.dtype,
                bytes=tensor.stored_bytes if counted else 0,
                zeros=_zeros(tensor),
                quantization=_grid(tensor.quantization),
                sparsity=str(tensor.sparsity) if tensor.sparsity else None,
            )


def _role(graph: flatbuffer.Subgraph, index: int, tensor: flatbuffer.Tensor) -> str:
    if index in graph.inputs:
        return "input"
    if tensor.buffer is not None:
        return "constant"
    if index in graph.outputs:
        return "output"
    return "variable" if tensor.is_variable else "activation"


def _zeros(tensor: flatbuffer.Tensor) -> float | None:
    """Share of elements that stand for zero: what a sparse layout leaves out counts as zero."""
    values = tensor.values()
    if values is None or not tensor.size:
        return None
    grid = tensor.quantization
    if tensor.sparsity is None and grid is not None and grid.zero_point.any():
        shape = [1] * len(tensor.shape)
        if grid.zero_point.size > 1:
            shape[grid.axis] = -1
        values = values.reshape(tensor.shape) - grid.zero_point.reshape(shape)
    return (tensor.size - int(np.count_nonzero(values))) / tensor.size


def _grid(quantization: flatbuffer.Quantization | None) -> Grid | None:
    if quantization is None:
        return None
    scale, zero = quantization.scale, quantization.zero_point
    return Grid(
        scales=scale.size,
        axis=quantization.axis,
        scale_range=(float(scale.min()), float(scale.max())),
        zero_point_range=(int(zero.min()), int(zero.max())),
    )
