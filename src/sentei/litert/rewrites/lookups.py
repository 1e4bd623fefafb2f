"""Embedding tables as EMBEDDING_LOOKUP, and lookups whose places are known to lie inside."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from sentei.litert.rewrites.graph import Rule, Run, Step, Value, same_program


def _gather(step: Step, run: Run) -> Sequence[Any] | None:
    table, places = step.inputs
    if places.known is not None:
        inside = _inside(table, places.known, step.params)
        return [lax.gather_p.bind(table.array, places.array, **inside)] if inside else None
    rows = _row_numbers(step, table, places)
    return [_bounded(step) if rows is None else _rows(table, rows)]


def _bounded(step: Step) -> Any:
    """A lookup whose places are held inside by ops of its own: GATHER_ND stops at one outside."""
    table, places = (value.array for value in step.inputs)
    limits = np.array(_limits(step.inputs[0], step.params), places.dtype)
    held = jnp.clip(places, 0, limits)
    inside = {**step.params, "mode": lax.GatherScatterMode.PROMISE_IN_BOUNDS, "fill_value": None}
    found = lax.gather_p.bind(table, held, **inside)
    if step.params["mode"] != lax.GatherScatterMode.FILL_OR_DROP:
        return found
    filler = step.params["fill_value"]
    if filler is None:
        filler = np.nan if step.inputs[0].floating else np.iinfo(table.dtype).min
    kept = jnp.all(places == held, axis=-1)
    offsets = step.params["dimension_numbers"].offset_dims
    return jnp.where(lax.expand_dims(kept, offsets), found, filler)


def _limits(table: Value, params: Any) -> list[int]:
    """The last place of each looked-up axis."""
    axes = params["dimension_numbers"].start_index_map
    return [table.shape[axis] - params["slice_sizes"][axis] for axis in axes]


def _inside(table: Value, places: np.ndarray, params: Any) -> dict[str, Any] | None:
    """The parameters without the test for places outside, when all known places are inside."""
    if np.any(places < 0) or np.any(places > _limits(table, params)):
        return None
    return {**params, "mode": lax.GatherScatterMode.PROMISE_IN_BOUNDS, "fill_value": None}


def _row_numbers(step: Step, table: Value, places: Value) -> Value | None:
    """What a lookup of whole rows of a table is asked for, before JAX wraps negative numbers."""
    numbers = step.params["dimension_numbers"]
    whole_rows = (
        len(table.shape) == 2
        and numbers.collapsed_slice_dims == (0,)
        and numbers.start_index_map == (0,)
        and tuple(step.params["slice_sizes"]) == (1, table.shape[1])
        and numbers.offset_dims == (len(step.shapes[0]) - 1,)
    )
    if not whole_rows or not table.fixed or not table.floating:
        return None
    spread = places.made_by("broadcast_in_dim") or places.made_by("reshape")
    if spread is None or places.shape != (*spread.inputs[0].shape, 1):
        return None
    return _unwrapped(spread.inputs[0])


def _unwrapped(rows: Value) -> Value | None:
    """The numbers before `select(i < 0, i + length, i)`."""
    numbers, limit = (
        rows.behind(("select_n", 0), ("lt", 0)),
        rows.behind(("select_n", 0), ("lt", 1)),
    )
    if limit is None or limit.scalar != 0:
        return None
    return numbers if rows.behind(("select_n", 1)) is numbers else None


def _rows(table: Value, rows: Value) -> Any:
    """Rows of a table.

    LiteRT stops with an error at a row that the table lacks, where Keras on JAX gives NaN.
    """
    flat = rows.array.astype(jnp.int32).reshape(-1)
    looked_up = jax.lax.composite(
        lambda i, t, **_: t.at[i].get(mode="promise_in_bounds"), "odml.embedding_lookup"
    )(flat, table.array)
    return looked_up.reshape(*rows.shape, table.shape[1])


def _bucket(step: Step, run: Run) -> Sequence[Any] | None:
    """`jax.numpy.searchsorted`: how many boundaries a number has passed, counted at once."""
    boundaries, numbers = step.inputs
    if len(boundaries.shape) != 1 or not numbers.floating:
        return None
    for side, passed in (("left", jnp.greater), ("right", jnp.greater_equal)):
        search = partial(jnp.searchsorted, side=side)
        if same_program(step, search, boundaries.array, numbers.array):
            beyond = passed(numbers.array[..., None], boundaries.array)
            return [jnp.sum(beyond.astype(jnp.int32), axis=-1)]
    return None


RULES: dict[str, Rule] = {"gather": _gather, "jit searchsorted": _bucket}
