"""The nouns of the rewriting: a value of the graph, and the step that made it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np


@dataclass(eq=False)
class Value:
    """One tensor of the graph.

    Invariants:
        `known`, when set, equals `array` and has its shape and dtype.
        `wide.array`, when set, equals `array` with an axis of length 1 inserted at `wide.axis`.

    Attributes:
        array: The tensor: a JAX tracer or array.
        known: Its numbers, where export already knows them and they are few.
        step: The step that made it; `None` for inputs and weights.
        wide: The same tensor with one more axis, where a rule already had to compute it so.
        curves: For values it is a function of, number by number: what it makes of a row of samples.
    """

    array: Any
    known: np.ndarray | None = None
    step: Step | None = None
    wide: Wide | None = None
    curves: dict[Value, np.ndarray] = field(default_factory=dict, repr=False)

    @property
    def shape(self) -> tuple[int, ...]:
        """The tensor's shape."""
        return tuple(self.array.shape)

    @property
    def floating(self) -> bool:
        """Whether the tensor holds real numbers."""
        return bool(np.issubdtype(self.array.dtype, np.floating))

    def made_by(self, name: str) -> Step | None:
        """The step that made this value, if its name is `name`; copies are looked through."""
        value = self
        while value.step is not None and value.step.name in ("copy", "stop_gradient"):
            value = value.step.inputs[0]
        return value.step if value.step is not None and value.step.name == name else None

    def scalar(self) -> float | None:
        """The one number that fills the whole tensor, if it is known."""
        value = self
        while value.known is None and value.step is not None and value.step.name in _SPREADING:
            value = value.step.inputs[0]
        if value.known is None or value.known.size == 0 or value.known.dtype.kind not in "fiub":
            return None
        first = value.known.flat[0]
        return float(first) if value.known.size == 1 or np.all(value.known == first) else None


# Steps whose output holds only numbers of their input: a constant stays the same constant.
_SPREADING = ("broadcast_in_dim", "reshape", "squeeze", "copy", "stop_gradient", "transpose")


@dataclass(frozen=True)
class Wide:
    """A tensor with an axis of length 1 inserted (a 1-D signal seen as an image of height 1)."""

    axis: int
    array: Any


@dataclass(eq=False)
class Step:
    """One equation of the program.

    Attributes:
        name: The JAX primitive's name; for a function that JAX traced on its own, `"jit"`.
        inputs: What it reads.
        params: The primitive's parameters.
        shapes: The shapes of what it writes.
        scope: The names of the layers around it, outermost first: `"model/block/dense"`.
        bind: Runs the equation as it stands on other arrays of the same kind.
    """

    name: str
    inputs: list[Value]
    params: Mapping[str, Any]
    shapes: list[tuple[int, ...]]
    scope: str = ""
    bind: Callable[..., list[Any]] = field(default=lambda *arrays: list(arrays), repr=False)

    @property
    def layer(self) -> str:
        """The name of the innermost layer the step belongs to."""
        names = [name for name in self.scope.split("/") if name and "(" not in name]
        return names[-1] if names else "the model"


# A rule gives the arrays (or values) that replace what a step writes, or None to leave it alone.
# Its second argument runs an inner program by the same rules: (closed jaxpr, inputs, scope).
Run = Callable[[Any, Sequence[Value], str], list[Value]]
Rule = Callable[[Step, Run], Sequence[Any] | None]


def size(shape: Sequence[int]) -> int:
    """The number of elements of a tensor of this shape."""
    return math.prod(shape)
