"""Leaving the batch of a converted graph open.

Traced with a symbolic batch, every broadcast becomes a dynamic one that the converter neither folds
nor fuses: MobileNetV2 grows from 65 operators to several hundred. So the model is converted twice
with two batch sizes instead, and where the two results differ, they differ by the batch: those
sizes are opened, and the shapes that operators are given as numbers are told to adapt.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from sentei.core.errors import ExportError

# Two sizes that no layer has a reason to treat in a special way, as many do 1, and that are hardly
# ever the size of another axis: an operator may tell the two apart only by their sizes.
BATCH_SIZES = (37, 41)

# Elementwise operators of two operands, which broadcast a single row over the batch.
_BROADCASTING = {
    f"tfl.{name}"
    for name in (
        *("add", "sub", "mul", "div", "maximum", "minimum", "pow", "squared_difference"),
        *("floor_div", "floor_mod", "less", "less_equal", "greater", "greater_equal", "equal"),
        *("not_equal", "logical_and", "logical_or", "select_v2"),
    )
}


def open_batch(module: Any, other: Any, layer_of: Callable[[Any], str | None]) -> None:
    """Opens the batch of a converted module, in place.

    Args:
        module: The MLIR module converted with the first of `BATCH_SIZES`.
        other: The same model converted with the second, in the same MLIR context.
        layer_of: Gives the name of the Keras layer an operation came from.

    Raises:
        ExportError: An operation depends on the batch in a way that cannot be left open.
    """
    ones, twos = _operations(module), _operations(other)
    if [one.name for one in ones] != [two.name for two in twos]:
        raise ExportError(_cannot("the graph has other operators for another batch size", None))
    pairs = [pair for pair in zip(ones, twos, strict=True) if pair[0].name != "builtin.module"]
    inputs = list(module.body.operations[0].regions[0].blocks[0].arguments)
    for one, two in pairs:
        if not _is_constant(one):
            _open_types(one, two, layer_of)
    for one, two in pairs:
        if _is_constant(one) and _differ(one, two):
            _adapt_constant(one, two, inputs, layer_of)
            one.erase()
    _update_function_type(module)


def _open_types(one: Any, two: Any, layer_of: Callable[[Any], str | None]) -> None:
    """Opens the sizes of what an operation computes; how it computes must not depend on them."""
    if one.name != "func.func" and _attributes(one) != _attributes(two):
        raise ExportError(_cannot(f"{one.name} is set up for one batch size", layer_of(one)))
    for value, counterpart in zip(_values(one), _values(two), strict=True):
        value.set_type(_opened(value.type, counterpart.type))


def _cannot(reason: str, layer: str | None) -> str:
    where = f" (layer {layer!r})" if layer else ""
    return f"The batch cannot be left open: {reason}{where}. Pass a number as batch_size."


def _operations(module: Any) -> list[Any]:
    from litert_converter.mlir import ir

    found: list[Any] = []

    def visit(operation: Any) -> Any:
        found.append(operation)
        return ir.WalkResult.ADVANCE

    module.operation.walk(visit, ir.WalkOrder.PRE_ORDER)
    return found


def _is_constant(operation: Any) -> bool:
    return operation.name in ("arith.constant", "tfl.pseudo_const")


def _differ(one: Any, two: Any) -> bool:
    """Whether two constants differ; attributes of one context are equal when identical."""
    return bool(one.attributes["value"] != two.attributes["value"])


def _attributes(operation: Any) -> dict[str, str]:
    return {name: str(value) for name, value in operation.attributes.items()}


def _values(operation: Any) -> list[Any]:
    """What an operation computes, and the arguments of its blocks."""
    blocks = [block for region in operation.regions for block in region.blocks]
    return [*operation.results, *(value for block in blocks for value in block.arguments)]


def _opened(one: Any, two: Any) -> Any:
    """The type with every size open in which it differs from its counterpart."""
    from litert_converter.mlir import ir

    if one == two:
        return one
    shaped, other = ir.RankedTensorType(one), ir.RankedTensorType(two)
    dynamic = ir.ShapedType.get_dynamic_size()
    sizes = [a if a == b else dynamic for a, b in zip(shaped.shape, other.shape, strict=True)]
    return ir.RankedTensorType.get(sizes, shaped.element_type)


def _adapt_constant(
    one: Any, two: Any, inputs: Sequence[Any], layer_of: Callable[[Any], str | None]
) -> None:
    """Replaces a constant that holds the batch size, at each of its uses."""
    values, others = _array(one), _array(two)
    for use in list(one.results[0].uses):
        user, place = use.owner, use.operand_number
        if values.shape == others.shape:
            adapted = _adapted_sizes(user, place, values, others, inputs)
        else:
            adapted = _adapted_rows(user, values, others, inputs)
        if adapted is None:
            reason = f"{user.name} is given the batch size as a number"
            raise ExportError(_cannot(reason, layer_of(user)))
        user.operands[place] = adapted


def _array(constant: Any) -> np.ndarray:
    from litert_converter.mlir import ir

    return np.array(ir.DenseElementsAttr(constant.attributes["value"]))


def _adapted_sizes(
    user: Any, place: int, values: np.ndarray, others: np.ndarray, inputs: Sequence[Any]
) -> Any | None:
    """A vector of sizes that fits any batch, as the operator that reads it understands it."""
    if values.ndim != 1 or values.dtype.kind != "i":
        return None
    moving = values != others
    if user.name == "tfl.reshape" and place == 1 and moving.sum() == 1:
        return _constant(np.where(moving, -1, values).astype(values.dtype), user)
    if user.name == "tfl.slice" and place == 2:
        begin = user.operands[1].owner
        if _is_constant(begin) and not _array(begin)[moving].any():
            return _constant(np.where(moving, -1, values).astype(values.dtype), user)
    return _computed_sizes(user, values, others, inputs)


def _computed_sizes(
    user: Any, values: np.ndarray, others: np.ndarray, inputs: Sequence[Any]
) -> Any | None:
    """The same vector, put together at run time from the size of the first input's batch."""
    moving = values != others
    factors = np.where(moving, values // BATCH_SIZES[0], 0)
    rests = np.where(moving, 0, values)
    small, large = BATCH_SIZES
    if not (
        np.array_equal(factors * small + rests, values)
        and np.array_equal(factors * large + rests, others)
    ):
        return None
    batch = _batch_size(user, inputs, values.dtype)
    if batch is None:
        return None
    kind = _vector_type(len(values), values.dtype)
    fused = {"fused_activation_function": _text("NONE")}
    scaled = _create(
        "tfl.mul", [_constant(factors.astype(values.dtype), user), batch], kind, fused, user
    )
    return _create(
        "tfl.add", [scaled, _constant(rests.astype(values.dtype), user)], kind, fused, user
    )


def _batch_size(user: Any, inputs: Sequence[Any], dtype: np.dtype) -> Any | None:
    """The batch size at run time, as a vector of one number."""
    batched = next((value for value in inputs if value.type.shape), None)
    if batched is None:
        return None
    kind = _vector_type(len(batched.type.shape), dtype)
    shape = _create("tfl.shape", [batched], kind, {}, user)
    bounds = [_constant(np.array([number], np.int32), user) for number in (0, 1)]
    return _create("tfl.slice", [shape, *bounds], _vector_type(1, dtype), {}, user)


def _adapted_rows(
    user: Any, values: np.ndarray, others: np.ndarray, inputs: Sequence[Any]
) -> Any | None:
    """A constant whose rows are all alike, as one row that is broadcast over the batch."""
    if values.ndim != others.ndim:
        return None
    moving = [one != two for one, two in zip(values.shape, others.shape, strict=True)]
    row = values[tuple(slice(0, 1) if moves else slice(None) for moves in moving)]
    if not all(np.array_equal(np.broadcast_to(row, all_.shape), all_) for all_ in (values, others)):
        return None
    constant = _constant(row, user)
    if user.name in _BROADCASTING:
        return constant
    small, large = (np.array(array.shape, np.int32) for array in (values, others))
    sizes = _computed_sizes(user, small, large, inputs)
    if sizes is None:
        return None
    kind = _opened(_constant_type(values), _constant_type(others))
    return _create("tfl.broadcast_to", [constant, sizes], kind, {}, user)


def _constant(value: np.ndarray, before: Any) -> Any:
    from litert_converter.mlir import ir

    value = np.asarray(value, order="C")
    attribute = ir.DenseElementsAttr.get(value)
    return _create("arith.constant", [], attribute.type, {"value": attribute}, before)


def _constant_type(value: np.ndarray) -> Any:
    from litert_converter.mlir import ir

    return ir.DenseElementsAttr.get(np.asarray(value, order="C")).type


def _vector_type(length: int, dtype: np.dtype) -> Any:
    from litert_converter.mlir import ir

    return ir.RankedTensorType.get([length], ir.IntegerType.get_signless(8 * dtype.itemsize))


def _text(value: str) -> Any:
    from litert_converter.mlir import ir

    return ir.StringAttr.get(value)


def _create(
    name: str, operands: Sequence[Any], kind: Any, attributes: dict[str, Any], before: Any
) -> Any:
    """An operation in front of another one."""
    from litert_converter.mlir import ir

    with ir.InsertionPoint(before), before.location:
        made = ir.Operation.create(name, [kind], list(operands), attributes)
    return made.results[0]


def _update_function_type(module: Any) -> None:
    """Lets the function's type say what its arguments and results now are."""
    from litert_converter.mlir import ir

    for function in module.body.operations:
        block = function.regions[0].blocks[0]
        results = [value.type for value in block.operations[len(block.operations) - 1].operands]
        kind = ir.FunctionType.get([value.type for value in block.arguments], results)
        function.attributes["function_type"] = ir.TypeAttr.get(kind)
