"""Caps that no value of a grid comes near to: the runtime refuses a file that still has them.

A ReLU6 behind a convolution is a bound on its integers, 6 / scale, which has to fit int32. On the
grids of a network that was never trained, whose activations fade layer by layer, it does not.
"""

from __future__ import annotations

from typing import Any

from ai_edge_litert import schema_py_generated as schema

from sentei.litert import flatbuffer
from sentei.litert.flatwriter import pack

_MOST = 2**31 - 1
_RELU6, _RELU = schema.ActivationFunctionType.RELU6, schema.ActivationFunctionType.RELU


def without_caps(content: bytes) -> bytes:
    """Makes a ReLU6 within an operator a ReLU where its grid ends long before 6.

    Args:
        content: A `.tflite` file of a quantized model.

    Returns:
        A file that computes the same; the same bytes when there is nothing to change.
    """
    tree = flatbuffer.parse(content, "the file").tree
    changed = False
    for graph in tree.subgraphs:
        for operator in graph.operators:
            options = operator.builtinOptions
            if getattr(options, "fusedActivationFunction", None) == _RELU6:
                scale = _scale(graph.tensors[operator.outputs[0]])
                if scale is not None and 6 / scale > _MOST:
                    options.fusedActivationFunction = _RELU
                    changed = True
    return pack(tree) if changed else content


def _scale(tensor: Any) -> float | None:
    grid = tensor.quantization
    if grid is None or grid.scale is None or len(grid.scale) != 1 or not grid.scale[0] > 0:
        return None
    return float(grid.scale[0])
