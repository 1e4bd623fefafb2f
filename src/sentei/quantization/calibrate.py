"""Giving activations their ranges: runs samples through the float model and watches."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras
import numpy as np

from sentei.core.errors import SenteiError
from sentei.core.samples import batches, told
from sentei.quantization.layer import QuantizedModel
from sentei.quantization.masking import Unmasked
from sentei.quantization.observers import OBSERVERS, Observer
from sentei.quantization.quantizer import ActivationQuantizer


class _Probe(keras.layers.Layer):
    """Gives the tensors that are to be rounded as outputs, so that any backend compiles them."""

    def __init__(self, layer: QuantizedModel) -> None:
        # The class' name would give a name that TensorFlow refuses.
        super().__init__(autocast=False, name="probe")
        self.layer = layer
        self.built = True

    def call(self, inputs: Any) -> dict[str, Any]:
        found: dict[str, Any] = {}
        counts: dict[str, int] = {}

        def watch(label: str, x: Any) -> None:
            if isinstance(self.layer.quantizer_of(label), ActivationQuantizer):
                counts[label] = counts.get(label, 0) + 1
                # Every range holds 0: masked steps do not count.
                found[f"{label}|{counts[label]}"] = Unmasked()(x)

        outputs = self.layer.watched(inputs, watch)
        # A model must use its inputs; one without activations to calibrate still has outputs.
        return found or {"|": keras.tree.flatten(outputs)[0]}


def calibrate(
    qmodel: Any, samples: Any, *, batch_size: int = 32, progress: bool | None = None
) -> Any:
    """Gives every activation of a quantized model its range, from samples.

    The float model is run; its activations are observed by the method that the scheme names.

    Args:
        qmodel: A model made by `sentei.quantize`, changed in place.
        samples: As the argument `calibration` of `sentei.quantize`. Of pairs `(x, y)` the first
            counts.
        batch_size: How many samples of an array to run at once.
        progress: Whether to show progress on a terminal; None: if there is one.

    Returns:
        The same model.

    Raises:
        SenteiError: There are no samples, they have the wrong shapes, or something computed from
            them is not finite. Ranges are then as they were.
    """
    layer = layer_of(qmodel)
    probe = keras.Model(qmodel.input, _Probe(layer)(qmodel.input))
    observers = {
        label: OBSERVERS[activation.scheme.observer]()
        for label, activation in layer.plan.activations.items()
        if isinstance(layer.quantizer_of(label), ActivationQuantizer)
    }
    seen: set[str] = set()
    for batch in told(batches(qmodel, samples, batch_size), "calibration", progress):
        _observe(probe.predict_on_batch(batch), observers, seen)
    for label in seen:
        quantizer = layer.quantizer_of(label)
        low, high = observers[label].range(quantizer.kind)
        quantizer.set_range(low, high)
    return qmodel


def layer_of(qmodel: Any) -> QuantizedModel:
    """The layer that holds a quantized model's float model.

    Args:
        qmodel: What the user passed.

    Raises:
        SenteiError: It is no quantized model.
    """
    for layer in getattr(qmodel, "layers", ()):
        if isinstance(layer, QuantizedModel):
            return layer
    raise SenteiError(
        "Expected a model made by sentei.quantize. Received: "
        f"{getattr(qmodel, 'name', type(qmodel).__name__)!r}."
    )


def _observe(found: Mapping[str, Any], observers: Mapping[str, Observer], seen: set[str]) -> None:
    for key, values in found.items():
        label = key.rpartition("|")[0]
        if label not in observers:
            continue
        values = np.asarray(values, np.float32)
        if not np.isfinite(values).all():
            raise SenteiError(
                f"The activation {label!r} is not finite (NaN or infinite) on the calibration "
                "data. Check the samples and the model's weights."
            )
        if values.size:
            observers[label].update(values)
            seen.add(label)
