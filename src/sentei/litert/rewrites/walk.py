"""Walks a JAX program and says each step again, by a rule where there is one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core
from jax.extend.core import primitives

from sentei.litert.rewrites import (
    choices,
    convolutions,
    folding,
    functions,
    lookups,
    loops,
    normalized,
    refused,
    remainders,
    resampling,
    spectra,
    twins,
    views,
    windows,
)
from sentei.litert.rewrites.arithmetic import evaluate
from sentei.litert.rewrites.graph import Rule, Step, Value, size

# Larger constants are left to the converter: this holds the matrix that resizes 512 rows to 512.
_KNOWN_LIMIT = 512 * 512

# Steps that only call an inner program, and the parameter that holds it.
_CALLS = {
    primitives.call_p.name: "call_jaxpr",
    primitives.closed_call_p.name: "call_jaxpr",
    primitives.custom_jvp_call_p.name: "call_jaxpr",
    primitives.custom_vjp_call_p.name: "call_jaxpr",
    primitives.jit_p.name: "jaxpr",
    primitives.remat_p.name: "jaxpr",
}

# Steps that hold programs and have a rule for known numbers of their own.
_LOOPS = ("scan", "while", "cond")

# Marks for the converter (see `composite`): carried out at export they would be gone.
_MARKS = ("composite",)

# A name may have several rules: the first that answers wins. "jit x": a function x of JAX itself.
_RULES: dict[str, list[Rule]] = {}
for _table in (
    choices.RULES,
    folding.RULES,
    loops.RULES,
    windows.RULES,
    convolutions.RULES,
    resampling.RULES,
    lookups.RULES,
    normalized.RULES,
    remainders.RULES,
    refused.RULES,
    spectra.RULES,
    twins.RULES,
    views.RULES,
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
        # The layers' names go with the operations: into error messages, and into the file.
        name = str(equation.source_info.name_stack)
        with jax.named_scope(name) if name else nullcontext():
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
        dtypes=[variable.aval.dtype for variable in equation.outvars],
        scope="/".join(name for name in names if name),
        bind=bind,
    )


def _apply(step: Step) -> list[Value]:
    """What a step writes: computed now, by a rule, from the inner program, or as it stands."""
    if (computed := _computed(step)) is not None:
        return computed
    label = f"jit {step.params['name']}" if step.name == "jit" else step.name
    outputs = next(
        (out for rule in _RULES.get(label, ()) if (out := rule(step, _run)) is not None), None
    )
    if outputs is None and step.name in _CALLS:
        return _run(step.params[_CALLS[step.name]], step.inputs, step.scope)
    if outputs is None:
        outputs = step.bind(*[value.array for value in step.inputs])
    values = [_value(step, output) for output in outputs]
    if len(values) == 1 and values[0].step is step:
        functions.recognise(values[0])
    return values


def _computed(step: Step) -> list[Value] | None:
    """A step on known numbers, carried out at export: the file holds only its result."""
    arrays = [given.known for given in step.inputs if given.known is not None]
    if len(arrays) < len(step.inputs) or not step.dtypes or step.name in (*_CALLS, *_MARKS):
        return None
    few = all(size(shape) <= _KNOWN_LIMIT for shape in step.shapes)
    # JAX has dtypes of its own, for keys of random numbers.
    plain = all(isinstance(dtype, np.dtype) and dtype.kind in "fiub" for dtype in step.dtypes)
    if not few or not plain:
        return None
    known = evaluate(step.name, step.params, arrays, step.dtypes[0])
    if known is not None:
        results = [known]
    elif arrays and step.name not in _LOOPS:
        with jax.ensure_compile_time_eval():
            results = [np.asarray(output) for output in step.bind(*arrays)]
    else:
        return None
    return [_constant(result, step) for result in results]


def _value(step: Step, output: Any) -> Value:
    """The value a step writes, with where it came from."""
    value = output if isinstance(output, Value) else Value(output)
    passed_on = any(value is given for given in step.inputs)
    if value.step is None and not passed_on:
        value.step = step
        value.fixed = bool(step.inputs) and all(given.fixed for given in step.inputs)
    return value


def _constant(array: Any, step: Step | None = None) -> Value:
    """A constant of the program; a weight that JAX still traces has unknown numbers."""
    numbers = folding.numbers_of(array)
    if numbers is not None and numbers.ndim <= 1 and numbers.dtype == array.dtype:
        # Of a quantized model the biases and the vectors of a normalization are known.
        return Value(array, known=numbers, fixed=True, step=step)
    few = not isinstance(array, jax.core.Tracer) and size(array.shape) <= _KNOWN_LIMIT
    if not few or array.dtype.kind not in "fiub":
        return Value(array, fixed=True, step=step)
    known = np.asarray(array)
    value = Value(array, known=known, fixed=True, step=step)
    if value.scalar is not None and known.ndim:
        # One number spread over a tensor takes no room in the file.
        value.array = jnp.full(known.shape, known.flat[0], known.dtype)
    return value
