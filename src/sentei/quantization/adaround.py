"""AdaRound: weights rounded up or down so that each layer's output is kept, not each weight."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from keras import layers as kl
from keras import ops

from sentei.core.errors import SenteiError
from sentei.core.graph import Node
from sentei.quantization import matrices, rules
from sentei.quantization.grid import spread
from sentei.quantization.plan import Weight
from sentei.quantization.rounding import ACTIVATIONS, Problem, solve
from sentei.quantization.stepwise import (
    Change,
    Changes,
    Progress,
    SideBySide,
    first_calls,
    pre_activation,
)
from sentei.quantization.weight_quantizer import WeightQuantizer

# How many numbers of a layer's input are kept at most: 128 MB in float32.
_KEPT = 2**25


def adaround(
    qmodel: Any,
    data: Any,
    *,
    steps: int = 1000,
    rows: int = 4096,
    batch: int = 256,
    pull: float = 1.0,
    batch_size: int = 16,
    seed: int = 0,
    progress: bool | None = None,
) -> Changes:
    """Chooses for each weight whether to round it up or down, so that layers compute what they did.

    AdaRound, Nagel et al. 2020 (arXiv:2004.10568), equation 25: layer by layer, each reads what
    the simulation gives it, with the layers before it rounded already, and is to give what the
    float model gives, batch normalization and ReLU included; see `rounding.solve`. Weights without
    steps of their own get those of the least square error (`steps.nearest_step`).

    The weights are then set to `step * integer`: the quantizer, the file, a saved model and
    `sentei.strip` see the same integers. So **the float model changes too**: its weights are on
    their grids afterwards. Its float weights are gone unless you keep them (`model.get_weights()`).
    Weights that are exactly zero stay zero.

    Args:
        qmodel: A calibrated model made by `sentei.quantize`, changed in place.
        data: Samples, as the argument `calibration` of `sentei.quantize`: some 50 to 1000.
        steps: How many steps to learn each layer's rounding by.
        rows: How many positions of a layer's output to learn from at most.
        batch: How many of these a step sees.
        pull: The weight of the pull towards whole numbers.
        batch_size: How many samples of an array to run at once.
        seed: Of the choice of positions.
        progress: Whether to show progress on a terminal; None: if there is one.

    Returns:
        What was done to each layer: the error of its output from weights rounded to nearest, and
        with the integers chosen.

    Raises:
        SenteiError: An argument is out of its bounds, the model is not quantized or not
            calibrated, or the samples do not fit.
    """
    for name, value in {"steps": steps, "rows": rows, "batch": batch}.items():
        if not isinstance(value, int) or value < 1:
            raise SenteiError(f"`{name}` must be a positive integer. Received: {name}={value!r}.")
    pair = SideBySide(qmodel, data, batch_size)
    calls = first_calls(pair.layer)
    found: list[Change] = []
    shown = Progress("AdaRound", len(calls), progress)
    for unit in pair.units():
        if unit[0].index in calls:
            shown.step(unit[0].name)
            weight = _weight(pair, unit[0])
            if isinstance(weight, str):
                found.append(Change(unit[0].name, None, None, weight))
            else:
                problem = _problem(pair, unit, weight, rows, np.random.default_rng(seed))
                integers = solve(problem, steps, batch, pull, seed)
                _store(weight, integers, problem)
                before, after = problem.error(problem.nearest()), problem.error(integers)
                found.append(Change(unit[0].name, before, after))
        pair.run(unit, rounding=False)
        pair.run(unit, rounding=True)
    return Changes(tuple(found))


def _weight(pair: SideBySide, node: Node) -> Weight | str:
    """The weight of a layer whose rounding can be chosen, or why there is none."""
    if not matrices.is_matrix(node.operation):
        return f"{type(node.operation).__name__} is not supported"
    for weight in pair.layer.plan.weights:
        if weight.layer is node.operation and weight.variable is node.operation.kernel:
            quantizer = pair.layer.by_name[weight.label]
            if type(quantizer) is not WeightQuantizer:
                return "its grid is learned at a price (`rate`)"
            # Held: the largest number may be rounded to less than the largest integer.
            quantizer.set_steps(quantizer.grid().scale)
            return weight
    return "its kernel is not quantized"


def _problem(
    pair: SideBySide,
    unit: Sequence[Node],
    weight: Weight,
    rows: int,
    generator: np.random.Generator,
) -> Problem:
    layer = weight.layer
    normalized = len(unit) > 1 and isinstance(unit[1].operation, kl.BatchNormalization)
    part = unit[:2] if normalized else unit[:1]
    kernel = _numpy(weight.variable.value)
    matrix = matrices.as_matrix(layer, kernel)
    per_row = matrix.shape[0] * matrix.shape[1]
    each = max(1, min(rows, _KEPT // per_row) // len(pair.exact))
    read, given = [], []
    for exact, rounded in zip(pair.exact, pair.rounded, strict=True):
        with pre_activation(layer):
            output = matrices.channels_last(layer, _numpy(pair.results(part, exact, False)[0]))
        places = matrices.choose(output.shape, each, generator)
        image = matrices.channels_last(layer, _numpy(pair.read(unit[0], rounded)))
        read.append(matrices.read_at(layer, image, places))
        given.append(matrices.given_at(layer, output, places))
    activation = _activation(unit)
    wanted = np.clip(np.concatenate(given, axis=1), *ACTIVATIONS[activation])
    grid = pair.layer.by_name[weight.label].grid()
    step = np.broadcast_to(spread(grid.scale, kernel.shape, grid.kind, np), kernel.shape)
    factor, offset = _affine(layer, unit[1].operation if normalized else None)
    return Problem(
        x=np.concatenate(read, axis=1),
        wanted=wanted,
        weight=matrix,
        step=matrices.as_matrix(layer, step),
        low=grid.kind.low,
        high=grid.kind.high,
        factor=matrices.grouped(layer, factor[None]),
        offset=matrices.grouped(layer, offset[None]),
        activation=activation,
    )


def _activation(unit: Sequence[Node]) -> str:
    """The rectifier at the end of a unit; any other activation is left out of the error."""
    own = rules.own_activation(unit[0].operation)
    last = unit[-1].operation
    if own in ACTIVATIONS and (own != "linear" or last is unit[0].operation):
        return own
    if isinstance(last, kl.BatchNormalization) or own not in ACTIVATIONS:
        return "linear"
    if isinstance(last, kl.ReLU):
        return "relu" if last.max_value is None else "relu6"
    if isinstance(last, kl.Activation):
        return rules.activation_name(last.activation)
    return type(last).__name__.lower()  # an operation: Relu, Relu6


def _affine(layer: Any, normalization: Any) -> tuple[np.ndarray, np.ndarray]:
    """The factor and the offset of each output channel, bias and batch normalization together."""
    bias = _numpy(layer.bias.value) if layer.use_bias else None
    if normalization is None:
        channels = bias.size if bias is not None else _channels(layer)
        return np.ones(channels, np.float32), np.zeros(
            channels, np.float32
        ) if bias is None else bias
    mean, variance = (
        _numpy(v.value) for v in (normalization.moving_mean, normalization.moving_variance)
    )
    factor = 1.0 / np.sqrt(variance + normalization.epsilon)
    if normalization.scale:
        factor = factor * _numpy(normalization.gamma.value)
    offset = ((0.0 if bias is None else bias) - mean) * factor
    if normalization.center:
        offset = offset + _numpy(normalization.beta.value)
    return factor.astype(np.float32), offset.astype(np.float32)


def _channels(layer: Any) -> int:
    shape = layer.kernel.shape
    depthwise = isinstance(layer, (kl.DepthwiseConv1D, kl.DepthwiseConv2D))
    return int(shape[-1] * shape[-2] if depthwise else shape[-1])


def _store(weight: Weight, integers: np.ndarray, problem: Problem) -> None:
    kernel = matrices.as_kernel(weight.layer, (integers * problem.step).astype(np.float32))
    weight.variable.assign(ops.convert_to_tensor(kernel, dtype=weight.variable.dtype))


def _numpy(x: Any) -> np.ndarray:
    return np.asarray(ops.convert_to_numpy(x), np.float32)
