"""`sentei.quantize`: from a float model to one that computes as its integers will."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import keras
from keras import layers as kl

from sentei.core.errors import SenteiError, UnsupportedModel
from sentei.core.graph import is_graph, structure_of
from sentei.core.samples import peeked
from sentei.core.select import require_built, sublayers
from sentei.quantization.calibrate import calibrate
from sentei.quantization.calls import specs_of
from sentei.quantization.clustered import with_one_scale
from sentei.quantization.layer import QuantizedModel
from sentei.quantization.quantizer import Quantizer
from sentei.quantization.rate.model import RatedModel, has_price
from sentei.quantization.scheme import Custom, scheme_of
from sentei.quantization.settings import Setting, setting_of
from sentei.quantization.steps import find_steps


def quantize(
    model: Any,
    scheme: Any = "int8",
    *,
    calibration: Any = None,
    layers: Mapping[str, Any] | None = None,
    strict: bool = False,
) -> Any:
    """A Keras model that computes as the integers of a LiteRT file will, to calibrate and train.

    It shares the variables of `model`: train one and the other changes. It compiles, fits, saves
    and loads like any model; `sentei.strip` gives the float model back. Gradients go straight
    through the rounding (Jacob et al. 2018, arXiv:1712.05877).

    Args:
        model: A built Sequential or Functional model, with nested models and `keras.ops`
            operations. Of a subclassed model the layers are quantized one by one: what its own
            code computes between them stays float.
        scheme: `"int8"`, `"int16x8"`, `"int4"`, or a `sentei.quantization.Custom`.
        calibration: Samples of the inputs that activations get their ranges from: an array, a
            dict by input name, a `keras.utils.PyDataset`, a generator, `tf.data.Dataset` or
            `DataLoader` of batches. Without, activations stay float until `calibrate` is called
            or until training has shown their ranges, which then follow the batches.
        layers: From a layer's name, a path of names or a regular expression to a scheme of its
            own, or None to leave the layer float (or to a `sentei.quantization.OwnCode`).
        strict: Whether to refuse a model of which something would stay float.

    Returns:
        The quantized model.

    Raises:
        UnsupportedModel: A layer cannot be simulated, or with `strict` something stays float; the
            message names it.
        SenteiError: The model is not built, a name fits no layer, or the samples do not fit.
    """
    require_built(model)
    _refuse(model)
    if quantized(model) is not None:
        raise SenteiError(
            f"Model {model.name!r} is quantized already. Call sentei.strip(model) for the float "
            "model, and quantize that."
        )
    default, own = scheme_of(scheme), layers
    if calibration is None:
        default, own = _observing(default), _own_observing(layers)
    own = with_one_scale(model, default, own) or None
    kind = RatedModel if has_price(default, own) else QuantizedModel
    specs = None
    if not is_graph(model):
        first, calibration = peeked(calibration)
        specs = specs_of(model, first)
    layer = kind(model, default, own, specs, name=f"quantized_{model.name}")
    find_steps(layer)
    if strict:
        _require_all_integer(layer)
    inputs = _inputs(model, specs)
    qmodel = keras.Model(inputs, layer(inputs), name=f"{model.name}_quantized")
    if calibration is not None:
        calibrate(qmodel, calibration)
    return qmodel


def _observing(setting: Setting) -> Any:
    """A scheme whose ranges come from the batches of training, unless they are learned."""
    if isinstance(setting, Custom) and setting.ranges == "fixed":
        return replace(setting, ranges="moving")
    return setting


def _own_observing(layers: Any) -> Any:
    if not isinstance(layers, Mapping):
        return layers
    return {name: _observing(setting_of(given)) for name, given in layers.items()}


def quantized(model: Any) -> QuantizedModel | None:
    """The layer that holds a quantized model's float model; None of any other model.

    Args:
        model: A Keras model.
    """
    for layer in getattr(model, "layers", ()):
        if isinstance(layer, QuantizedModel):
            return layer
    return None


def quantizers(model: Any) -> list[tuple[str, Quantizer]]:
    """The quantizers of a quantized model by name; none of any other.

    Args:
        model: A Keras model.
    """
    layer = quantized(model)
    return [] if layer is None else list(layer.quantizers.items())


def _inputs(model: Any, specs: Any) -> Any:
    """New inputs like those of a model; of a subclassed one, as `specs` says."""
    structure = structure_of(model) if specs is None else specs
    return keras.tree.map_structure(
        lambda spec: keras.Input(batch_shape=tuple(spec.shape), dtype=spec.dtype, name=spec.name),
        structure,
    )


def _refuse(model: Any) -> None:
    """Refuses layers whose state would be lost."""
    for layer, _ in sublayers(model):
        if getattr(layer, "stateful", False) is True and isinstance(layer, kl.RNN):
            raise UnsupportedModel(
                f"Layer {layer.name!r} is a stateful recurrent layer: its state cannot be carried "
                "through the simulation. Set stateful=False."
            )
        if isinstance(layer, kl.SpectralNormalization):
            raise UnsupportedModel(
                f"Layer {layer.name!r} (SpectralNormalization) assigns its weight while it runs, "
                "which would be lost. Replace it by the layer it wraps."
            )


def _require_all_integer(layer: QuantizedModel) -> None:
    floats = layer.plan.floats
    if floats:
        listed = "; ".join(f"{found.name!r}: {found.reason}" for found in floats[:8])
        raise UnsupportedModel(
            f"{len(floats)} operations would stay float: {listed}. Set strict=False to allow it."
        )
