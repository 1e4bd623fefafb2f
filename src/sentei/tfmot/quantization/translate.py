"""From a `QuantizeConfig` to a scheme of `sentei.quantize`, where a scheme can say the same."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from keras import ops

from sentei.quantization import Custom, rules
from sentei.tfmot.quantization.proxy import LayerProxy
from sentei.tfmot.quantization.quantizers import LastValueQuantizer, MovingAverageQuantizer
from sentei.tfmot.quantization.wrapper import ByConfig


def setting_for(config: Any, layer: Any, usual: Custom) -> Custom | ByConfig:
    """What `sentei.quantize` takes as a layer's setting for its `QuantizeConfig`.

    The config is asked, and tried on a stand-in of the layer. Ranges of the last values for the
    layer's kernels, and moving averages behind it, are what schemes are about; such a layer is
    fused with its neighbours and exported in integers. Everything else runs as the config says.

    Args:
        config: The config.
        layer: A built layer.
        usual: The scheme of layers without a config.

    Returns:
        A scheme, or the config's own code.
    """
    scheme = _activations(config, layer, usual)
    if scheme is not None:
        scheme = _weights(config, layer, scheme)
    return ByConfig(config) if scheme is None else scheme


def _activations(config: Any, layer: Any, usual: Custom) -> Custom | None:
    proxy, probe = LayerProxy(layer), LayerProxy(layer)
    pairs = config.get_activations_and_quantizers(proxy)
    outputs = config.get_output_quantizers(proxy) or []
    quantizers = [*(quantizer for _, quantizer in pairs), *outputs]
    if pairs:
        # As many as there are: what the config does with them shows in the stand-in.
        marks = [_Mark() for _ in pairs]
        config.set_quantize_activations(probe, marks)
        own = [layer is found and name == "activation" for found, name, _ in probe._others]
        if own != [True] or len(pairs) != 1 or probe._others[0][2] is not marks[0]:
            return None
    else:
        config.set_quantize_activations(probe, [])
        if probe._others:
            return None
    if not quantizers:
        return replace(usual, activation_bits=None)
    first = quantizers[0]
    if not _is(first, MovingAverageQuantizer) or first.per_axis or first.narrow_range:
        return None
    if any(quantizer != first for quantizer in quantizers) or len(outputs) > 1:
        return None
    if rules.role(layer)[0] == "float":
        return None
    return replace(usual, activation_bits=first.num_bits, symmetric=first.symmetric)


def _weights(config: Any, layer: Any, scheme: Custom) -> Custom | None:
    pairs, probe = config.get_weights_and_quantizers(LayerProxy(layer)), LayerProxy(layer)
    values = [ops.convert_to_tensor(weight) for weight, _ in pairs]
    config.set_quantize_weights(probe, values)
    if not pairs:
        return None if probe.replaced or probe._others else replace(scheme, weight_bits=None)
    given = {id(weight): value for (weight, _), value in zip(pairs, values, strict=True)}
    done = {id(variable): value for variable, value in probe.replaced}
    if probe._others or {id(variable) for variable, _ in rules.kernels(layer)} != given.keys():
        return None
    if done.keys() != given.keys() or any(done[key] is not given[key] for key in done):
        return None
    first = pairs[0][1]
    if not _is(first, LastValueQuantizer) or not first.symmetric:
        return None
    if any(quantizer != first for _, quantizer in pairs):
        return None
    return replace(
        scheme,
        weight_bits=first.num_bits,
        narrow_range=first.narrow_range,
        per_channel=first.per_axis,
    )


def _is(quantizer: Any, kind: type) -> bool:
    """Whether it rounds as another class does; a subclass may only have other arguments."""
    methods = ("build", "__call__", "follow")
    return all(getattr(type(quantizer), m, None) is getattr(kind, m) for m in methods)


class _Mark:
    """Stands for a rounding activation."""

    def __call__(self, x: Any) -> Any:
        return x
