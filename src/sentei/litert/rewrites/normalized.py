"""Softmax over any axes, and the plain form of normalization."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
from jax import lax

from sentei.litert.rewrites.graph import Rule, Run, Step, Value, size

# Steps that only give a reduced tensor its axes back.
_RESTORING = ("broadcast_in_dim", "reshape", "stop_gradient", "copy")


def _quotient(step: Step, run: Run) -> Sequence[Any] | None:
    """exp(x - m) / sum exp(x - m): softmax of x, for an m that is the same along its axes."""
    exponential = step.inputs[0].made_by("exp")
    total = _reduction(step.inputs[1])
    if exponential is None or total is None or total.inputs[0].made_by("exp") is not exponential:
        return None
    return _softmax(exponential.inputs[0], total)


def _exponential(step: Step, run: Run) -> Sequence[Any] | None:
    """exp(x - (log sum exp(x - m) + m)): softmax of x, as Keras writes it for several axes."""
    exponent = step.inputs[0]
    x, shift = exponent.behind(("sub", 0)), exponent.behind(("sub", 1), ("add", 1))
    logarithm = exponent.behind(("sub", 1), ("add", 0), ("log", 0))
    if logarithm is None:
        return None
    # A sum of exponentials is not negative: Keras' `abs` does nothing.
    total = _reduction(logarithm.behind(("abs", 0)) or logarithm)
    centred = total.inputs[0].behind(("exp", 0)) if total is not None else None
    if total is None or centred is None:
        return None
    if centred.behind(("sub", 0)) is not x or centred.behind(("sub", 1)) is not shift:
        return None
    return _softmax(centred, total)


def _reduction(value: Value) -> Step | None:
    """The sum behind a value that has its axes back, each of length 1."""
    restored = value.shape
    while value.step is not None and value.step.name in _RESTORING:
        value = value.step.inputs[0]
    step = value.made_by("reduce_sum")
    if step is None:
        return None
    axes = step.params["axes"]
    kept = tuple(1 if axis in axes else n for axis, n in enumerate(step.inputs[0].shape))
    return step if restored == kept else None


def _softmax(centred: Value, total: Step) -> Sequence[Any] | None:
    """Softmax of x, given x - m; SOFTMAX works on the last axis, so others are turned there."""
    axes = tuple(int(axis) for axis in total.params["axes"])
    logits = _unshifted(centred, axes)
    rank = len(logits.shape)
    if axes == (rank - 1,):
        return [jax.nn.softmax(logits.array, axis=-1)]
    kept = [axis for axis in range(rank) if axis not in axes]
    order = [*kept, *axes]
    turned = lax.transpose(logits.array, order)
    joined = turned.reshape(*turned.shape[: len(kept)], size([logits.shape[a] for a in axes]))
    result = jax.nn.softmax(joined, axis=-1).reshape(turned.shape)
    return [lax.transpose(result, sorted(range(rank), key=order.__getitem__))]


def _unshifted(centred: Value, axes: tuple[int, ...]) -> Value:
    """Given x - m: x, if m is the same along the axes, so that softmax does not see it."""
    x, shift = centred.behind(("sub", 0)), centred.behind(("sub", 1))
    if x is None or shift is None or x.shape != centred.shape:
        return centred
    if len(shift.shape) != len(x.shape):
        return centred
    return x if all(shift.shape[axis] == 1 for axis in axes) else centred


def _sum(step: Step, run: Run) -> Sequence[Any] | None:
    """Writes x * s + (b - m * s) as (x - m) * s + b, where m follows from x.

    Keras writes normalization the first way, which is best when m and s are weights: they become
    a convolution's. When they are statistics of x, x - m is there already, for the variance.
    """
    product, shift = step.inputs
    x, scale = product.behind(("mul", 0)), product.behind(("mul", 1))
    bias = shift.behind(("add", 1))
    negative = shift if bias is None else shift.behind(("add", 0))
    mean = negative.behind(("mul", 0), ("neg", 0)) if negative is not None else None
    if x is None or scale is None or mean is None or negative is None:
        return None
    if negative.behind(("mul", 1)) is not scale or mean.fixed:
        return None
    result = (x.array - mean.array) * scale.array
    return [result if bias is None else result + bias.array]


RULES: dict[str, Rule] = {"div": _quotient, "exp": _exponential, "add": _sum}
