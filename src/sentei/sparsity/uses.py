"""How often a sample multiplies with a weight."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from keras import layers as kl

from sentei.core.seen import seen
from sentei.core.select import Weight, children, sublayers

_TRANSPOSED = (kl.Conv1DTranspose, kl.Conv2DTranspose, kl.Conv3DTranspose)
_SLIDING = (
    kl.Conv1D, kl.Conv2D, kl.Conv3D, kl.DepthwiseConv1D, kl.DepthwiseConv2D, kl.SeparableConv1D,
    kl.SeparableConv2D,
)  # fmt: skip
# They call what is in them for each step of a sequence, in a loop that is traced once.
_REPEATING = (kl.RNN, kl.TimeDistributed)


def uses_of(
    model: Any, weights: Sequence[tuple[Weight, Any]], batch: Any
) -> dict[int, float | None]:
    """How often a sample multiplies with each element of some weights.

    Args:
        model: the model; it is called once.
        weights: which, and their variables.
        batch: what to call it with.

    Returns:
        By the weight's index: summed over all calls of its layer; None where that is not known
        (recurrent and custom layers).
    """
    found: dict[int, float | None] = {weight.index: 0.0 for weight, _ in weights}
    by_id = {id(variable): weight for weight, variable in weights}
    owners: dict[int, list[Weight]] = {}
    layers = []
    for layer, holders in sublayers(model):
        if children(layer) or any(isinstance(holder, _REPEATING) for holder in holders):
            continue
        own = [by_id[id(v)] for v in layer.trainable_variables if id(v) in by_id]
        if own:
            owners[id(layer)] = own
            layers.append(layer)
    held = {weight.index for own in owners.values() for weight in own}
    found |= dict.fromkeys(found.keys() - held)

    def see(layer: Any, call: Callable[..., Any], inputs: Any, *args: Any, **kwargs: Any) -> Any:
        outputs = call(inputs, *args, **kwargs)
        for weight in owners[id(layer)]:
            more, before = _of_call(layer, weight, inputs, outputs), found[weight.index]
            found[weight.index] = None if more is None or before is None else before + more
        return outputs

    with seen(layers, see):
        model(batch, training=False)
    return found


def _of_call(layer: Any, weight: Weight, inputs: Any, outputs: Any) -> float | None:
    if isinstance(layer, (*_TRANSPOSED, *_SLIDING)):
        shape = (inputs if isinstance(layer, _TRANSPOSED) else outputs).shape
        last = layer.data_format == "channels_last"
        return float(math.prod(shape[1:-1] if last else shape[2:]))
    if isinstance(layer, kl.Embedding):
        return 0.0  # it is read, not multiplied with
    if isinstance(layer, kl.Dense):
        return float(math.prod(outputs.shape[1:-1]))
    if isinstance(layer, kl.EinsumDense):
        own = math.prod(weight.shape[a] for a in (*weight.axes.output, *weight.axes.position))
        return math.prod(outputs.shape[1:]) / own
    return None
