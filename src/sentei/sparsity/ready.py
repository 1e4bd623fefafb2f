"""Rewriting a model, before it is trained, so that XNNPACK can run it sparse."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import keras
from keras import layers as kl

from sentei.core.errors import SenteiError
from sentei.core.select import require_built, sublayers

_LOG = logging.getLogger("sentei")
_SWISH = ("silu", "swish")
_SUPPORTED_KERNELS = (3, 5)


def xnnpack_ready(model: Any, *, swish: str | None = None) -> Any:
    """A model of the same weights whose strided convolutions are padded as XNNPACK wants it.

    Sparse kernels exist for symmetric padding only (see `sentei.diagnose`), while "same" padding of
    TensorFlow at stride 2 puts one row less above than below an even image. So the convolution that
    starts the network and depthwise convolutions, of stride 2 and padded "same" or by a
    `ZeroPadding2D` of different sides, get a `ZeroPadding2D` of half the kernel on every side.
    Shapes stay; the image shifts by up to a pixel, so **the function changes slightly: fine-tune
    the model**. What was changed is logged (logger "sentei").

    Args:
        model: a built Functional or Sequential model, which is not changed; models in it are
            rewritten too.
        swish: an activation to put in the place of swish, such as `"hard_swish"` or `"relu6"`. By
            default it stays: XNNPACK runs it (as a sigmoid and a product) in its sparse parts.

    Returns:
        A new model, not compiled, with the same layer names and weights.

    Raises:
        SenteiError: the model is not built, is subclassed, or `swish` is no activation of Keras.
    """
    require_built(model)
    _check_kind(model)
    if swish is not None and not _is_activation(swish):
        raise SenteiError(f"`swish` must name an activation of Keras. Received: swish={swish!r}.")
    rewriting = _Rewriting(swish)
    ready = rewriting(model)
    by_path = dict(_with_paths(ready))
    for path, layer in _with_paths(model):
        if layer.weights and not isinstance(layer, keras.Model):
            by_path[path].set_weights(layer.get_weights())
    if rewriting.changes:
        _LOG.warning(
            "xnnpack_ready changed model %r: %s. Its function changed slightly: fine-tune it.",
            model.name,
            "; ".join(rewriting.changes),
        )
    return ready


def _is_activation(name: object) -> bool:
    try:
        return callable(keras.activations.get(name))
    except (ValueError, TypeError):
        return False


class _Rewriting:
    """One pass over a model and the models in it."""

    def __init__(self, swish: str | None) -> None:
        self.swish = swish
        self.changes: list[str] = []

    def __call__(self, model: Any) -> Any:
        """The rewritten model, its weights fresh."""
        if isinstance(model, keras.Sequential):
            return self._sequential(model)
        padded = {id(layer): _symmetric(layer) for layer in model.layers}
        absorbed = _absorbed(model, padded)

        def call(layer: Any, *args: Any, **kwargs: Any) -> Any:
            amount = self._amounts.pop(layer.name, None)
            if amount is not None:
                args = (kl.ZeroPadding2D(amount, name=f"{layer.name}_pad")(args[0]), *args[1:])
            return layer(*args, **kwargs)

        self._amounts = self._plan(model, padded, absorbed)
        return keras.models.clone_model(
            model, clone_function=self._cloner(absorbed), call_function=call
        )

    def _sequential(self, model: Any) -> Any:
        padded = {id(layer): _symmetric(layer) for layer in model.layers}
        absorbed = _absorbed(model, padded)
        amounts = self._plan(model, padded, absorbed)
        clone = self._cloner(absorbed)
        rewritten: list[Any] = [keras.Input(batch_shape=model.input_shape, dtype=model.input_dtype)]
        for layer in model.layers:
            if layer.name in amounts:
                rewritten.append(kl.ZeroPadding2D(amounts[layer.name], name=f"{layer.name}_pad"))
            rewritten.append(clone(layer))
        return keras.Sequential(rewritten, name=model.name)

    def _plan(self, model: Any, padded: dict[int, int], absorbed: dict[str, int]) -> dict[str, int]:
        """Layer → rows of padding to put before it; what changes is noted."""
        amounts = {}
        for layer in model.layers:
            amount = padded[id(layer)]
            if amount and layer.padding == "same":
                amounts[layer.name] = amount
                self.changes.append(f"{layer.name} is padded by {amount} on every side, not 'same'")
            elif layer.name in absorbed:
                self.changes.append(f"{layer.name} pads by {absorbed[layer.name]} on every side")
        return amounts

    def _cloner(self, absorbed: dict[str, int]) -> Callable[[Any], Any]:
        def clone(layer: Any) -> Any:
            if isinstance(layer, keras.Model):
                outer = getattr(self, "_amounts", {})
                inner = self(layer)
                self._amounts = outer
                return inner
            config = layer.get_config()
            if layer.name in absorbed:
                config["padding"] = absorbed[layer.name]
            elif _symmetric(layer) and layer.padding == "same":
                config["padding"] = "valid"
            if self.swish and _is_swish(layer):
                config["activation"] = self.swish
                self.changes.append(f"{layer.name} computes {self.swish}, not swish")
            return type(layer).from_config(config)

        return clone


def _symmetric(layer: Any) -> int:
    """Rows of padding on every side that a strided convolution needs, 0 for other layers."""
    if not isinstance(layer, kl.Conv2D | kl.DepthwiseConv2D | kl.SeparableConv2D):
        return 0
    size = layer.kernel_size
    strided = tuple(layer.strides) == (2, 2) and tuple(layer.dilation_rate) == (1, 1)
    if not strided or size[0] != size[1] or size[0] not in _SUPPORTED_KERNELS:
        return 0
    if layer.data_format != "channels_last" or layer.padding not in ("same", "valid"):
        return 0
    depthwise = isinstance(layer, kl.DepthwiseConv2D | kl.SeparableConv2D)
    starts = size[0] == 3 and layer.kernel.shape[-2] == 3 if not depthwise else False
    return size[0] // 2 if depthwise or starts else 0


def _absorbed(model: Any, padded: dict[int, int]) -> dict[str, int]:
    """ZeroPadding2D of different sides before a strided convolution → the padding it should have.

    Only where nothing else reads it and the size of the output stays.
    """
    found = {}
    for before, after in _pairs(model):
        amount = padded.get(id(after), 0)
        if not (isinstance(before, kl.ZeroPadding2D) and amount and after.padding == "valid"):
            continue
        sides = {side for pair in before.padding for side in pair}
        if sides == {amount}:
            continue
        height, width = before.input.shape[1:3]
        size = 2 * amount + 1
        sizes = [
            (length + sum(pair) - size) // 2 == (length - 1) // 2
            for length, pair in zip((height, width), before.padding, strict=True)
            if length is not None
        ]
        if len(sizes) == 2 and all(sizes):
            found[before.name] = amount
    return found


def _pairs(model: Any) -> list[tuple[Any, Any]]:
    """A layer and the only layer that reads it, by the tensors that go between them."""
    readers: dict[int, list[Any]] = {}
    for layer in model.layers:
        if isinstance(layer, kl.InputLayer):
            continue
        for tensor in keras.tree.flatten(layer.input):
            readers.setdefault(id(tensor), []).append(layer)
    outputs = {id(tensor) for tensor in keras.tree.flatten(model.outputs)}
    found = []
    for layer in model.layers:
        read = readers.get(id(layer.output), []) if not isinstance(layer.output, list) else []
        if len(read) == 1 and id(layer.output) not in outputs:
            found.append((layer, read[0]))
    return found


def _is_swish(layer: Any) -> bool:
    activation = getattr(layer, "activation", None)
    return activation is not None and getattr(activation, "__name__", "") in _SWISH


def _with_paths(model: Any) -> list[tuple[str, Any]]:
    return [
        ("/".join([*(holder.name for holder in holders[1:]), layer.name]), layer)
        for layer, holders in sublayers(model)
        if layer is not model
    ]


def _check_kind(model: Any) -> None:
    for layer, _ in sublayers(model):
        known = hasattr(layer, "operations") or isinstance(layer, keras.Sequential)
        if isinstance(layer, keras.Model) and not known:
            raise SenteiError(
                f"Model {layer.name!r} is a subclass of keras.Model, whose code cannot be "
                "rewritten. Pad its strided convolutions yourself: ZeroPadding2D before, and "
                "padding='valid'."
            )
