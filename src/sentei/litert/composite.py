"""Marking in a traced program where the file holds integers, in the converter's words.

`quant.fake_quant` is what the converter looks for in its strict mode: an operation whose inputs and
outputs all carry the mark becomes an integer operation on exactly the scales of the marks. The
mark's contract is undocumented, so the converter is pinned and a census of each file is taken.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from importlib import import_module
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from sentei.core.errors import UnsupportedModel

NAME = "quant.fake_quant"
_STORED_BITS = (4, 8, 16)
# Of more, converter and runtime have only what moves numbers about: not even QUANTIZE.
MOST_AXES = 5


def quantizers_of(model: Any) -> list[Any]:
    """The quantizers of a model that `sentei.quantize` made; none of any other.

    Args:
        model: Any built Keras model.
    """
    quantization = import_module("sentei.quantization")
    return [quantizer for _, quantizer in quantization.quantizers(model)]


def on_grids(quantizers: Sequence[Any], variables: Sequence[Any]) -> list[np.ndarray]:
    """The variables' numbers, those of quantized weights on their grids.

    The converter divides in another way than the simulation, which is another integer beside a tie.

    Args:
        quantizers: The quantizers of a model.
        variables: Its variables.
    """
    weights = import_module("sentei.quantization.weight_quantizer").WeightQuantizer
    grids = {
        id(quantizer.variable): quantizer.grid()
        for quantizer in quantizers
        if isinstance(quantizer, weights) and not quantizer.identity
    }
    found = []
    for variable in variables:
        values, grid = np.asarray(variable.value), grids.get(id(variable))
        if grid is not None:
            values = grid.dequantize(grid.quantize(values)).astype(values.dtype)
        found.append(values)
    return found


def marked(
    x: Any, scale: np.ndarray, zero_point: np.ndarray, bits: int, narrow: bool, axis: int | None
) -> Any:
    """A tensor with the mark that it is held as integers: `round(x / scale) + zero_point`.

    Args:
        x: The tensor, traced by JAX.
        scale: 1-D, of one entry, or one per index along `axis`.
        zero_point: Integers, as many as scales.
        bits: How many each integer takes: 4, 8 or 16.
        narrow: Whether the lowest integer is left out.
        axis: The channels' axis, or None for one scale.

    Returns:
        The tensor, of the same shape and dtype.
    """
    low, high = -(2 ** (bits - 1)) + int(narrow), 2 ** (bits - 1) - 1
    shape = [1] * x.ndim
    if axis is not None:
        shape[axis] = -1

    def rounded(x: Any, **_: Any) -> Any:
        step, zero = (np.reshape(v, shape).astype(np.float32) for v in (scale, zero_point))
        return (jnp.clip(jnp.round(x / step) + zero, low, high) - zero) * step

    attributes: dict[str, Any] = {
        "scale": np.ravel(scale).astype(np.float32),
        "zero_point": np.ravel(zero_point).astype(np.int64),
        "dtype": f"i{bits}",
        "narrow_range": narrow,
    }
    if axis is not None:
        attributes["quantization_dimension"] = axis
    return jax.lax.composite(rounded, name=NAME)(x, **attributes)


def attributes_of(params: Any) -> dict[str, Any]:
    """The attributes of a mark, from the parameters of its step in a JAX program.

    Args:
        params: The step's parameters.

    Returns:
        `scale`, `zero_point`, `dtype`, `narrow_range` and, per channel, `quantization_dimension`.
    """
    found = {}
    for name, leaves, _ in params["attributes"]:
        found[name] = getattr(leaves[0], "val", leaves[0])
    return found


@contextmanager
def emitting(quantizers: Sequence[Any]) -> Iterator[None]:
    """Lets quantizers mark tensors instead of simulating, for as long as the context lasts.

    Args:
        quantizers: The quantizers of a model.

    Yields:
        Nothing.
    """
    weights = import_module("sentei.quantization.weight_quantizer").WeightQuantizer
    before = [quantizer.emit for quantizer in quantizers]
    try:
        for quantizer in quantizers:
            quantizer.emit = _emit
            if isinstance(quantizer, weights):
                quantizer.emit = partial(_emit_weight, depthwise=quantizer.depthwise)
        yield
    finally:
        for quantizer, emit in zip(quantizers, before, strict=True):
            quantizer.emit = emit


def _emit_weight(x: Any, grid: Any, depthwise: bool) -> Any:
    """As `_emit`; integers of bits that no operator takes are held in 8, which changes no result.

    That are those of 2, 3, 5, 6 or 7 bits, and of 4 in a depthwise convolution.
    """
    kind = grid.kind
    taken = kind.bits in _STORED_BITS and not (depthwise and kind.bits == 4)
    if taken or kind.bits > 8 or kind.block:
        return _emit(x, grid)
    return _emit(x, replace(grid, kind=replace(kind, bits=8)))


def _emit(x: Any, grid: Any) -> Any:
    kind = grid.kind
    if kind.bits not in _STORED_BITS or getattr(kind, "block", None):
        raise UnsupportedModel(
            f"A tensor is quantized to {kind.bits} bits"
            + (f" in blocks of {kind.block}" if getattr(kind, "block", None) else "")
            + ", which LiteRT has no integer operators for. Export with the scheme 'int8', or "
            "use this scheme for simulation only."
        )
    axis = kind.axis if kind.axis is None else kind.axis % x.ndim
    if x.ndim > MOST_AXES and axis is None:
        flat = x.reshape(x.shape[0], -1)
        return marked(flat, grid.scale, grid.zero_point, kind.bits, kind.narrow, None).reshape(
            x.shape
        )
    return marked(x, grid.scale, grid.zero_point, kind.bits, kind.narrow, axis)
