"""1-D, transposed and grouped convolutions in the forms the converter has an op for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import jax.numpy as jnp
from jax import lax

from sentei.litert.rewrites.folding import is_marked
from sentei.litert.rewrites.graph import Rule, Run, Step, Value, size
from sentei.litert.rewrites.views import View, widened

# A convolution's parameters that have one entry per position axis, and their neutral entries.
_PER_AXIS = {"window_strides": 1, "padding": (0, 0), "lhs_dilation": 1, "rhs_dilation": 1}


def _convolution(step: Step, run: Run) -> Sequence[Any] | None:
    image, kernel = step.inputs
    axis = None
    params = dict(step.params)
    arrays = (image.array, kernel.array)
    if len(image.shape) == 3:
        axis, params = _wide(params)
        numbers = step.params["dimension_numbers"]
        arrays = widened(image, numbers.lhs_spec[2]), widened(kernel, numbers.rhs_spec[2])
    if any(dilation != 1 for dilation in params["lhs_dilation"]):
        # The converter turns the kernel of a TRANSPOSE_CONV, which it cannot do with integers.
        return [_transposed(*arrays, params, axis, plain=is_marked(kernel))]
    if len(image.shape) == 5 and params["feature_group_count"] > 1:
        return [_grouped(*arrays, params)]
    return None if axis is None else [View(_convolved(*arrays, params), axis).shown()]


def _wide(params: Mapping[str, Any]) -> tuple[int, dict[str, Any]]:
    """A 1-D convolution's parameters for an image of height 1, and where the height goes."""
    numbers = params["dimension_numbers"]
    specs = {}
    for name in ("lhs_spec", "rhs_spec", "out_spec"):
        spec = getattr(numbers, name)
        batch, features, position = (place + (place >= spec[2]) for place in spec)
        specs[name] = (batch, features, spec[2], position)
    per_axis = {name: (neutral, *params[name]) for name, neutral in _PER_AXIS.items()}
    return numbers.out_spec[2], {**params, **per_axis, "dimension_numbers": type(numbers)(**specs)}


def _convolved(image: Any, kernel: Any, params: Mapping[str, Any]) -> Any:
    return lax.conv_general_dilated_p.bind(image, kernel, **params)


def _transposed(
    image: Any, kernel: Any, params: Mapping[str, Any], axis: int | None, plain: bool = False
) -> Value:
    """A transposed convolution without padding, then cut (or padded) to its size.

    TRANSPOSE_CONV knows "valid" and "same" only, and the converter takes paddings for "same" that
    are not: of a kernel of 3 at stride 2 it writes a file with a wrong output size.
    """
    numbers = params["dimension_numbers"]
    reach = [
        (kernel.shape[position] - 1) * dilation
        for position, dilation in zip(numbers.rhs_spec[2:], params["rhs_dilation"], strict=True)
    ]
    plain = plain or len(reach) > 2 or any(dilation != 1 for dilation in params["rhs_dilation"])
    if not plain and (_valid(params, reach) or _same(params, reach)):
        return View(_convolved(image, kernel, params), axis).shown()
    if plain:
        image, params = _spaced_out(image, params)
    full = _convolved(image, kernel, {**params, "padding": tuple((r, r) for r in reach)})
    rank = len(full.shape)
    cuts, grows = [(0, 0)] * rank, [(0, 0)] * rank
    for position, r, (low, high) in zip(
        numbers.out_spec[2:], reach, params["padding"], strict=True
    ):
        cuts[position] = (max(r - low, 0), max(r - high, 0))
        grows[position] = (max(low - r, 0), max(high - r, 0))
    value = View(full, axis, tuple(cuts)).shown()
    if axis is not None:
        del grows[axis]
    if all(pair == (0, 0) for pair in grows):
        return value
    return Value(jnp.pad(value.array, grows))


def _valid(params: Mapping[str, Any], reach: Sequence[int]) -> bool:
    """Whether the padding is that of TRANSPOSE_CONV's "valid"."""
    return all(
        pads == (r, max(r, stride - 1))
        for pads, r, stride in zip(params["padding"], reach, params["lhs_dilation"], strict=True)
    )


def _same(params: Mapping[str, Any], reach: Sequence[int]) -> bool:
    """Whether it is that of "same", cutting evenly: the converter is wrong about uneven cuts."""
    return all(
        (r + 1 - stride) % 2 == 0 and r + 1 >= stride and pads == ((r + stride - 1) // 2,) * 2
        for pads, r, stride in zip(params["padding"], reach, params["lhs_dilation"], strict=True)
    )


def _spaced_out(image: Any, params: Mapping[str, Any]) -> tuple[Any, dict[str, Any]]:
    """A transposed convolution as a plain one over the image with zeros between its points.

    For 3-D ones, as the converter does not know CONV_3D_TRANSPOSE, and dilated ones.
    """
    positions = params["dimension_numbers"].lhs_spec[2:]
    for axis, stride in zip(positions, params["lhs_dilation"], strict=True):
        image = _spaced(image, axis, stride)
    return image, {**params, "lhs_dilation": (1,) * len(positions)}


def _spaced(image: Any, axis: int, stride: int) -> Any:
    """Zeros put between the points of one axis, by padding and reshaping."""
    if stride == 1:
        return image
    before, length, after = image.shape[:axis], image.shape[axis], image.shape[axis + 1 :]
    points = image.reshape(size(before), length, 1, size(after))
    points = jnp.pad(points, [(0, 0), (0, 0), (0, stride - 1), (0, 0)])
    spaced = points.reshape(*before, length * stride, *after)
    return lax.slice_in_dim(spaced, 0, (length - 1) * stride + 1, axis=axis)


def _grouped(image: Any, kernel: Any, params: Mapping[str, Any]) -> Any:
    """A grouped 3-D convolution, which LiteRT lacks, as one convolution for each group."""
    numbers, groups = params["dimension_numbers"], params["feature_group_count"]
    images = jnp.split(image, groups, axis=numbers.lhs_spec[1])
    kernels = jnp.split(kernel, groups, axis=numbers.rhs_spec[0])
    single = {**params, "feature_group_count": 1}
    parts = [_convolved(*pair, single) for pair in zip(images, kernels, strict=True)]
    return lax.concatenate(parts, numbers.out_spec[1])


RULES: dict[str, Rule] = {"conv_general_dilated": _convolution}
