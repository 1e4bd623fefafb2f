"""Loops written out step by step: LiteRT's WHILE is not delegated, and the converter refuses it.

What a recurrent step computes from its input alone (the product with the input kernel) is computed
for all time steps at once before the loop, so a step keeps only what depends on its state.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.extend import core

from sentei.core.errors import UnsupportedModel
from sentei.litert.rewrites.graph import Rule, Run, Step, Value

# The most steps of a loop that are written out: an LSTM of 4096 steps has 60,000 operators.
_LONGEST = 4096


def _scan(step: Step, run: Run) -> Sequence[Any] | None:
    consts, carry_count = step.params["num_consts"], step.params["num_carry"]
    length = step.params["length"]
    constants, carry = step.inputs[:consts], step.inputs[consts : consts + carry_count]
    sequences = step.inputs[consts + carry_count :]
    if length == 0 or length > _LONGEST:
        raise UnsupportedModel(_loop_refusal(step, f"takes {length} steps"))
    body, ahead = _split(step.params["jaxpr"], consts, carry_count)
    if ahead is not None:
        early = run(_batched(ahead, len(constants), length), [*constants, *sequences], step.scope)
        sequences = [*sequences, *early]
    slices = [_slices(sequence, length) for sequence in sequences]
    rows: list[list[Value]] = []
    order = range(length - 1, -1, -1) if step.params["reverse"] else range(length)
    for time in order:
        now = [each[time] for each in slices]
        outputs = run(body, [*constants, *carry, *now], step.scope)
        carry, row = outputs[:carry_count], outputs[carry_count:]
        rows.append(row)
    if step.params["reverse"]:
        rows.reverse()
    return [*carry, *[_stacked(list(column)) for column in zip(*rows, strict=True)]]


def _split(program: Any, consts: int, carry_count: int) -> tuple[Any, Any | None]:
    """A loop's body, and the program of all that depends on the sequences but not on the state.

    Returns:
        The body, which reads the early results after the sequences; and the early program, which
        reads the constants and the sequences, or `None` when there is nothing to do early.
    """
    inner = program.jaxpr
    late = set(inner.invars[consts : consts + carry_count])
    moving = set(inner.invars[consts + carry_count :])
    early_steps, late_steps, results = [], [], []
    for equation in inner.eqns:
        reads = {atom for atom in equation.invars if isinstance(atom, core.Var)}
        if equation.effects or reads & late:
            late_steps.append(equation)
            late.update(equation.outvars)
            continue
        early_steps.append(equation)
        if reads & moving:
            moving.update(equation.outvars)
            results.extend(equation.outvars)
        else:
            # It reads constants only: the converter computes it once, wherever it stands.
            late_steps.append(equation)
    read = [*(atom for equation in late_steps for atom in equation.invars), *inner.outvars]
    needed = {atom for atom in read if isinstance(atom, core.Var)}
    results = [variable for variable in results if variable in needed]
    if not results:
        return program, None
    sequences = inner.invars[consts + carry_count :]
    early = inner.replace(
        eqns=early_steps, invars=[*inner.invars[:consts], *sequences], outvars=results
    )
    body = inner.replace(eqns=late_steps, invars=[*inner.invars, *results])
    return core.ClosedJaxpr(body, program.consts), core.ClosedJaxpr(early, program.consts)


def _batched(program: Any, consts: int, length: int) -> Any:
    """A program for all time steps at once: constants as they are, sequences along axis 0."""
    inputs = [variable.aval for variable in program.jaxpr.invars]
    axes = [None] * consts + [0] * (len(inputs) - consts)
    specs = [
        jax.ShapeDtypeStruct(aval.shape if axis is None else (length, *aval.shape), aval.dtype)
        for aval, axis in zip(inputs, axes, strict=True)
    ]
    function = jax.vmap(core.jaxpr_as_fun(program), in_axes=axes, axis_size=length)
    return jax.make_jaxpr(function)(*specs)


def _slices(sequence: Value, length: int) -> list[Value]:
    """A tensor's slices along axis 0, by one UNPACK."""
    if sequence.known is not None:
        return [Value(jnp.asarray(row), known=row) for row in sequence.known]
    unpacked = lax.composite(lambda x, **_: [x[i] for i in range(length)], "tfl.unpack")(
        sequence.array, num=np.int32(length), axis=np.int32(0)
    )
    return [Value(array) for array in unpacked]


def _stacked(parts: list[Value]) -> Value:
    """Tensors stacked along a new axis 0."""
    shape = parts[0].shape
    if not shape:
        return Value(jnp.stack([part.array for part in parts]))
    joined = (
        lax.concatenate([part.array for part in parts], 0) if len(parts) > 1 else parts[0].array
    )
    stacked = joined.reshape(len(parts), *shape)
    return Value(stacked, step=Step("stack", parts, {}, [tuple(stacked.shape)]))


def _slice(step: Step, run: Run) -> Sequence[Any] | None:
    """One element of a stack is that element: `outputs[-1]` needs no stack."""
    stack = step.inputs[0].made_by("stack")
    start, limit = step.params["start_indices"], step.params["limit_indices"]
    if stack is None or limit[0] - start[0] != 1 or step.params["strides"] is not None:
        return None
    part = stack.inputs[start[0]]
    if tuple(limit[1:]) != part.shape or any(start[1:]):
        return None
    return [lax.expand_dims(part.array, [0])]


def _while(step: Step, run: Run) -> Sequence[Any] | None:
    """A loop whose every test can be decided at export."""
    params = step.params
    first, second = params["cond_nconsts"], params["body_nconsts"]
    test_constants, body_constants = step.inputs[:first], step.inputs[first : first + second]
    state = step.inputs[first + second :]
    for _ in range(_LONGEST):
        test = run(params["cond_jaxpr"], [*test_constants, *state], step.scope)[0].scalar
        if test is None:
            break
        if not test:
            return state
        state = run(params["body_jaxpr"], [*body_constants, *state], step.scope)
    rounds = "takes as many rounds as its data say" if test is None else "does not end"
    raise UnsupportedModel(_loop_refusal(step, rounds))


def _loop_refusal(step: Step, what: str) -> str:
    return (
        f"Layer {step.layer!r} cannot be exported: it runs a loop that {what}. Loops are written "
        f"out in a LiteRT file, so they must take a known number of 1 to {_LONGEST} steps: use "
        "`keras.ops.scan`, or `keras.ops.fori_loop` with constant bounds."
    )


def _cond(step: Step, run: Run) -> Sequence[Any] | None:
    """A branch: the one taken, if known; else all of them and a choice among the results."""
    which, *inputs = step.inputs
    branches = step.params["branches"]
    known = which.scalar
    if known is not None:
        return run(branches[int(np.clip(known, 0, len(branches) - 1))], inputs, step.scope)
    results = [run(branch, inputs, step.scope) for branch in branches]
    chosen = [column[0].array for column in zip(*results, strict=True)]
    for index, outputs in enumerate(results[1:], start=1):
        chosen = [
            jnp.where(which.array >= index, output.array, old)
            for output, old in zip(outputs, chosen, strict=True)
        ]
    return chosen


def _choice(step: Step, run: Run) -> Sequence[Any] | None:
    """A choice that is known is its branch."""
    known = step.inputs[0].scalar
    return None if known is None else [step.inputs[1 + int(known)]]


RULES: dict[str, Rule] = {
    "scan": _scan,
    "while": _while,
    "cond": _cond,
    "select_n": _choice,
    "slice": _slice,
}
