"""1-D and transposed convolutions in the forms the converter has an op for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from sentei.litert.rewrites.graph import Rule, Run, Step, Value, size
from sentei.litert.rewrites.wide import narrowed, widened


def _convolution(step: Step, run: Run) -> Sequence[Any] | None:
    """Rows of choices: flat ones become wide, transposed ones lose their padding."""
    image, kernel = step.inputs
    params = dict(step.params)
    if len(image.shape) == 3:
        return [_flat(image, kernel, params)]
    if any(dilation != 1 for dilation in params["lhs_dilation"]):
        return [_transposed(image.array, kernel.array, params)]
    return None


def _flat(image: Value, kernel: Value, params: dict[str, Any]) -> Value:
    """A 1-D convolution as a 2-D one over an image of height 1."""
    numbers = params["dimension_numbers"]
    axes = {name: getattr(numbers, name)[2] for name in ("lhs_spec", "rhs_spec", "out_spec")}
    wide = type(numbers)(**{name: _inserted(getattr(numbers, name), a) for name, a in axes.items()})
    for name, item in (
        ("window_strides", 1), ("padding", (0, 0)), ("lhs_dilation", 1), ("rhs_dilation", 1)
    ):
        params[name] = (item, *params[name])
    params["dimension_numbers"] = wide
    arrays = widened(image, axes["lhs_spec"]), widened(kernel, axes["rhs_spec"])
    if any(dilation != 1 for dilation in params["lhs_dilation"]):
        return narrowed(_transposed(*arrays, params), axes["out_spec"])
    return narrowed(_convolved(*arrays, params), axes["out_spec"])


def _inserted(spec: Sequence[int], axis: int) -> tuple[int, ...]:
    """A layout (batch, features, positions...) with a new position axis before the first."""
    batch, features, *positions = [place + (place >= axis) for place in spec]
    return (batch, features, axis, *positions)


def _convolved(image: Any, kernel: Any, params: Mapping[str, Any]) -> Any:
    return lax.conv_general_dilated_p.bind(image, kernel, **params)


def _transposed(image: Any, kernel: Any, params: dict[str, Any]) -> Any:
    """A transposed convolution without padding, then cut (or padded) to its size.

    TRANSPOSE_CONV knows "valid" and "same" only, and the converter takes some paddings for "same"
    that are not.
    """
    numbers = params["dimension_numbers"]
    lengths = [kernel.shape[axis] for axis in numbers.rhs_spec[2:]]
    reach = [
        (length - 1) * dilation
        for length, dilation in zip(lengths, params["rhs_dilation"], strict=True)
    ]
    wanted = params["padding"]
    if len(lengths) > 2:
        full = _over_zeros(image, kernel, params, reach)
    else:
        full = _convolved(image, kernel, {**params, "padding": tuple((r, r) for r in reach)})
    cuts = [(0, 0, 0)] * len(full.shape)
    for axis, r, (low, high) in zip(numbers.out_spec[2:], reach, wanted, strict=True):
        cuts[axis] = (low - r, high - r, 0)
    return _cut(full, cuts)


def _cut(array: Any, margins: Sequence[tuple[int, int, int]]) -> Any:
    """Drops what a negative margin names, adds zeros where it is positive."""
    start = [max(-low, 0) for low, _, _ in margins]
    stop = [
        length - max(-high, 0) for length, (_, high, _) in zip(array.shape, margins, strict=True)
    ]
    array = lax.slice(array, start, stop)
    grown = [(max(low, 0), max(high, 0)) for low, high, _ in margins]
    return jnp.pad(array, grown) if any(pair != (0, 0) for pair in grown) else array


def _over_zeros(
    image: Any, kernel: Any, params: Mapping[str, Any], reach: Sequence[int]
) -> Any:
    """A transposed 3-D convolution as a plain one over the image with zeros between its points.

    LiteRT's CONV_3D_TRANSPOSE cannot be reached through the converter.
    """
    for axis, stride in zip(
        params["dimension_numbers"].lhs_spec[2:], params["lhs_dilation"], strict=True
    ):
        image = _spaced(image, axis, stride)
    for axis, r in zip(params["dimension_numbers"].lhs_spec[2:], reach, strict=True):
        margins = [(0, 0)] * len(image.shape)
        margins[axis] = (r, r)
        image = jnp.pad(image, margins)
    ones = (1,) * len(reach)
    plain = {**params, "lhs_dilation": ones, "padding": ((0, 0),) * len(reach)}
    return _convolved(image, kernel, plain)


def _spaced(image: Any, axis: int, stride: int) -> Any:
    """Zeros put between the points of one axis, by padding and reshaping."""
    if stride == 1:
        return image
    before, length, after = image.shape[:axis], image.shape[axis], image.shape[axis + 1 :]
    points = image.reshape(size(before), length, 1, size(after))
    points = jnp.pad(points, [(0, 0), (0, 0), (0, stride - 1), (0, 0)])
    spaced = points.reshape(*before, length * stride, *after)
    return lax.slice_in_dim(spaced, 0, (length - 1) * stride + 1, axis=axis)


RULES: dict[str, Rule] = {"conv_general_dilated": _convolution}
