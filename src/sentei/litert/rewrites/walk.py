"""Walks a JAX program and says each step again, by a rule where there is one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.extend import core

from sentei.litert.rewrites import (
    convolutions,
    functions,
    lookups,
    loops,
    normalized,
    refused,
    resampling,
    wide,
    windows,
)
from sentei.litert.rewrites.arithmetic import evaluate
from sentei.litert.rewrites.graph import Rule, Step, Value, size

# Constants larger than this are left to the converter.
_KNOWN_LIMIT = 4096

# Steps that only call an inner program, and the parameter that holds it.
_CALLS = {
    "jit": "jaxpr",
    "closed_call": "call_jaxpr",
    "core_call": "call_jaxpr",
    "custom_jvp_call": "call_jaxpr",
    "custom_vjp_call": "call_jaxpr",
    "remat": "jaxpr",
    "checkpoint": "jaxpr",
}

# A name may have several rules: the first that answers wins. "jit x": a function x of JAX itself.
_RULES: dict[str, list[Rule]] = {}
for _table in (
    loops.RULES,
    windows.RULES,
    convolutions.RULES,
    resampling.RULES,
    lookups.RULES,
    normalized.RULES,
    refused.RULES,
    wide.RULES,
):
    for _name, _rule in _table.items():
        _RULES.setdefault(_name, []).append(_rule)


def simplified(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function that computes the same in steps the LiteRT converter knows.

    Args:
        function: A function of arrays, nested in tuples, lists and dicts; it returns the same.

    Returns:
        A function with the same arguments and results, to be traced by JAX in its place.
    """

    def run(*arrays: Any) -> Any:
        leaves, structure = jax.tree.flatten(arrays)
        program, shapes = jax.make_jaxpr(
            lambda *flat: function(*jax.tree.unflatten(structure, flat)), return_shape=True
        )(*leaves)
        values = _run(program, [Value(leaf) for leaf in leaves], "")
        return jax.tree.unflatten(jax.tree.structure(shapes), [value.array for value in values])

    return run


def _run(program: Any, inputs: Sequence[Value], scope: str) -> list[Value]:
    """Runs a closed program on values, by the rules."""
    inner = program.jaxpr if isinstance(program, core.ClosedJaxpr) else program
    values: dict[Any, Value] = dict(zip(inner.invars, inputs, strict=True))
    for variable, constant in zip(inner.constvars, getattr(program, "consts", ()), strict=True):
        values[variable] = _constant(constant)

    def read(atom: Any) -> Value:
        if isinstance(atom, core.Literal):
            return _constant(np.asarray(atom.val, atom.aval.dtype))
        return values[atom]

    for equation in _needed(inner):
        step = _step(equation, [read(atom) for atom in equation.invars], scope)
        with jax.named_scope(str(equation.source_info.name_stack) or "_"):
            outputs = _apply(step)
        values.update(zip(equation.outvars, outputs, strict=True))
    return [read(atom) for atom in inner.outvars]


def _needed(program: Any) -> list[Any]:
    """The equations whose results are used: dead ones may hold what LiteRT lacks (dropout)."""
    read: set[Any] = {atom for atom in program.outvars if isinstance(atom, core.Var)}
    needed = []
    for equation in reversed(program.eqns):
        if equation.effects or not read.isdisjoint(equation.outvars):
            needed.append(equation)
            read.update(atom for atom in equation.invars if isinstance(atom, core.Var))
    return needed[::-1]


def _step(equation: Any, inputs: list[Value], scope: str) -> Step:
    """One equation as a step."""

    def bind(*arrays: Any) -> list[Any]:
        outputs = equation.primitive.bind(*arrays, **equation.params)
        return list(outputs) if equation.primitive.multiple_results else [outputs]

    names = [scope, str(equation.source_info.name_stack)]
    return Step(
        name=equation.primitive.name,
        inputs=inputs,
        params=equation.params,
        shapes=[tuple(variable.aval.shape) for variable in equation.outvars],
        scope="/".join(name for name in names if name),
        bind=bind,
    )


def _apply(step: Step) -> list[Value]:
    """What a step writes: by a rule, from the inner program, or as it stands."""
    label = f"jit {step.params['name']}" if step.name == "jit" else step.name
    outputs = next(
        (out for rule in _RULES.get(label, ()) if (out := rule(step, _run)) is not None), None
    )
    if outputs is None and step.name in _CALLS:
        return _run(step.params[_CALLS[step.name]], step.inputs, step.scope)
    if outputs is None:
        outputs = step.bind(*[value.array for value in step.inputs])
    values = [_value(step, output) for output in outputs]
    if len(values) == 1:
        values[0].known = _known(step, values[0])
        functions.recognise(values[0])
    return values


def _value(step: Step, output: Any) -> Value:
    """The value a step writes, with where it came from."""
    if not isinstance(output, Value):
        return Value(output, step=step)
    if output.step is None:
        output.step = step
    return output


def _known(step: Step, output: Value) -> np.ndarray | None:
    """The numbers a step writes, when it reads only known ones and they are few."""
    if size(output.shape) > _KNOWN_LIMIT or any(v.known is None for v in step.inputs):
        return None
    arrays = [value.known for value in step.inputs if value.known is not None]
    return evaluate(step.name, step.params, arrays, output.array.dtype)


def _constant(array: Any) -> Value:
    """A constant of the program; a weight that JAX still traces has unknown numbers."""
    few = not isinstance(array, jax.core.Tracer) and size(array.shape) <= _KNOWN_LIMIT
    return Value(array, known=np.asarray(array) if few and array.dtype.kind in "fiub" else None)
