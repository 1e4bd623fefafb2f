"""Letting a quantized file take and give integers, instead of converting real numbers itself."""

from __future__ import annotations

from typing import Any

from ai_edge_litert import schema_py_generated as schema

from sentei.core.errors import ExportError
from sentei.litert import flatbuffer
from sentei.litert.flatwriter import drop_unused, pack


def integer_ends(content: bytes) -> bytes:
    """Takes the QUANTIZE operators off a file's inputs and the DEQUANTIZE ones off its outputs.

    Inputs that are no real numbers (indices) stay as they are.

    Args:
        content: The file.

    Returns:
        A file whose inputs and outputs are the integers that went into and came out of these
        operators, under the same names.

    Raises:
        ExportError: An operator computes with the real numbers of an input or output.
    """
    tree = flatbuffer.parse(content, "the file").tree
    graph = tree.subgraphs[0]
    kinds = [max(code.builtinCode, code.deprecatedBuiltinCode) for code in tree.operatorCodes]
    moved: dict[int, int] = {}
    for index in graph.inputs:
        if graph.tensors[index].type == schema.TensorType.FLOAT32:
            readers = [op for op in graph.operators if index in op.inputs]
            if not readers:  # An input that the model takes and does not use.
                continue
            moved[index] = _past(graph, kinds, index, readers, "QUANTIZE", "input")
    for index in graph.outputs:
        if graph.tensors[index].type == schema.TensorType.FLOAT32:
            writers = [op for op in graph.operators if index in op.outputs]
            moved[index] = _past(graph, kinds, index, writers, "DEQUANTIZE", "output")
    graph.operators = [op for op in graph.operators if not moved.keys() & {*op.inputs, *op.outputs}]
    graph.inputs, graph.outputs = (
        [moved.get(index, index) for index in ends] for ends in (graph.inputs, graph.outputs)
    )
    for signature in tree.signatureDefs or []:
        for port in [*signature.inputs, *signature.outputs]:
            port.tensorIndex = moved.get(port.tensorIndex, port.tensorIndex)
    for old, new in moved.items():
        graph.tensors[new].name = graph.tensors[old].name
    drop_unused(tree)
    return pack(tree)


def _past(
    graph: Any, kinds: list[int], index: int, operators: list[Any], name: str, end: str
) -> int:
    """The tensor on the other side of the one operator that converts an end."""
    kind = getattr(schema.BuiltinOperator, name)
    label = graph.tensors[index].name.decode()
    if len(operators) != 1 or kinds[operators[0].opcodeIndex] != kind:
        raise ExportError(
            f"The {end} {label!r} of the model is not only quantized: a layer computes with its "
            "real numbers. Export with io='float', or quantize that layer."
        )
    return int((operators[0].outputs if name == "QUANTIZE" else operators[0].inputs)[0])
