"""Packing a changed `.tflite` back into bytes, aligned as the schema asks."""

from typing import Any

import flatbuffers

from sentei.core.errors import UnsupportedModel

_MARK = b"TFL3"
# The schema's `force_align` of constants and of narrow index vectors, which the generated Python
# code ignores: kernels of some processors load whole vectors and fault between alignments.
_ALIGNMENT = {1: 16, 2: 4}
# A flatbuffer's offsets are 32 bits wide; constants behind it would have to be moved one by one.
LARGEST = 2**31 - 2**20


class _Builder(flatbuffers.Builder):
    """A builder that keeps the alignment of the schema."""

    def StartVector(self, elemSize: int, numElems: int, alignment: int) -> Any:
        return super().StartVector(elemSize, numElems, max(alignment, _ALIGNMENT.get(elemSize, 1)))


def pack(tree: Any) -> bytes:
    """The bytes of a model.

    Args:
        tree: The schema's object (`FlatModel.tree`), all of whose constants lie inside it.

    Returns:
        A `.tflite` file.

    Raises:
        UnsupportedModel: It would be larger than a flatbuffer can be.
    """
    constants = sum(0 if b.data is None else len(b.data) for b in tree.buffers or ())
    if constants > LARGEST:
        raise UnsupportedModel(
            f"A model with {constants:,} bytes of constants does not fit into one flatbuffer "
            f"(at most {LARGEST:,}). Leave this file as it was exported."
        )
    builder = _Builder(constants + 2**16)
    builder.Finish(tree.Pack(builder), file_identifier=_MARK)
    return bytes(builder.Output())
