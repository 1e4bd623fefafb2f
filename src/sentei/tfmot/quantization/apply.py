"""`quantize_model`, `quantize_apply`, `quantize_scope`."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import keras

from sentei.core.errors import SenteiError
from sentei.core.graph import graph_of
from sentei.core.select import sublayers
from sentei.quantization import Custom, OwnCode, rules
from sentei.quantization.quantize import quantize
from sentei.tfmot.annotation import rewrapped
from sentei.tfmot.quantization import config as configs
from sentei.tfmot.quantization import quantizers, registry, wrapper
from sentei.tfmot.quantization.annotate import (
    QuantizeAnnotate,
    quantize_annotate_model,
    require_graph,
)
from sentei.tfmot.quantization.registry import Default8BitQuantizeRegistry
from sentei.tfmot.quantization.schemes import Default8BitQuantizeScheme, says_itself
from sentei.tfmot.quantization.translate import setting_for


class UnsupportedLayer(SenteiError, RuntimeError):
    """A layer was annotated without a config, and there is none for its kind."""


def quantize_model(to_quantize: Any, quantized_layer_name_prefix: str | None = "quant_") -> Any:
    """A copy of a model that computes as its integers will, to be trained.

    Activations are float until training has shown their ranges: the first batches count evenly,
    later ones as a moving average. `sentei.quantization.calibrate(qmodel, samples)` gives them
    beforehand.

    Args:
        to_quantize: A built Sequential or Functional model, which is left as it is.
        quantized_layer_name_prefix: Taken for the sake of old programs, and not used.

    Returns:
        The quantized model, uncompiled, as `sentei.quantize` makes it. What stays float in it is
        told by a warning.

    Raises:
        SenteiError: When it is no such model (a ValueError).
    """
    require_graph("to_quantize", to_quantize)
    annotated = quantize_annotate_model(to_quantize)
    return quantize_apply(annotated, quantized_layer_name_prefix=quantized_layer_name_prefix)


def quantize_apply(
    model: Any, scheme: Any = None, quantized_layer_name_prefix: str | None = "quant_"
) -> Any:
    """A copy of a model whose annotated layers compute as their integers will, to be trained.

    Args:
        model: A built model with annotated layers, which is left as it is.
        scheme: A `QuantizeScheme`; None for `Default8BitQuantizeScheme()`.
        quantized_layer_name_prefix: Taken for the sake of old programs, and not used.

    Returns:
        The quantized model, uncompiled; see `quantize_model`.

    Raises:
        SenteiError: When it is no such model, or is not built (a ValueError).
        UnsupportedLayer: When a layer was annotated by itself, without a config, that has none by
            default (a RuntimeError and a ValueError).
    """
    require_graph("model", model)
    if not any(isinstance(layer, QuantizeAnnotate) for layer, _ in sublayers(model)):
        raise SenteiError(
            "`model` must contain at least one layer which have been annotated with "
            "`quantize_annotate*`. There are no layers to quantize."
        )
    if not model.built:
        raise SenteiError(
            "`model` must be a built model. Please call `model.build(input_shape)` before "
            "quantizing your model."
        )
    scheme = Default8BitQuantizeScheme() if scheme is None else scheme
    copy, annotations = _copied(model)
    copy, annotations = _transformed(copy, annotations, scheme)
    native = scheme.native() if isinstance(scheme, Default8BitQuantizeScheme) else Custom()
    default, layers = _Settings(copy, annotations, scheme, native).all()
    return quantize(copy, default, layers=layers or None)


def quantize_scope(*args: Any) -> Any:
    """A scope of custom objects in which quantized models can be loaded.

    Keras finds all but your own without it as soon as `sentei.tfmot` is imported.

    Args:
        *args: Dicts from names to configs, quantizers and layers of your own.
    """
    known = {
        name: found
        for module in (configs, quantizers, registry, wrapper)
        for name, found in vars(module).items()
        if isinstance(found, type) and found.__module__ == module.__name__ and name[0] != "_"
    }
    known["QuantizeAnnotate"] = QuantizeAnnotate
    return keras.saving.custom_object_scope({**known, **{k: v for a in args for k, v in a.items()}})


def _copied(model: Any) -> tuple[Any, dict[int, QuantizeAnnotate]]:
    """A copy without annotations, and the annotation of each of its layers by identity."""
    annotations: dict[int, QuantizeAnnotate] = {}

    def again(layer: Any) -> Any:
        inner = layer.layer if isinstance(layer, QuantizeAnnotate) else layer
        try:
            new = type(inner).from_config(inner.get_config())
        except (TypeError, ValueError, NotImplementedError) as error:
            raise SenteiError(
                "Unable to clone model. This generally happens if you used custom Keras layers or "
                "objects in your model. Please specify them via `quantize_scope` for your calls to "
                f"`quantize_model` and `quantize_apply`. Layer {inner.name!r}: [{error}]."
            ) from error
        if layer is not inner:
            annotations[id(new)] = layer
        return new

    copy = rewrapped(model, again)
    if not copy.built:
        copy.build(model.input_shape)
    copy.set_weights(model.get_weights())
    return copy, annotations


def _transformed(
    model: Any, annotations: dict[int, QuantizeAnnotate], scheme: Any
) -> tuple[Any, dict[int, QuantizeAnnotate]]:
    """What a scheme's own layout transform makes of a model."""
    if not says_itself(scheme, "get_layout_transformer"):
        return model, annotations
    layers = [layer for layer, _ in sublayers(model)]
    asked = {
        layer.name: {"quantize_config": annotations[id(layer)].quantize_config}
        for layer in layers
        if id(layer) in annotations
    }
    alone = {layer.name for layer in layers if getattr(annotations.get(id(layer)), "alone", False)}
    model, asked = scheme.get_layout_transformer().apply(model, asked)
    found = {}
    for layer, _ in sublayers(model):
        if layer.name in asked and not isinstance(layer, (keras.Model, keras.layers.InputLayer)):
            annotation = QuantizeAnnotate(layer, asked[layer.name].get("quantize_config"))
            annotation.alone = layer.name in alone
            found[id(layer)] = annotation
    return model, found


class _Settings:
    """What `sentei.quantize` is told about an annotated model.

    Args:
        model: The model, without annotations.
        annotations: Those of its layers, by identity.
        scheme: The old toolkit's scheme.
        native: sentei's for the same.
    """

    def __init__(
        self, model: Any, annotations: dict[int, QuantizeAnnotate], scheme: Any, native: Custom
    ) -> None:
        self.annotations, self.scheme, self.native = annotations, scheme, native
        self.graph = graph_of(model)
        self.layers = list(_computing(model))

    def all(self) -> tuple[Custom, dict[str, Any]]:
        """The scheme of all that is not named, the inputs among them, and the named layers'."""
        whole = all(
            id(layer) in self.annotations or isinstance(layer, keras.layers.Lambda)
            for layer, _, _ in self.layers
        )
        nodes = self.graph.nodes
        fed = {t.node for node in nodes if self._is_ours(node) for t in node.inputs}
        read = any(node.operation is None and node.index in fed for node in nodes)
        # A model's inputs cannot be named: they have the default.
        default = self.native
        if not (whole or read):
            default = replace(self.native, weight_bits=None, activation_bits=None)
        found: dict[str, Any] = {}
        for layer, path, inside in self.layers:
            annotation = self.annotations.get(id(layer))
            setting = None if annotation is None else self._setting(annotation, layer)
            if setting != default:
                found[f"/{path}"] = setting
                # What is inside a layer is its own business, if that is not known to sentei.
                within = None if isinstance(setting, OwnCode) else setting
                found |= {f"/{inner}": within for inner in inside}
        known = {id(layer) for layer, _, _ in self.layers}
        for node in nodes:
            name = node.name.partition(":")[0]
            if node.operation is None or self._is_ours(node):
                continue
            if node.index in fed and rules.role(node.operation)[0] != "float":
                # What an annotated layer reads is rounded, whoever made it.
                found[f"/{name}"] = replace(self.native, weight_bits=None)
            elif id(node.operation) not in known and not whole:
                found[f"/{name}"] = None
        return default, found

    def _is_ours(self, node: Any) -> bool:
        return id(node.operation) in self.annotations

    def _setting(self, annotation: QuantizeAnnotate, layer: Any) -> Any:
        config = annotation.quantize_config
        if config is None and says_itself(self.scheme, "get_quantize_registry"):
            own = self.scheme.get_quantize_registry()
            if getattr(own, "supports", lambda _: True)(layer):
                config = own.get_quantize_config(layer)
        if config is not None:
            return setting_for(config, layer, self.native)
        reason = rules.why_float(layer, 1)
        if annotation.alone and not Default8BitQuantizeRegistry().supports(layer):
            raise UnsupportedLayer(
                f"Layer {layer.name}:{type(layer).__name__} is not supported. You can quantize "
                "this layer by passing a `tfmot.quantization.keras.QuantizeConfig` instance to the "
                "`quantize_annotate_layer` API."
            )
        if reason is not None:
            warnings.warn(
                f"Layer {layer.name!r} stays float: {reason}. A QuantizeConfig, given to "
                "quantize_annotate_layer, says otherwise.",
                stacklevel=4,
            )
        return self.native


def _computing(model: Any) -> Iterator[tuple[Any, str, list[str]]]:
    """The layers of a model's graph: each with its path of names, and those inside it."""
    found: dict[int, tuple[Any, str, list[str]]] = {}
    for layer, holders in sublayers(model):
        if not holders or isinstance(layer, (keras.Model, keras.layers.InputLayer)):
            continue
        path = "/".join([*(holder.name for holder in holders[1:]), layer.name])
        around = [holder for holder in holders if id(holder) in found]
        if around:
            found[id(around[0])][2].append(path)
        else:
            found[id(layer)] = (layer, path, [])
    yield from found.values()
