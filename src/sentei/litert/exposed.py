"""A file whose inner tensors are outputs, so that XNNPACK shows what it computes in them."""

from __future__ import annotations

from collections.abc import Sequence

from sentei.litert import flatbuffer
from sentei.litert.flatwriter import pack


def exposed(content: bytes, indices: Sequence[int]) -> bytes:
    """A file that also gives out some of its inner tensors.

    The runtime hands its operators to XNNPACK in one piece, which keeps what is computed inside to
    itself. What is an output of the graph it has to give out.

    Args:
        content: The file.
        indices: Tensors of the main graph that its operators write.

    Returns:
        The same file, with these appended to the main graph's outputs; signatures as they were.
    """
    tree = flatbuffer.parse(content, "the file").tree
    graph = tree.subgraphs[0]
    known = {int(index) for index in graph.outputs}
    graph.outputs = [*(int(i) for i in graph.outputs), *(i for i in indices if i not in known)]
    return pack(tree)
