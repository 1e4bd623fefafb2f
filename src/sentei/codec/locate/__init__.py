"""Finding the tensors in a file's bytes.

Nothing that is found is trusted to be right: a wrong guess costs bytes, never a wrong file. So
whatever cannot be read is passed over in silence, and travels in the skeleton.
"""

from __future__ import annotations

from sentei.codec.locate import archive, flatbuffer, hdf5, safetensors
from sentei.codec.locate.tensor import Tensor

__all__ = ["Tensor", "find"]

# A file without tensors is none of these, or one that cannot be read.
_READERS = {
    "tflite": (flatbuffer.begins, flatbuffer.find),
    "zip": (archive.begins, archive.find),
    "hdf5": (hdf5.begins, hdf5.find),
    "safetensors": (safetensors.begins, safetensors.find),
}


def find(content: memoryview) -> tuple[str, list[Tensor]]:
    """What kind of file some bytes are, and where the tensors are.

    Args:
        content: The bytes of a file.

    Returns:
        `"tflite"`, `"zip"` (of Keras), `"hdf5"`, `"safetensors"` or `"unknown"`, and the tensors in
        their order, without overlaps.
    """
    for kind, (begins, reader) in _READERS.items():
        if begins(content):
            return kind, _apart(reader(content), len(content))
    return "unknown", []


def _apart(tensors: list[Tensor], size: int) -> list[Tensor]:
    """Those that lie in the file, have a shape and do not overlap one before."""
    result, place = [], 0
    for tensor in sorted(tensors, key=lambda item: (item.offset, -item.size)):
        inside = place <= tensor.offset and tensor.offset + tensor.size <= size
        if tensor.size > 0 and inside and min(tensor.shape, default=0) >= 0:
            result.append(tensor)
            place = tensor.offset + tensor.size
    return result
