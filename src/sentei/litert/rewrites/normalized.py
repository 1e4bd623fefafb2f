"""Softmax over any axes as LiteRT's SOFTMAX, which works on the last axis only."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax

from sentei.litert.rewrites.graph import Rule, Run, Step, Value, size


def _softmax(step: Step, run: Run) -> Sequence[Any] | None:
    """exp(x - max x) / sum exp(x - max x)."""
    exponential = step.inputs[0].made_by("exp")
    total = _reduced(step.inputs[1], "reduce_sum")
    if exponential is None or total is None or total.inputs[0].made_by("exp") is not exponential:
        return None
    difference = exponential.inputs[0].made_by("sub")
    if difference is None:
        return None
    largest = _reduced(difference.inputs[1], "reduce_max")
    axes = tuple(total.params["axes"])
    if largest is None or tuple(largest.params["axes"]) != axes:
        return None
    logits = difference.inputs[0]
    if largest.inputs[0] is not logits:
        return None
    return [_over(logits, axes)]


def _reduced(value: Value, name: str) -> Step | None:
    """The reduction behind a value, through the steps that only restore its axes."""
    while value.step is not None and value.step.name != name:
        inputs = [v for v in value.step.inputs if v.scalar() is None]
        if value.step.name not in _RESTORING or len(inputs) != 1:
            return None
        value = inputs[0]
    return value.step


# `max` with a constant: JAX bounds the largest logit from below by minus infinity.
_RESTORING = ("broadcast_in_dim", "reshape", "stop_gradient", "max", "copy")


def _over(logits: Value, axes: tuple[int, ...]) -> Any:
    """Softmax over the given axes, by turning them to the end and back."""
    rank = len(logits.shape)
    if axes == (rank - 1,):
        return jax.nn.softmax(logits.array, axis=-1)
    kept = [axis for axis in range(rank) if axis not in axes]
    order = [*kept, *axes]
    turned = jax.lax.transpose(logits.array, order)
    joined = turned.reshape(*turned.shape[: len(kept)], size([logits.shape[a] for a in axes]))
    result = jax.nn.softmax(joined, axis=-1).reshape(turned.shape)
    return jax.lax.transpose(result, sorted(range(rank), key=order.__getitem__))


RULES: dict[str, Rule] = {"div": _softmax}
