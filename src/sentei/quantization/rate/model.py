"""The layer that runs a float model on weights whose bits have a price."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras

from sentei.core.select import sublayers
from sentei.quantization import rules
from sentei.quantization.layer import QuantizedModel
from sentei.quantization.plan import Weight
from sentei.quantization.rate.quantizer import RatedQuantizer
from sentei.quantization.scheme import Custom


@keras.saving.register_keras_serializable("sentei")
class RatedModel(QuantizedModel):
    """A quantized model some of whose weights have a price: their grids have one learned step each.

    Where a layer's scheme has a `rate`, its kernels have a `RatedQuantizer` in place of the one
    that follows the weight's range, and its bias has one too.
    """

    def __init__(
        self,
        float_model: Any,
        scheme: Custom,
        layers: Mapping[str, Any] | None = None,
        specs: Any = None,
        **kwargs: Any,
    ) -> None:
        """Plans the grids of a model; activations have no ranges yet.

        Args:
            float_model: A built Keras model.
            scheme: The scheme of all layers that `layers` does not name.
            layers: From a layer's name to its own scheme, or None to leave it float.
            specs: As for `QuantizedModel`.
            **kwargs: Keras' own.
        """
        super().__init__(float_model, scheme, layers, specs, **kwargs)
        held = {id(weight.variable): weight for weight in self.plan.weights}
        for layer, holders in sublayers(float_model):
            path = "/".join([*(holder.name for holder in holders[1:]), layer.name])
            own = self.settings.scheme_of(layer, path)
            kind = None if own is None else own.weight(None)
            if own is None or own.rate is None or kind is None:
                continue
            for variable, _ in rules.kernels(layer):
                self._rate(held[id(variable)], own.rate, stored_float=False)
            for variable in rules.biases(layer):
                weight = Weight(f"{path}/{variable.name}", layer, variable, kind)
                self.plan.weights.append(weight)
                self._rate(weight, own.rate, stored_float=True)

    def _rate(self, weight: Weight, price: float, stored_float: bool) -> None:
        number = list(self.by_name).index(weight.label) if weight.label in self.by_name else None
        quantizer = RatedQuantizer(
            weight.kind,
            price=price,
            stored_float=stored_float,
            label=weight.label,
            name=f"grid_{len(self.by_name) if number is None else number}",
        )
        quantizer.watch(weight.variable)
        self.by_name[weight.label] = quantizer


def has_price(scheme: Custom, layers: Any) -> bool:
    """Whether a scheme, or that of any layer, puts a price on bits.

    Args:
        scheme: The scheme of all layers that `layers` does not name.
        layers: From a layer's name to its own scheme.
    """
    own = layers.values() if isinstance(layers, Mapping) else ()
    return any(getattr(given, "rate", None) is not None for given in (scheme, *own))
