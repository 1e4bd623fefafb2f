"""The pass that takes out of a written file what no runtime reads: names, notes, empty buffers.

In a model of a few kilobytes they weigh more than the graph itself.
"""

from __future__ import annotations

from typing import Any

from sentei.litert import flatbuffer
from sentei.litert.flatwriter import pack


def slimmed(content: bytes) -> bytes:
    """The file without the names of tensors and graphs, without notes, each constant stored once.

    Inputs and outputs keep the names of the signature. What names the layers in reports of the
    runtime (`sentei.benchmark`, `sentei.diagnose`) is gone.

    Args:
        content: A `.tflite` file.

    Returns:
        A file that computes the same.
    """
    tree = flatbuffer.parse(content).tree
    tree.description = None
    tree.metadata = tree.metadataBuffer = None
    for graph in tree.subgraphs:
        graph.name = None
        for tensor in graph.tensors:
            _slim_tensor(tensor)
    _compact_buffers(tree)
    return pack(tree)


def _slim_tensor(tensor: Any) -> None:
    tensor.name = None
    shape, open_shape = tensor.shape, tensor.shapeSignature
    if open_shape is not None and shape is not None and list(shape) == list(open_shape):
        tensor.shapeSignature = None
    grid = tensor.quantization
    if grid is None:
        return
    grid.min = grid.max = None
    if (grid.scale is None or len(grid.scale) == 0) and grid.details is None:
        tensor.quantization = None


def _compact_buffers(tree: Any) -> None:
    """Leaves only the buffers that tensors refer to, equal ones once; the first is the empty one.

    A buffer that a variable or an operator of its own kind refers to is not known here: files with
    such keep all theirs.
    """
    tensors = [tensor for graph in tree.subgraphs for tensor in graph.tensors]
    if any(tensor.isVariable for tensor in tensors):
        return
    kept, places = [tree.buffers[0]], {b"": 0}
    for tensor in tensors:
        data = tree.buffers[tensor.buffer].data
        key = b"" if data is None else bytes(data)
        if key not in places:
            places[key] = len(kept)
            kept.append(tree.buffers[tensor.buffer])
        tensor.buffer = places[key]
    tree.buffers = kept
