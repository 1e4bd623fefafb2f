"""The nouns of the rewriting: a value of the graph, and the step that made it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import jax
import numpy as np

# Steps whose output holds only numbers of their input: a constant stays the same constant.
_SPREADING = ("broadcast_in_dim", "reshape", "squeeze", "copy", "stop_gradient", "transpose")


@dataclass(eq=False)
class Value:
    """One tensor of the graph.

    Invariants:
        `known`, when set, equals `array` and has its shape and dtype.
        `fixed` values do not depend on the model's inputs; known values are fixed.

    Attributes:
        array: The tensor: a JAX tracer or array.
        known: Its numbers, where export already knows them and they are not too many.
        fixed: Whether it follows from weights and constants alone.
        step: The step that made it; `None` for inputs and weights.
        view: Where a rule had to compute the tensor in another form, that form (`views.View`).
        matrix: Of a tensor of many axes, the matrix of the same numbers that a rule computed it as.
        parts: Of a complex tensor, its real and imaginary parts, where a rule made them.
        curves: For values it is a function of, number by number: what it makes of a row of samples.
    """

    array: Any
    known: np.ndarray | None = None
    fixed: bool = False
    step: Step | None = None
    view: Any = None
    matrix: Any = None
    parts: tuple[Any, Any] | None = None
    curves: dict[Value, np.ndarray] = field(default_factory=dict, repr=False)

    @property
    def shape(self) -> tuple[int, ...]:
        """The tensor's shape."""
        return tuple(self.array.shape)

    @property
    def floating(self) -> bool:
        """Whether the tensor holds real numbers."""
        return bool(np.issubdtype(self.array.dtype, np.floating))

    @cached_property
    def scalar(self) -> float | None:
        """The one number that fills the whole tensor, if it is known."""
        value = self
        while value.known is None and value.step is not None and value.step.name in _SPREADING:
            value = value.step.inputs[0]
        if value.known is None or value.known.size == 0 or value.known.dtype.kind not in "fiub":
            return None
        first = value.known.flat[0]
        return float(first) if np.all(value.known == first) else None

    def made_by(self, name: str) -> Step | None:
        """The step that made this value, if that is its name; copies are looked through."""
        value = self
        while value.step is not None and value.step.name in ("copy", "stop_gradient"):
            value = value.step.inputs[0]
        return value.step if value.step is not None and value.step.name == name else None

    def behind(self, *path: tuple[str, int]) -> Value | None:
        """An input of the steps that led here.

        Args:
            *path: For each step back, its name and which of its inputs to follow.

        Returns:
            The value at the end of the path, or None where a step has another name.
        """
        value = self
        for name, which in path:
            step = value.made_by(name)
            if step is None:
                return None
            value = step.inputs[which]
        return value


@dataclass(eq=False)
class Step:
    """One equation of the program.

    Attributes:
        name: The JAX primitive's name.
        inputs: What it reads.
        params: The primitive's parameters.
        shapes: The shapes of what it writes.
        dtypes: Their dtypes.
        scope: The names of the layers around it, outermost first: `"model/block/dense"`.
        bind: Runs the equation as it stands on other tensors of the same kind.
    """

    name: str
    inputs: list[Value]
    params: Mapping[str, Any]
    shapes: list[tuple[int, ...]]
    dtypes: list[Any] = field(default_factory=list)
    scope: str = ""
    bind: Callable[..., list[Any]] = field(default=lambda *arrays: list(arrays), repr=False)

    @property
    def layer(self) -> str:
        """The name of the innermost layer the step belongs to."""
        names = [name for name in self.scope.split("/") if name and "(" not in name]
        return names[-1] if names else "the model"


# Runs an inner program by the rules: (program, inputs, scope).
Run = Callable[[Any, Sequence[Value], str], list[Value]]

# Gives the tensors (or values) that replace what a step writes, or None to leave it alone.
Rule = Callable[[Step, Run], Sequence[Any] | None]


def size(shape: Sequence[int]) -> int:
    """The number of elements of a tensor of this shape."""
    return math.prod(shape)


def same_program(step: Step, function: Callable[..., Any], *arrays: Any) -> bool:
    """Whether a function that JAX traced on its own (`jit`) is a given one.

    Its name is on the step, but not what it was called with: a method, a side. So the function is
    traced with each choice, and the programs are compared by their text.

    Args:
        step: The step, named `"jit"`.
        function: The function with a choice made.
        *arrays: Its inputs.

    Returns:
        Whether it is the one the step calls.
    """
    specs = [jax.ShapeDtypeStruct(array.shape, array.dtype) for array in arrays]
    traced = jax.make_jaxpr(function)(*specs).jaxpr.eqns
    return len(traced) == 1 and str(traced[0].params.get("jaxpr")) == str(step.params["jaxpr"])
