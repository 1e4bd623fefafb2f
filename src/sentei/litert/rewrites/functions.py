"""Activations known by what they compute, not by how they are written.

Every chain of number-by-number steps is also run on a row of sample points. When the row equals
that of a function in the table, the chain is replaced by the function's best LiteRT form, whoever
wrote it: `Activation("gelu")`, `keras.ops.gelu` in a functional graph, or a custom layer's own
`0.5 * x * (1 + erf(x / sqrt(2)))`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from sentei.litert.rewrites.arithmetic import ELEMENTWISE, evaluate
from sentei.litert.rewrites.choices import in_real_numbers
from sentei.litert.rewrites.graph import Value

# Dense where activations bend, sparse far out, so that a clip at 20 or 1000 is not overlooked.
_FAR = np.array([12.0, 20.0, 50.0, 100.0, 1e3, 1e4, 1e6])
_POINTS = np.concatenate([-_FAR[::-1], np.linspace(-9.0, 9.0, 73), _FAR])

# The longest chain looked back: the tanh form of GELU has 8 steps.
_REACH = 16

# The last step of a chain in the table; others are not compared.
_LAST = {"mul", "add", "select_n"}


@dataclass(frozen=True)
class _Known:
    """A function of one number, and how to write it so that LiteRT has few ops to run."""

    curve: np.ndarray
    write: Callable[[Any], Any]
    chooses: bool = False


def _composite(
    function: Callable[[Any], Any], name: str, **attributes: Any
) -> Callable[[Any], Any]:
    """A function under a name that the converter turns into one op."""
    wrapped = jax.lax.composite(lambda x, **_: function(x), name)
    return lambda x: wrapped(x, **attributes)


def _gelu(approximate: bool) -> Callable[[Any], Any]:
    return _composite(
        lambda x: jax.nn.gelu(x, approximate=approximate),
        "aten.gelu.default",
        approximate="tanh" if approximate else "none",
    )


def _row(function: Callable[[float], float]) -> np.ndarray:
    return np.array([function(float(x)) for x in _POINTS])


_TABLE = (
    _Known(_row(lambda x: 0.5 * x * math.erfc(-x / math.sqrt(2))), _gelu(approximate=False)),
    _Known(
        _row(lambda x: 0.5 * x * (1 + math.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))),
        _gelu(approximate=True),
    ),
    _Known(
        _row(lambda x: x if x > 0 else math.expm1(x)),
        lambda x: jnp.where(x > 0, x, jnp.expm1(x)),
        chooses=True,
    ),
    _Known(
        _row(lambda x: max(x, 0.0) + math.log1p(math.exp(-abs(x)))),
        lambda x: jax.nn.relu(x) + jnp.log1p(jnp.exp(-jnp.abs(x))),
    ),
)


def recognise(value: Value) -> None:
    """Follows a value's curve; where it is a known function, writes the value as that function.

    Args:
        value: A value just made; its `curves`, and perhaps its `array`, are set.
    """
    step = value.step
    if step is None or step.name not in ELEMENTWISE:
        return
    varying = [v for v in step.inputs if v.scalar is None]
    if not varying:
        return
    rows = [_rows(v) for v in varying]
    for leaf in [leaf for leaf in rows[0] if all(leaf in row for row in rows)][-_REACH:]:
        if leaf.shape != value.shape:
            continue
        row = {id(v): v_rows[leaf] for v, v_rows in zip(varying, rows, strict=True)}
        arrays = [row[id(v)] if id(v) in row else np.float64(v.scalar) for v in step.inputs]
        kind = value.array.dtype
        wanted = np.dtype(np.float64) if value.floating else kind
        curve = evaluate(step.name, step.params, [np.asarray(a) for a in arrays], wanted)
        if curve is None:
            continue
        value.curves[leaf] = curve
        if step.name in _LAST and value.floating:
            _replace(value, leaf, curve)


def _rows(value: Value) -> dict[Value, np.ndarray]:
    """A value's curves; of itself it is the identity."""
    return {**value.curves, value: _POINTS} if value.floating else value.curves


def _replace(value: Value, leaf: Value, curve: np.ndarray) -> None:
    for known in _TABLE:
        if np.allclose(curve, known.curve, rtol=1e-5, atol=1e-6):
            if leaf.view is not None:
                shown = replace(leaf.view, array=known.write(leaf.view.array)).shown()
                value.array, value.view = shown.array, shown.view
            else:
                array = (
                    in_real_numbers(known.write, leaf) if known.chooses else known.write(leaf.array)
                )
                value.array, value.view = array, None
            return
