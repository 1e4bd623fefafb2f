"""Sums and products of a tensor with itself, kept in integers behind a reshape.

The converter moves a reshape of both operands behind the operation. Where both are one reshaped
tensor it then takes the operation's integers for those of its operand, and refuses its own graph.
So what is reshaped here is the outcome, with its mark.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from jax import lax

from sentei.litert.composite import MOST_AXES, NAME, attributes_of, marked
from sentei.litert.rewrites.folding import mark_of
from sentei.litert.rewrites.graph import Rule, Run, Step, Value

_OPERATIONS = {"add": lax.add, "mul": lax.mul, "sub": lax.sub}


def _outcome(step: Step, _: Run) -> Sequence[Any] | None:
    """The mark of such a sum or product."""
    made = step.inputs[-1].step
    if step.params["name"] != NAME or made is None or made.name not in _OPERATIONS:
        return None
    mark = mark_of(made.inputs[0])
    if mark is None:
        return None
    one, other = (_before_reshapes(value, mark) for value in made.inputs)
    if one is None or other is None or one.array is not other.array:
        return None
    image = _marked_as(mark, one.array)
    return [_marked_as(step, _OPERATIONS[made.name](image, image)).reshape(step.shapes[0])]


def _before_reshapes(value: Value, grid: Step) -> Value | None:
    """What a value is that was only reshaped, and marked as one mark does; None for others."""
    reshaped = False
    while True:
        reshape, mark = value.made_by("reshape"), mark_of(value)
        last = reshape or mark
        if last is None:
            return value if reshaped and value.array.ndim <= MOST_AXES else None
        if mark is not None and _grid(mark) != _grid(grid):
            return None
        reshaped |= reshape is not None
        value = last.inputs[-1]


def _grid(mark: Step) -> dict[str, str]:
    return {name: str(value) for name, value in attributes_of(mark.params).items()}


def _marked_as(step: Step, array: Any) -> Any:
    """Another tensor with the mark of a step, which is that of a whole tensor."""
    about = attributes_of(step.params)
    bits = int(str(about["dtype"])[1:])
    return marked(
        array, about["scale"], about["zero_point"], bits, bool(about["narrow_range"]), None
    )


RULES: dict[str, Rule] = {"composite": _outcome}
