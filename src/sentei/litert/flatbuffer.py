"""Reading a `.tflite` file so that nothing in it is trusted before it is checked.

The runtime's own verifier passes over the bytes first (Python's flatbuffers reader happily follows
a lying offset), then every index and length is held against what it points at. What `load` returns
can be used without further care.
"""

import os
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter, OpResolverType

from sentei.core.errors import CorruptFile
from sentei.litert import sparse
from sentei.litert.flatmodel import (
    FORMATS,
    FlatModel,
    Operator,
    Quantization,
    Signature,
    Subgraph,
    Tensor,
)

__all__ = [
    "FlatModel",
    "Operator",
    "Quantization",
    "Signature",
    "Subgraph",
    "Tensor",
    "load",
    "parse",
    "read_bytes",
]


def _enumeration(kind: type) -> dict[int, str]:
    return {value: name for name, value in vars(kind).items() if isinstance(value, int)}


_TYPE_NAMES = {value: name.lower() for value, name in _enumeration(schema.TensorType).items()}
_SUBGRAPHS_FIELD = 2  # version, operator_codes, subgraphs: fields are numbered from 0 in the schema
_OPERATOR_NAMES = _enumeration(schema.BuiltinOperator)


def read_bytes(path: str | os.PathLike[str]) -> bytes:
    """Reads a whole file.

    Args:
        path: The file.

    Returns:
        Its bytes, at least one.

    Raises:
        CorruptFile: There is no such file, it is a directory or another thing that is not a file,
            it is empty, or it may not be read.
    """
    path = Path(path)
    if not path.exists():
        raise CorruptFile(f"{path}: no such file. Check the path.")
    if not path.is_file():
        kind = "a directory" if path.is_dir() else "not a regular file"
        raise CorruptFile(f"{path} is {kind}. Give the path of a file.")
    try:
        content = path.read_bytes()
    except OSError as error:
        raise CorruptFile(f"{path} cannot be read: {error.strerror}.") from error
    if not content:
        raise CorruptFile(f"{path} is empty. Write or copy the file again.")
    return content


def load(path: str | os.PathLike[str]) -> FlatModel:
    """Reads and checks a `.tflite` file.

    Args:
        path: The file.

    Returns:
        Its contents; arrays are read-only views of the bytes read.

    Raises:
        CorruptFile: The file is missing, empty, truncated, damaged or not a `.tflite`.
    """
    return parse(read_bytes(path), str(path))


def parse(content: bytes, name: str = "the model") -> FlatModel:
    """Checks the bytes of a `.tflite` file; `load` for bytes in memory.

    Args:
        content: The bytes.
        name: What to call them in errors.

    Returns:
        Their contents; arrays are read-only views of `content`.

    Raises:
        CorruptFile: The bytes are truncated, damaged or not a `.tflite`.
    """
    if content[4:8] != b"TFL3":
        raise CorruptFile(
            f"{name} is not a .tflite file: the mark 'TFL3' is missing at byte 4. "
            "Give a file written by a LiteRT exporter; what Keras saved, load first "
            "(keras.models.load_model)."
        )
    try:
        _verify(content)
        return _build(content)
    except CorruptFile as error:
        raise CorruptFile(
            f"{name} is a damaged or truncated .tflite file: {error}. Write or copy the file again."
        ) from None


def _verify(content: bytes) -> None:
    """Lets the runtime check that every offset in the file points inside the file."""
    if not _counts_graphs(content):
        raise CorruptFile("it holds no graph")
    try:
        Interpreter(
            model_content=content,
            experimental_op_resolver_type=OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
        )
    except (ValueError, RuntimeError) as error:
        # Any other refusal (an operator it does not have, say) comes after the verifier passed.
        if "not a valid Flatbuffer" in str(error):
            raise CorruptFile("its offsets point outside the file") from None


def _counts_graphs(content: bytes) -> int:
    """The length of the root table's `subgraphs`, 0 when there is none.

    Read by hand because the runtime's loader, sound otherwise, dereferences a null pointer (and
    takes the process down) when this one field is absent.
    """
    try:
        (root,) = struct.unpack_from("<I", content, 0)
        (distance,) = struct.unpack_from("<i", content, root)
        table = root - distance
        (table_size,) = struct.unpack_from("<H", content, max(table, 0))
        slot = 4 + 2 * _SUBGRAPHS_FIELD
        if table < 0 or table_size < slot + 2:
            return 0
        (field,) = struct.unpack_from("<H", content, table + slot)
        if field == 0:
            return 0
        (vector,) = struct.unpack_from("<I", content, root + field)
        return int(struct.unpack_from("<I", content, root + field + vector)[0])
    except struct.error:
        return 0


def _build(content: bytes) -> FlatModel:
    model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(content, 0))
    buffers = model.buffers or []
    for index, buffer in enumerate(buffers):
        _resolve(buffer, index, content)
    names = [_operator_name(code) for code in model.operatorCodes or ()]
    subgraphs = tuple(_subgraph(graph, names, buffers) for graph in model.subgraphs)
    signatures = tuple(_signature(item, subgraphs) for item in model.signatureDefs or ())
    return FlatModel(subgraphs, signatures, len(content), model)


def _resolve(buffer: schema.BufferT, index: int, content: bytes) -> None:
    """Gives a buffer that lies behind the flatbuffer (files over 2 GB) its bytes."""
    # Offset 1 is the writer's placeholder for "nothing there".
    if buffer.offset <= 1:
        return
    end = buffer.offset + buffer.size
    if end > len(content):
        raise CorruptFile(f"buffer {index} ends at byte {end} of {len(content)}")
    buffer.data = np.frombuffer(content, np.uint8, buffer.size, buffer.offset)
    buffer.offset = buffer.size = 0


def _subgraph(
    graph: schema.SubGraphT, names: Sequence[str], buffers: Sequence[schema.BufferT]
) -> Subgraph:
    tensors = tuple(_tensor(tensor, buffers) for tensor in graph.tensors or ())
    operators = []
    for op in graph.operators or ():
        if not 0 <= op.opcodeIndex < len(names):
            raise CorruptFile(f"an operator has the code {op.opcodeIndex} of {len(names)}")
        options = op.builtinOptions if op.builtinOptions is not None else op.builtinOptions2
        reads, writes = _integers(op.inputs), _integers(op.outputs)
        _check_indices(reads, len(tensors), optional=True)
        _check_indices(writes, len(tensors), optional=True)
        operators.append(Operator(names[op.opcodeIndex], reads, writes, options))
    inputs, outputs = _integers(graph.inputs), _integers(graph.outputs)
    _check_indices(inputs + outputs, len(tensors))
    return Subgraph(_text(graph.name), tensors, tuple(operators), inputs, outputs)


def _tensor(tensor: schema.TensorT, buffers: Sequence[schema.BufferT]) -> Tensor:
    name = _text(tensor.name)
    if tensor.type not in _TYPE_NAMES:
        raise CorruptFile(f"tensor {name!r} has the unknown type {tensor.type}")
    if not 0 <= tensor.buffer < len(buffers):
        raise CorruptFile(f"tensor {name!r} has buffer {tensor.buffer} of {len(buffers)}")
    shape = _integers(tensor.shape)
    data = buffers[tensor.buffer].data
    result = Tensor(
        name=name,
        shape=shape,
        shape_signature=_integers(tensor.shapeSignature) or shape,
        dtype=_TYPE_NAMES[tensor.type],
        buffer=data if data is not None and data.size else None,
        quantization=_quantization(tensor.quantization, name),
        sparsity=_sparsity(tensor.sparsity),
        is_variable=bool(tensor.isVariable),
    )
    _check_size(result)
    return result


def _check_size(tensor: Tensor) -> None:
    """The bytes of a dense constant must be exactly what its shape and type ask for."""
    if any(size < 0 for size in tensor.shape):
        raise CorruptFile(f"tensor {tensor.name!r} has the negative shape {tensor.shape}")
    if tensor.buffer is None or tensor.dtype not in FORMATS:
        return
    _check_grid(tensor)
    _, bits = FORMATS[tensor.dtype]
    if tensor.sparsity is not None:
        try:
            stored = sparse.check(tensor.sparsity, tensor.shape)
        except CorruptFile as error:
            raise CorruptFile(f"tensor {tensor.name!r}: {error}") from None
    else:
        stored = tensor.size
    expected = -(-stored * bits // 8)
    if tensor.nbytes != expected:
        raise CorruptFile(
            f"tensor {tensor.name!r} of shape {tensor.shape} and type {tensor.dtype} "
            f"has {tensor.nbytes} bytes, not {expected}"
        )


def _check_grid(tensor: Tensor) -> None:
    """Several scales must be one for each index along their axis."""
    grid = tensor.quantization
    if grid is None or grid.scale.size == 1:
        return
    inside = 0 <= grid.axis < len(tensor.shape)
    if not inside or tensor.shape[grid.axis] != grid.scale.size:
        raise CorruptFile(
            f"tensor {tensor.name!r} of shape {tensor.shape} has {grid.scale.size} scales along "
            f"axis {grid.axis}"
        )


def _quantization(item: schema.QuantizationParametersT | None, name: str) -> Quantization | None:
    if item is None or item.scale is None or len(item.scale) == 0:
        return None
    scale = np.asarray(item.scale, np.float32)
    if not np.isfinite(scale).all():
        raise CorruptFile(f"tensor {name!r} has a scale that is no number")
    stored = item.zeroPoint if item.zeroPoint is not None else []
    zero_point = np.asarray(stored if len(stored) else np.zeros(scale.size), np.int64)
    if zero_point.size == 1:
        zero_point = np.broadcast_to(zero_point, scale.shape)
    if zero_point.size != scale.size:
        raise CorruptFile(
            f"tensor {name!r} has {scale.size} scales and {zero_point.size} zero points"
        )
    return Quantization(scale, zero_point, int(item.quantizedDimension))


def _sparsity(item: schema.SparsityParametersT | None) -> sparse.Sparsity | None:
    if item is None:
        return None
    levels = []
    for level in item.dimMetadata or ():
        if level.format == schema.DimensionType.DENSE:
            levels.append(sparse.Level(int(level.denseSize)))
            continue
        parts = [
            getattr(part, "values", None) for part in (level.arraySegments, level.arrayIndices)
        ]
        segments, indices = (np.asarray([] if part is None else part) for part in parts)
        levels.append(sparse.Level(0, segments, indices))
    return sparse.Sparsity(_integers(item.traversalOrder), _integers(item.blockMap), tuple(levels))


def _signature(item: schema.SignatureDefT, subgraphs: Sequence[Subgraph]) -> Signature:
    if not 0 <= item.subgraphIndex < len(subgraphs):
        raise CorruptFile(f"a signature calls graph {item.subgraphIndex} of {len(subgraphs)}")
    inputs, outputs = (
        {_text(entry.name): int(entry.tensorIndex) for entry in entries or ()}
        for entries in (item.inputs, item.outputs)
    )
    key, graph = _text(item.signatureKey), subgraphs[item.subgraphIndex]
    sides = (("input", inputs, graph.inputs), ("output", outputs, graph.outputs))
    for side, names, indices in sides:
        for name, index in names.items():
            if index not in indices:
                raise CorruptFile(
                    f"signature {key!r} gives its {side} {name!r} a tensor that is none"
                )
    return Signature(key, int(item.subgraphIndex), inputs, outputs)


def _operator_name(code: schema.OperatorCodeT) -> str:
    number = max(code.builtinCode, code.deprecatedBuiltinCode)
    if number == schema.BuiltinOperator.CUSTOM:
        return _text(code.customCode) or "CUSTOM"
    if number not in _OPERATOR_NAMES:
        raise CorruptFile(f"it has the unknown operator code {number}")
    return _OPERATOR_NAMES[number]


def _check_indices(indices: Sequence[int], count: int, optional: bool = False) -> None:
    lowest = -1 if optional else 0
    for index in indices:
        if not lowest <= index < count:
            raise CorruptFile(f"it refers to tensor {index} of {count}")


def _integers(values: Any) -> tuple[int, ...]:
    return () if values is None else tuple(np.asarray(values).tolist())


def _text(value: bytes | None) -> str:
    try:
        return "" if value is None else value.decode()
    except UnicodeDecodeError:
        raise CorruptFile(f"the name {value!r} is not UTF-8 text") from None
