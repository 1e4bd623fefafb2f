"""Batch normalization in few bits: its factors and offsets, which no price on weights reaches.

A batch normalization becomes a scale and a bias for each channel of the convolution before it: 8
bytes a channel of which 5 are the noise of a mantissa, a tenth of a small network's packed file.
Rounded to the 8 significant bits of a bfloat16 they are as good, and an entropy coder takes half.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
from keras import layers as kl
from keras import ops

from sentei.core.errors import SenteiError
from sentei.core.graph import Graph, tensors_in
from sentei.core.select import sublayers
from sentei.quantization import rules
from sentei.quantization.quantize import quantized
from sentei.quantization.rate.log import priced
from sentei.quantization.rate.quantizer import RatedQuantizer

_FEWEST, _MOST = 2, 24
# Neighbours on the coarse grid that are tried until the product is one exactly.
_NEIGHBOURS = (0, 1, -1, 2, -2)


def round_batch_norm(qmodel: Any, *, bits: int = 8) -> Any:
    """Rounds what batch normalizations of a model with a `rate` become in its file.

    Call it last: after training and `sentei.update_batch_norm`, before the model is evaluated and
    exported. Each batch normalization gets the mean 0, the variance 1 (less its epsilon), and the
    factor and offset that it stands for, rounded so that the file's scale (the factor times the
    step of the kernel before it) and bias have few significant bits. The model computes with them
    from then on: it and its file stay the same.

    Args:
        qmodel: A model made by `sentei.quantize` with a scheme that has a `rate`; changed in place.
        bits: How many significant bits are left, 2 to 24. 8 are those of a bfloat16: a channel's
            scale is off by at most 0.4 %.

    Returns:
        The same model. Layers without a factor or an offset (`scale=False`, `center=False`) and
        frozen ones keep what they have.

    Raises:
        SenteiError: No weight of the model has a price, or `bits` is out of range.
    """
    if not _FEWEST <= bits <= _MOST:
        raise SenteiError(f"`bits` must be from {_FEWEST} to {_MOST}. Received: {bits}.")
    held = {id(quantizer.variable): quantizer for _, quantizer in priced(qmodel)}
    layer: Any = quantized(qmodel)
    before = _before(layer.plan.graph, held)
    for norm, _ in sublayers(qmodel):
        if _fits(norm):
            _round(norm, before.get(id(norm), ()), bits)
    return qmodel


def _fits(layer: Any) -> bool:
    if not isinstance(layer, kl.BatchNormalization) or not layer.built:
        return False
    return bool(layer.scale and layer.center and layer.trainable)


def _before(graph: Graph, held: dict[int, RatedQuantizer]) -> dict[int, tuple[RatedQuantizer, ...]]:
    """By the identity of a batch normalization, the kernel and bias that it is folded into.

    Left out: layers that are called more than once, and what others read as well.
    """
    readers, given = graph.consumers(), set(tensors_in(graph.outputs))
    calls = Counter(id(node.operation) for node in graph.nodes)
    found = {}
    for node in graph.nodes:
        if not isinstance(node.operation, kl.BatchNormalization):
            continue
        tensor = node.inputs[0]
        source = graph.nodes[tensor.node].operation
        if source is None or len(readers[tensor]) > 1 or tensor in given:
            continue
        weights = [*(variable for variable, _ in rules.kernels(source)), *rules.biases(source)]
        own = tuple(held[id(variable)] for variable in weights if id(variable) in held)
        once = calls[id(node.operation)] == calls[id(source)] == 1
        if once and len(rules.kernels(source)) == 1 and len(own) == len(weights):
            found[id(node.operation)] = own
    return found


def _round(norm: Any, held: tuple[RatedQuantizer, ...], bits: int) -> None:
    names = ("gamma", "beta", "moving_mean", "moving_variance")
    gamma, beta, mean, variance = (
        np.asarray(ops.convert_to_numpy(getattr(norm, name)), np.float64) for name in names
    )
    factor = gamma / np.sqrt(variance + norm.epsilon)
    step = float(held[0].grid().scale[0]) if held else 1.0
    for bias in held[1:]:  # a bias before it is part of the offset
        mean = mean - bias.grid().dequantize(bias.integers())
        bias.variable.assign(np.zeros(bias.variable.shape, np.float32))
    norm.gamma.assign(_factors(factor, step, bits))
    norm.beta.assign(significant(beta - mean * factor, bits))
    norm.moving_mean.assign(np.zeros(mean.shape, np.float32))
    one = np.float32(1.0) - np.float32(norm.epsilon)
    norm.moving_variance.assign(np.full(variance.shape, one, np.float32))


def _factors(factor: np.ndarray, step: float, bits: int) -> np.ndarray:
    """Float32 factors whose product with the step has few bits, near those given."""
    wanted = significant(factor * step, bits)
    unit = np.exp2(np.frexp(wanted)[1] - bits)
    best = (wanted / step).astype(np.float32)
    done = np.zeros(factor.shape, bool)
    for neighbour in _NEIGHBOURS:
        near = wanted + neighbour * unit
        tried = (near / step).astype(np.float32)
        exact = (tried.astype(np.float64) * step).astype(np.float32) == near.astype(np.float32)
        best = np.where(exact & ~done, tried, best)
        done |= exact
    return best


def significant(numbers: np.ndarray, bits: int) -> np.ndarray:
    """Numbers rounded to so many significant bits, half to even.

    Args:
        numbers: Of any shape; floating point.
        bits: How many.

    Returns:
        float64 of the same shape.
    """
    share, exponent = np.frexp(np.asarray(numbers, np.float64))
    return np.ldexp(np.rint(np.ldexp(share, bits)), exponent - bits)
