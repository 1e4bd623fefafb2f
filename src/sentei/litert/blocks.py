"""Blocks of pixels as channels and back: DEPTH_TO_SPACE and SPACE_TO_DEPTH.

Keras has no layer for it: programs say it as reshape, transpose, reshape (the sub-pixel convolution
of Shi et al. 2016, arXiv:1609.05158), and the converter writes three operators. As one it moves the
image once, and it can end a part that XNNPACK runs sparse.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from ai_edge_litert import schema_py_generated as schema

from sentei.litert import flatbuffer
from sentei.litert.flatmodel import Operator, Subgraph
from sentei.litert.flatwriter import LARGEST, drop_unused, operator_code, pack

# Both ways exchange the column of a block with the row inside of it.
_EXCHANGE = [0, 1, 3, 2, 4, 5]
# What the runtime has kernels for.
_DTYPES = ("float32", "int8")


def blocks_moved(content: bytes) -> bytes:
    """Writes reshape, transpose, reshape as the one operator that does the same.

    Args:
        content: The file, as the converter wrote it.

    Returns:
        The same bytes when there is nothing of the kind, or too much to be packed again.
    """
    if len(content) > LARGEST:
        return content
    model = flatbuffer.parse(content, "the file")
    graph = model.subgraphs[0]
    found = _found(graph)
    if not found:
        return content
    tree = model.tree
    operators = tree.subgraphs[0].operators
    gone = set()
    for split, turned, merged, name, block in found:
        gone |= {split, turned}
        operator = operators[merged]
        options = f"{name.title().replace('_', '')}Options"
        operator.opcodeIndex = operator_code(tree, name)
        operator.inputs = [graph.operators[split].inputs[0]]
        operator.builtinOptionsType = getattr(schema.BuiltinOptions, options)
        operator.builtinOptions = getattr(schema, f"{options}T")()
        operator.builtinOptions.blockSize = block
    tree.subgraphs[0].operators = [op for n, op in enumerate(operators) if n not in gone]
    drop_unused(tree)
    return pack(tree)


def _found(graph: Subgraph) -> list[tuple[int, int, int, str, int]]:
    """The places of the three operators, what they are together, and the block's side."""
    writers = {op.outputs[0]: n for n, op in enumerate(graph.operators) if len(op.outputs) == 1}
    reads = Counter(index for op in graph.operators for index in op.inputs)
    reads.update(graph.outputs)

    def behind(op: Operator, name: str) -> int | None:
        """The operator of a name that writes the input of another one, which alone reads it."""
        place = writers.get(op.inputs[0])
        if place is None or reads[op.inputs[0]] != 1 or graph.operators[place].name != name:
            return None
        return place

    found = []
    for merged, op in enumerate(graph.operators):
        turned = behind(op, "TRANSPOSE") if op.name == "RESHAPE" else None
        split = None if turned is None else behind(graph.operators[turned], "RESHAPE")
        if turned is None or split is None:
            continue
        order = graph.tensors[graph.operators[turned].inputs[1]].data()
        if order is None or order.tolist() != _EXCHANGE:
            continue
        places = (graph.operators[split].inputs[0], graph.operators[split].outputs[0])
        tensors = [graph.tensors[index] for index in (*places, op.outputs[0])]
        kind = _kind(*(tensor.shape for tensor in tensors))
        if kind is not None and tensors[0].dtype in _DTYPES:
            found.append((split, turned, merged, *kind))
    return found


def _kind(
    image: Sequence[int], split: Sequence[int], result: Sequence[int]
) -> tuple[str, int] | None:
    """Which of the two it is, by the shapes before, between and after; and the block's side."""
    if len(image) != 4 or len(split) != 6 or len(result) != 4 or image[0] != result[0]:
        return None
    outwards, inwards = split[3], split[2]
    for name, whole, parts, block in (
        ("DEPTH_TO_SPACE", result, image, outwards),
        ("SPACE_TO_DEPTH", image, result, inwards),
    ):
        batch, rows, columns, depth = parts
        sides = [rows, columns, block, block] if whole is result else [rows, block, columns, block]
        fits = list(whole[:3]) == [batch, rows * block, columns * block]
        apart = list(split) == [batch, *sides, whole[3]]
        if fits and apart and depth == whole[3] * block**2:
            return name, block
    return None
