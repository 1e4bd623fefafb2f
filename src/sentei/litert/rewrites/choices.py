"""Choices among numbers, kept from becoming choices among integers.

The converter takes `where(c, a, b)` for an operation that only moves integers when it finds a mark
on what is chosen or on the outcome: it rounds the other number to the same grid, and whatever else
reads it gets the rounded one. That is not what was simulated (an ELU was off by up to 20 steps), so
something that is next to nothing is added on both sides, which the converter does not look through.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from sentei.litert.rewrites.folding import mark_of
from sentei.litert.rewrites.graph import Rule, Run, Step, Value

# The smallest normal number: of those that count, it changes none.
_NOTHING = np.float32(2.0**-126)


def in_real_numbers(function: Callable[[Any], Any], value: Value) -> Any:
    """A function that chooses, of a tensor that may have a mark.

    Args:
        function: From the tensor to the outcome.
        value: The tensor.
    """
    if mark_of(value) is None:
        return function(value.array)
    return function(value.array + _NOTHING) + _NOTHING


def _is_leaky(step: Step) -> bool:
    """Whether it chooses between a tensor and its multiple: LiteRT has a leaky rectifier."""
    cases = step.inputs[1:]
    for one, other in (cases, cases[::-1]) if len(cases) == 2 else ():
        multiple = other.made_by("mul")
        if multiple is not None and one in multiple.inputs:
            return any(value.scalar is not None for value in multiple.inputs)
    return False


def _chosen(step: Step, _: Run) -> Sequence[Any] | None:
    if not any(map(mark_of, step.inputs)) or _is_leaky(step):
        return None
    arrays = [v.array + _NOTHING if mark_of(v) else v.array for v in step.inputs]
    return [step.bind(*arrays)[0] + _NOTHING]


RULES: dict[str, Rule] = {"select_n": _chosen}
