"""Empirical bias correction: Nagel et al. 2019 (arXiv:1906.04721), section 4.2."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from keras import layers as kl
from keras import ops

from sentei.core.graph import Node
from sentei.quantization.masking import Unmasked
from sentei.quantization.stepwise import (
    Change,
    Changes,
    Progress,
    SideBySide,
    first_calls,
    pre_activation,
    relative,
)


def correct_bias(
    qmodel: Any, data: Any, *, batch_size: int = 16, progress: bool | None = None
) -> Changes:
    """Moves biases so that each channel has the mean it has in the float model.

    Rounding weights and clipping activations moves the mean of a layer's outputs; what it moves it
    by on the samples, `E[float] - E[simulated]`, is added to the bias (behind a batch
    normalization: to its beta), layer by layer, each with those before it corrected. Before the
    activation, as in the paper; masked steps do not count.

    The float model shares these biases, and changes with them; nothing else does.

    Args:
        qmodel: A calibrated model made by `sentei.quantize`, changed in place.
        data: Samples, as the argument `calibration` of `sentei.quantize`: some 50 to 500.
        batch_size: How many samples of an array to run at once.
        progress: Whether to show progress on a terminal; None: if there is one.

    Returns:
        What was done to each layer.

    Raises:
        SenteiError: The model is not quantized, or not calibrated, or the samples do not fit.
    """
    pair = SideBySide(qmodel, data, batch_size)
    calls = first_calls(pair.layer)
    rows: list[Change] = []
    shown = Progress("bias correction", len(calls), progress)
    for unit in pair.units():
        if unit[0].index in calls:
            rows.append(_correct(pair, unit))
            shown.step(unit[0].name)
        pair.run(unit, rounding=False)
        pair.run(unit, rounding=True)
    return Changes(tuple(rows))


def _correct(pair: SideBySide, unit: Sequence[Node]) -> Change:
    layer = unit[0].operation
    normalized = len(unit) > 1 and isinstance(unit[1].operation, kl.BatchNormalization)
    bias = _bias(unit[1].operation if normalized else layer)
    if bias is None:
        return Change(unit[0].name, None, None, "it has no bias, nor a batch norm with one")
    part = unit[:2] if normalized else unit[:1]
    with pre_activation(layer):
        exact = [pair.results(part, values, False)[0] for values in pair.exact]
        found = [_numpy(pair.results(part, values, True)[0]) for values in pair.rounded]
    counted = [_numpy(Unmasked(ones=True)(x)) for x in exact]
    found = [x * count for x, count in zip(found, counted, strict=True)]
    wanted = [_numpy(x) * count for x, count in zip(exact, counted, strict=True)]
    axes = _others(bias, unit[1].operation if normalized else layer, wanted[0])
    if axes is None:
        return Change(unit[0].name, None, None, "its bias is not one number per channel")
    moved = _mean(wanted, counted, axes) - _mean(found, counted, axes)
    before = relative(found, wanted)
    bias.assign(bias.value + ops.cast(ops.reshape(moved, bias.shape), bias.dtype))
    spread = np.expand_dims(moved, axes)
    after = [f + spread * count for f, count in zip(found, counted, strict=True)]
    return Change(unit[0].name, before, relative(after, wanted))


def _bias(layer: Any) -> Any:
    if isinstance(layer, kl.BatchNormalization):
        return layer.beta if layer.center else None
    return getattr(layer, "bias", None)


def _others(bias: Any, layer: Any, output: np.ndarray) -> tuple[int, ...] | None:
    """The axes of an output that its bias is the same along."""
    rank, own = output.ndim, len(bias.shape)
    if isinstance(layer, kl.BatchNormalization):
        channels = [layer.axis % rank] if isinstance(layer.axis, int) else []
    elif getattr(layer, "data_format", None) == "channels_first":
        channels = [1]
    else:
        channels = list(range(rank - own, rank))
    if tuple(output.shape[axis] for axis in channels) != tuple(bias.shape):
        return None
    return tuple(axis for axis in range(rank) if axis not in channels)


def _mean(
    arrays: Sequence[np.ndarray], counted: Sequence[np.ndarray], axes: tuple[int, ...]
) -> np.ndarray:
    total = sum(np.sum(array, axis=axes, dtype=np.float64) for array in arrays)
    count = sum(np.sum(array, axis=axes, dtype=np.float64) for array in counted)
    return np.asarray(total / np.maximum(count, 1), np.float32)


def _numpy(x: Any) -> np.ndarray:
    return np.asarray(ops.convert_to_numpy(x), np.float32)
