"""`fix_input_output_range`, `remove_input_range`, and quantized models made anew."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import keras
from keras import ops

from sentei.core.errors import SenteiError
from sentei.core.graph import tensors_in
from sentei.quantization import Custom, QuantizedModel, quantized
from sentei.quantization.quantizer import ActivationQuantizer
from sentei.tfmot.quantization.quantizers import check_range, with_lowest


def fix_input_output_range(
    model: Any,
    num_bits: int = 8,
    input_min: float = 0.0,
    input_max: float = 1.0,
    output_min: float = 0.0,
    output_max: float = 1.0,
    narrow_range: bool = False,
) -> Any:
    """A quantized model whose inputs and outputs have ranges that training does not move.

    Args:
        model: A quantized model. What is returned shares its variables and its other ranges.
        num_bits: Bits of inputs and outputs.
        input_min: The lowest number of the inputs.
        input_max: Their highest.
        output_min: The lowest number of the outputs. Of an output whose integers LiteRT
            prescribes (softmax, sigmoid, tanh) only `num_bits` counts.
        output_max: Their highest.
        narrow_range: Whether the ranges are covered without the lowest integer.

    Returns:
        The model, uncompiled.

    Raises:
        SenteiError: When it is no quantized model, or a range is empty (a ValueError).
    """
    layer = _require_quantized(model)
    ranges = (input_min, input_max), (output_min, output_max)
    for ends in ranges:
        check_range(*ends)
    plan = layer.plan
    inputs = {t: i for i, t in enumerate(tensors_in(plan.graph.inputs))}
    ends_of: dict[str, tuple[float, float]] = {}
    layers: dict[str, Any] = {}
    for tensor in tensors_in(plan.graph.outputs):
        label = plan.of_tensor.get(tensor)
        if label is not None and not any(plan.of_tensor.get(t) == label for t in inputs):
            name = label.partition("#")[0].partition(":")[0]
            layers[f"/{name}"] = _fixed(plan.activations[label].scheme, num_bits)
            ends_of[label] = ranges[1]
    for tensor in inputs:
        if tensor in plan.of_tensor:
            ends_of[plan.of_tensor[tensor]] = ranges[0]
    default, own = _apart(layer, layers)
    fixed = remade(model, _fixed(default, num_bits), own)
    found = _require_quantized(fixed)
    for label, (low, high) in ends_of.items():
        low = with_lowest(low, high, num_bits) if narrow_range else low
        quantizer = found.quantizer_of(label)
        if isinstance(quantizer, ActivationQuantizer):
            quantizer.set_range(low, high)
    return fixed


def remove_input_range(model: Any) -> Any:
    """A quantized model that takes its inputs as they are.

    Args:
        model: A quantized model. What is returned shares its variables and its other ranges.

    Returns:
        The model, uncompiled.

    Raises:
        SenteiError: When it is no quantized model (a ValueError).
    """
    default, own = _apart(_require_quantized(model), {})
    return remade(model, replace(default, activation_bits=None), own)


def remade(model: Any, scheme: Custom, layers: Mapping[str, Any]) -> Any:
    """A quantized model with other schemes, on the same variables and with the same ranges.

    Args:
        model: A quantized model, left as it is.
        scheme: The scheme of all layers that `layers` does not name.
        layers: From names to schemes.

    Returns:
        The model, uncompiled.
    """
    before = _require_quantized(model)
    layer = type(before)(before.float_model, scheme, layers, before.specs, name=before.name)
    for label, quantizer in layer.quantizers.items():
        earlier = before.quantizers.get(label)
        if earlier is not None:
            _take_over(quantizer, earlier)
    for name, stand_in in layer.stand_ins.items():
        if name in before.stand_ins:
            _take_over(stand_in, before.stand_ins[name])
    return keras.Model(model.input, layer(model.input), name=model.name)


def _fixed(scheme: Custom, bits: int) -> Custom:
    return replace(scheme, activation_bits=bits, ranges="fixed")


def _take_over(layer: Any, earlier: Any) -> None:
    """Gives a layer the state of another one of the same making."""
    if type(layer) is not type(earlier) or len(layer.variables) != len(earlier.variables):
        return
    if isinstance(layer, ActivationQuantizer) and earlier.calibrated:
        layer.set_range(*(float(ops.convert_to_numpy(v)[0]) for v in (earlier.low, earlier.high)))
    for variable, value in zip(layer.variables, earlier.variables, strict=True):
        # Numbers, not the tensor: JAX gives the memory of tensors it trains on to others.
        variable.assign(ops.convert_to_numpy(value))


def _apart(layer: QuantizedModel, changed: Mapping[str, Any]) -> tuple[Custom, dict[str, Any]]:
    """The scheme of the inputs alone, and all layers by name: so that the former can be changed."""
    own = {**changed, **{k: v for k, v in layer.settings.own.items() if k not in changed}}
    for node in layer.plan.graph.nodes:
        name = "/" + node.name.partition(":")[0]
        if node.operation is not None and name not in own:
            setting = layer.settings.of(node.operation, name[1:])
            if setting == layer.settings.default:
                own[name] = layer.settings.default
    return layer.settings.default, own


def _require_quantized(model: Any) -> QuantizedModel:
    layer = quantized(model)
    if layer is None:
        raise SenteiError(
            "`model` should be already quantized, by quantize_model or quantize_apply. Received: "
            f"{getattr(model, 'name', type(model).__name__)!r}."
        )
    return layer
