"""JAX primitives in numpy: to know constants at export, and to see what an activation computes."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

_erf = np.vectorize(math.erf, otypes=[np.float64])
_erfc = np.vectorize(math.erfc, otypes=[np.float64])


def _select(which: np.ndarray, *cases: np.ndarray) -> np.ndarray:
    result = np.broadcast_to(cases[0], np.broadcast_shapes(which.shape, *[c.shape for c in cases]))
    for index, case in enumerate(cases[1:], start=1):
        result = np.where(which.astype(int) == index, case, result)
    return result


# Primitives that work number by number, called with the primitive's parameters as keywords.
ELEMENTWISE: dict[str, Callable[..., Any]] = {
    "abs": lambda x, **_: np.abs(x),
    "add": lambda x, y, **_: x + y,
    "and": lambda x, y, **_: x & y,
    "ceil": lambda x, **_: np.ceil(x),
    "clamp": lambda low, x, high, **_: np.minimum(np.maximum(x, low), high),
    "convert_element_type": lambda x, new_dtype, **_: x.astype(new_dtype),
    "copy": lambda x, **_: x,
    "cos": lambda x, **_: np.cos(x),
    "div": lambda x, y, **_: x / y if x.dtype.kind == "f" else np.trunc(x / y),
    "eq": lambda x, y, **_: x == y,
    "erf": lambda x, **_: _erf(x),
    "erfc": lambda x, **_: _erfc(x),
    "exp": lambda x, **_: np.exp(x),
    "exp2": lambda x, **_: np.exp2(x),
    "expm1": lambda x, **_: np.expm1(x),
    "floor": lambda x, **_: np.floor(x),
    "ge": lambda x, y, **_: x >= y,
    "gt": lambda x, y, **_: x > y,
    "integer_pow": lambda x, y, **_: x ** np.asarray(y, x.dtype),
    "le": lambda x, y, **_: x <= y,
    "log": lambda x, **_: np.log(x),
    "log1p": lambda x, **_: np.log1p(x),
    "logistic": lambda x, **_: 1 / (1 + np.exp(-x)),
    "lt": lambda x, y, **_: x < y,
    "max": lambda x, y, **_: np.maximum(x, y),
    "min": lambda x, y, **_: np.minimum(x, y),
    "mul": lambda x, y, **_: x * y,
    "ne": lambda x, y, **_: x != y,
    "neg": lambda x, **_: -x,
    "not": lambda x, **_: ~x,
    "or": lambda x, y, **_: x | y,
    "pow": lambda x, y, **_: np.power(x, y),
    "rem": lambda x, y, **_: np.fmod(x, y),
    "rsqrt": lambda x, **_: 1 / np.sqrt(x),
    "select_n": lambda which, *cases, **_: _select(which, *cases),
    "sign": lambda x, **_: np.sign(x),
    "sin": lambda x, **_: np.sin(x),
    "sqrt": lambda x, **_: np.sqrt(x),
    "square": lambda x, **_: x * x,
    "stop_gradient": lambda x, **_: x,
    "sub": lambda x, y, **_: x - y,
    "tanh": lambda x, **_: np.tanh(x),
}


def _broadcast(x: np.ndarray, shape: Sequence[int], broadcast_dimensions: Any, **_: Any) -> Any:
    inner = [1] * len(shape)
    for axis, length in zip(broadcast_dimensions, x.shape, strict=True):
        inner[axis] = length
    return np.broadcast_to(x.reshape(inner), shape)


# Primitives that move or make numbers.
_MOVING: dict[str, Callable[..., Any]] = {
    "broadcast_in_dim": _broadcast,
    "concatenate": lambda *x, dimension, **_: np.concatenate(x, dimension),
    "iota": lambda *, shape, dimension, **_: _broadcast(
        np.arange(shape[dimension]), shape, [dimension]
    ),
    "reshape": lambda x, new_sizes, **_: x.reshape(new_sizes),
    "rev": lambda x, dimensions, **_: np.flip(x, dimensions),
    "squeeze": lambda x, dimensions, **_: np.squeeze(x, tuple(dimensions)),
    "transpose": lambda x, permutation, **_: np.transpose(x, permutation),
}


def evaluate(
    name: str, params: Mapping[str, Any], arrays: Sequence[np.ndarray], dtype: Any
) -> np.ndarray | None:
    """Computes one primitive in numpy.

    Args:
        name: The primitive's name.
        params: Its parameters.
        arrays: Its inputs.
        dtype: The dtype of its output.

    Returns:
        The output, or `None` when the primitive is not in the tables above.
    """
    function = ELEMENTWISE.get(name) or _MOVING.get(name)
    if function is None:
        return None
    # An overflow or a division by zero is what the program computes, not a fault to report.
    with np.errstate(all="ignore"):
        return np.asarray(function(*arrays, **params)).astype(dtype)
