"""The converter's int32 biases beside int16 activations, widened to the int64 the runtime reads."""

from __future__ import annotations

from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from sentei.litert import flatbuffer
from sentei.litert.flatwriter import pack

# Operators with a bias, and which of their inputs it is.
_BIASES = {"CONV_2D": 2, "DEPTHWISE_CONV_2D": 2, "FULLY_CONNECTED": 2, "TRANSPOSE_CONV": 3}


def widened_biases(content: bytes) -> bytes:
    """Rewrites the int32 biases of operators on int16 activations as int64.

    Args:
        content: The file, as the converter wrote it.

    Returns:
        The same bytes when there is nothing to widen.
    """
    tree = flatbuffer.parse(content, "the file").tree
    names = {value: name for name, value in vars(schema.BuiltinOperator).items()}
    changed = False
    for graph in tree.subgraphs:
        for operator in graph.operators:
            code = tree.operatorCodes[operator.opcodeIndex]
            place = _BIASES.get(names.get(max(code.builtinCode, code.deprecatedBuiltinCode), ""))
            if place is None or len(operator.inputs) <= place or operator.inputs[place] < 0:
                continue
            image = graph.tensors[operator.outputs[0]]
            if image.type == schema.TensorType.INT16:
                changed |= _widen(tree, graph.tensors[operator.inputs[place]])
    return pack(tree) if changed else content


def _widen(tree: Any, bias: Any) -> bool:
    if bias.type != schema.TensorType.INT32:
        return False
    values = np.asarray(tree.buffers[bias.buffer].data, np.uint8).view(np.int32)
    # A buffer of its own: the old one may be shared with another tensor.
    tree.buffers.append(schema.BufferT(data=values.astype(np.int64).view(np.uint8)))
    bias.buffer, bias.type = len(tree.buffers) - 1, schema.TensorType.INT64
    return True
