"""Contractions as matrices: what a layer reads, row by row, and its kernel beside it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from keras import layers as kl

_DEPTHWISE = (kl.DepthwiseConv1D, kl.DepthwiseConv2D)
_REFUSED = (
    *(kl.Conv1DTranspose, kl.Conv2DTranspose, kl.Conv3DTranspose),
    *(kl.SeparableConv1D, kl.SeparableConv2D, kl.EinsumDense),
)
_CONVOLUTIONS = (kl.Conv1D, kl.Conv2D, kl.Conv3D, *_DEPTHWISE)


def is_matrix(layer: Any) -> bool:
    """Whether a layer can be written so.

    Args:
        layer: A contraction.
    """
    return isinstance(layer, (*_CONVOLUTIONS, kl.Dense)) and not isinstance(layer, _REFUSED)


def as_matrix(layer: Any, kernel: np.ndarray) -> np.ndarray:
    """A kernel, or anything of its shape, as `(groups, k, channels)`.

    Args:
        layer: The layer.
        kernel: An array of its kernel's shape.
    """
    if isinstance(layer, kl.Dense):
        return kernel[None]
    if isinstance(layer, _DEPTHWISE):
        return np.moveaxis(kernel, -2, 0).reshape(kernel.shape[-2], -1, kernel.shape[-1])
    groups = layer.groups
    cut = kernel.reshape(-1, groups, kernel.shape[-1] // groups)
    return np.ascontiguousarray(cut.transpose(1, 0, 2))


def as_kernel(layer: Any, matrix: np.ndarray) -> np.ndarray:
    """The reverse of `as_matrix`.

    Args:
        layer: The layer.
        matrix: `(groups, k, channels)`.
    """
    shape = tuple(layer.kernel.shape)
    if isinstance(layer, kl.Dense):
        return matrix[0]
    if isinstance(layer, _DEPTHWISE):
        return np.moveaxis(matrix.reshape(shape[-2], *shape[:-2], shape[-1]), 0, -2)
    return np.ascontiguousarray(matrix.transpose(1, 0, 2)).reshape(shape)


@dataclass(frozen=True)
class Rows:
    """Some of a layer's output positions: their indices along the batch and the other axes."""

    indices: tuple[np.ndarray, ...]


def choose(shape: Sequence[int], count: int, generator: np.random.Generator) -> Rows:
    """Positions of an output, all of them if there are few.

    Args:
        shape: The output's, channels last.
        count: How many at most.
        generator: Of random numbers.
    """
    places = tuple(shape[:-1])
    total = math.prod(places)
    flat = (
        np.arange(total) if total <= count else generator.choice(total, size=count, replace=False)
    )
    return Rows(tuple(np.unravel_index(flat, places)))


def channels_last(layer: Any, x: np.ndarray) -> np.ndarray:
    """A tensor that a layer reads or gives with its channels last.

    Args:
        layer: The layer.
        x: The tensor.
    """
    return np.moveaxis(x, 1, -1) if getattr(layer, "data_format", None) == "channels_first" else x


def read_at(layer: Any, x: np.ndarray, rows: Rows) -> np.ndarray:
    """What a layer reads to compute some of its outputs: `(groups, rows, k)`.

    Args:
        layer: The layer.
        x: Its input, channels last.
        rows: The positions of the output.
    """
    if isinstance(layer, kl.Dense):
        return x[rows.indices][None]
    sizes, rank = tuple(layer.kernel_size), x.ndim - 2
    strides, rates = _each(layer.strides, rank), _each(layer.dilation_rate, rank)
    reach = [(size - 1) * rate + 1 for size, rate in zip(sizes, rates, strict=True)]
    widths = [_padding(layer.padding, *v) for v in zip(x.shape[1:-1], reach, strides, strict=True)]
    x = np.pad(x, [(0, 0), *widths, (0, 0)])
    places = [np.indices(sizes)[axis].ravel() * rates[axis] for axis in range(rank)]
    index = [rows.indices[0][:, None]]
    for axis in range(rank):
        index.append(rows.indices[axis + 1][:, None] * strides[axis] + places[axis][None])
    patches = x[tuple(index)]  # (rows, positions of the kernel, channels)
    if isinstance(layer, _DEPTHWISE):
        return np.ascontiguousarray(patches.transpose(2, 0, 1))
    count, positions, channels = patches.shape
    cut = patches.reshape(count, positions, layer.groups, channels // layer.groups)
    return cut.transpose(2, 0, 1, 3).reshape(layer.groups, count, -1)


def given_at(layer: Any, y: np.ndarray, rows: Rows) -> np.ndarray:
    """Some of a layer's outputs: `(groups, rows, channels)`.

    Args:
        layer: The layer.
        y: Its output, channels last.
        rows: The positions.
    """
    return grouped(layer, y[rows.indices])


def grouped(layer: Any, values: np.ndarray) -> np.ndarray:
    """Numbers per output channel, `(rows, channels)`, as `(groups, rows, channels of a group)`.

    Args:
        layer: The layer.
        values: The numbers.
    """
    groups = 1
    if isinstance(layer, _DEPTHWISE):
        groups = int(layer.kernel.shape[-2])
    elif not isinstance(layer, kl.Dense):
        groups = layer.groups
    return np.ascontiguousarray(values.reshape(len(values), groups, -1).transpose(1, 0, 2))


def _each(value: Any, rank: int) -> tuple[int, ...]:
    return (value,) * rank if isinstance(value, int) else tuple(value)


def _padding(kind: str, size: int, reach: int, stride: int) -> tuple[int, int]:
    if kind == "valid":
        return 0, 0
    if kind == "causal":
        return reach - 1, 0
    whole = max((-(-size // stride) - 1) * stride + reach - size, 0)
    return whole // 2, whole - whole // 2
