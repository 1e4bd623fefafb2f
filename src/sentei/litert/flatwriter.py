"""Changing the schema's object of a `.tflite`, and packing it, aligned as the schema asks."""

from typing import Any

import flatbuffers
from ai_edge_litert import schema_py_generated as schema

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


def operator_code(tree: Any, name: str, version: int = 1) -> int:
    """The place of an operator among a model's operator codes; it is added if need be.

    Args:
        tree: The schema's object (`FlatModel.tree`).
        name: The operator, as the schema has it: `"DENSIFY"`.
        version: The lowest version of it that takes what it is given.
    """
    number = getattr(schema.BuiltinOperator, name)
    for place, code in enumerate(tree.operatorCodes):
        kind = max(code.builtinCode, code.deprecatedBuiltinCode)
        if kind == number and code.version >= version:
            return place
    code = schema.OperatorCodeT()
    code.builtinCode, code.deprecatedBuiltinCode = number, min(number, 127)
    code.version = version
    tree.operatorCodes.append(code)
    return len(tree.operatorCodes) - 1


def drop_unused(tree: Any) -> None:
    """Takes out of the first graph the tensors that nothing reads or writes any more.

    And out of the model the operator codes that no operator has: a runtime that does not know one
    of them refuses the file.

    Args:
        tree: The schema's object (`FlatModel.tree`).
    """
    graph = tree.subgraphs[0]
    lists = [graph.inputs, graph.outputs]
    lists += [names for op in graph.operators for names in (op.inputs, op.outputs)]
    used = sorted({int(index) for names in lists for index in names if index >= 0})
    place = {index: new for new, index in enumerate(used)} | {-1: -1}
    graph.tensors = [graph.tensors[index] for index in used]
    graph.inputs, graph.outputs = (
        [place[int(index)] for index in ends] for ends in (graph.inputs, graph.outputs)
    )
    for operator in graph.operators:
        operator.inputs = [place[int(index)] for index in operator.inputs]
        operator.outputs = [place[int(index)] for index in operator.outputs]
    for signature in tree.signatureDefs or []:
        for port in [*signature.inputs, *signature.outputs]:
            if signature.subgraphIndex == 0:
                port.tensorIndex = place[int(port.tensorIndex)]
    _drop_codes(tree)


def _drop_codes(tree: Any) -> None:
    operators = [operator for graph in tree.subgraphs for operator in graph.operators]
    used = sorted({operator.opcodeIndex for operator in operators})
    tree.operatorCodes = [tree.operatorCodes[place] for place in used]
    for operator in operators:
        operator.opcodeIndex = used.index(operator.opcodeIndex)
