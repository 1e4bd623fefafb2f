"""`QuantizeWrapper`: a layer that runs by a `QuantizeConfig`, that is by a user's own code."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import keras

from sentei.core.errors import SenteiError
from sentei.core.state import run_on
from sentei.quantization import OwnCode
from sentei.tfmot.quantization.config import QuantizeConfig
from sentei.tfmot.quantization.proxy import LayerProxy
from sentei.tfmot.wrapping import Wrapping

# Where integers are computed: behind a linear function or a ReLU, which are fused into the layer;
# before what is an operation of its own; on both sides of what has no fixed output grid.
_BEFORE = frozenset({"softmax", "sigmoid", "tanh", "gelu"})
_NOT_BEHIND = frozenset({"softmax", "sigmoid", "tanh"})


class SeveralOutputs(SenteiError, RuntimeError):
    """A layer with several outputs cannot have an output quantizer."""


class _RoundingActivation:
    """An activation, and its quantizer around it.

    Args:
        function: The activation; None for none.
        quantizer: Its `Quantizer`.
        owner: The layer that owns the quantizer's variables.
        number: Which of the layer's activations it is.
    """

    def __init__(self, function: Any, quantizer: Any, owner: Any, number: int) -> None:
        self.function, self.quantizer = function, quantizer
        name = getattr(function, "__name__", type(function).__name__)
        behind = "" if number == 0 else f"_{number}"
        self.before = self.behind = None
        self.training = False
        if name in _BEFORE:
            self.before = _built(quantizer, None, f"pre_activation{behind}", owner)
        if name not in _NOT_BEHIND:
            self.behind = _built(quantizer, None, f"post_activation{behind}", owner)

    def __call__(self, x: Any) -> Any:
        if self.before is not None:
            x = self.before(x, self.training)
        x = x if self.function is None else self.function(x)
        return x if self.behind is None else self.behind(x, self.training)


@keras.saving.register_keras_serializable("sentei_tfmot")
class QuantizeWrapper(Wrapping):
    """A layer that computes on what its `QuantizeConfig` makes of weights, activations, output.

    Args:
        layer: The layer.
        quantize_config: A `QuantizeConfig`.
        name_prefix: How the wrapper's name begins.
        **kwargs: As Keras layers take them.

    Raises:
        SenteiError: When `layer` is no layer or a model, or `quantize_config` is no such thing (a
            ValueError).
    """

    prefix = "quant_"

    def __init__(
        self, layer: Any, quantize_config: Any, name_prefix: str | None = "quant_", **kwargs: Any
    ) -> None:
        require_layer("layer", layer)
        if not isinstance(quantize_config, QuantizeConfig):
            raise SenteiError(
                "quantize_config cannot be None. It is needed to quantize a layer: a "
                f"QuantizeConfig. Received: {quantize_config!r}."
            )
        kwargs.setdefault("name", f"{name_prefix or ''}{layer.name}")
        super().__init__(layer, **kwargs)
        self.quantize_config = quantize_config
        self.masking = _Masking(name="masking")
        self._takes_training = "training" in inspect.signature(layer.call).parameters
        # Functions in tuples: of a list, Keras would look whether there are variables in it.
        self._weights_of: tuple[Any, ...] = ()
        self._activations_of: tuple[Any, ...] = ()
        self._output_of: Any = None

    @staticmethod
    def signature(layer: Any) -> inspect.Signature:
        """What a call takes: what the layer's does, and `training`.

        Args:
            layer: The layer.
        """
        own = inspect.signature(layer.call)
        if "training" in own.parameters:
            return own
        parameters = list(own.parameters.values())
        training = inspect.Parameter("training", inspect.Parameter.KEYWORD_ONLY, default=None)
        last = bool(parameters) and parameters[-1].kind is inspect.Parameter.VAR_KEYWORD
        parameters.insert(len(parameters) - last, training)
        return own.replace(parameters=parameters)

    def add_weight(self, *args: Any, **kwargs: Any) -> Any:
        """As Keras has it; the name may come first, as in Keras 2.

        Args:
            *args: As `keras.layers.Layer.add_weight` takes them, or a name, then a shape, ...
            **kwargs: The same.
        """
        names = ("name", "shape", "dtype", "initializer", "regularizer", "trainable", "constraint")
        if args and (args[0] is None or isinstance(args[0], str)):
            kwargs = {**dict(zip(names, args, strict=False)), **kwargs}
            args = ()
        if isinstance(kwargs.get("shape"), int):
            kwargs["shape"] = (kwargs["shape"],)
        return super().add_weight(*args, **kwargs)

    def build(self, *shapes: Any, **named: Any) -> None:
        """Builds the layer and the quantizers' variables.

        Args:
            *shapes: As the layer's `build` takes them.
            **named: The same.
        """
        super().build(*shapes, **named)
        self._make_quantizers(shapes[0] if shapes else None)

    def build_from_config(self, config: dict[str, Any]) -> None:
        """Builds the layer and the quantizers' variables as they were.

        Args:
            config: What `get_build_config` gave.
        """
        super().build_from_config(config)
        self._make_quantizers(config.get("input_shape"))

    def _make_quantizers(self, shape: Any) -> None:
        if not self.layer.built and shape is not None:
            self.layer(_symbols(shape))
        proxy, config = LayerProxy(self.layer), self.quantize_config
        self._weights_of = tuple(
            _weight(variable, _built(quantizer, variable.shape, variable.name, self))
            for variable, quantizer in config.get_weights_and_quantizers(proxy)
        )
        self._activations_of = tuple(
            _RoundingActivation(function, quantizer, self, number)
            for number, (function, quantizer) in enumerate(
                config.get_activations_and_quantizers(proxy)
            )
        )
        for quantizer in (config.get_output_quantizers(proxy) or [])[:1]:
            spec = None if shape is None else self.layer.compute_output_spec(_symbols(shape))
            self._output_of = _built(quantizer, getattr(spec, "shape", None), "output", self)

    def run(self, *args: Any, training: bool | None = None, **kwargs: Any) -> Any:
        """The layer's output, computed as the config says.

        Args:
            *args: As the layer takes them.
            training: Whether the model trains.
            **kwargs: As the layer takes them.

        Raises:
            SeveralOutputs: The layer gives several tensors, and the config a quantizer of one (a
                RuntimeError and a ValueError).
        """
        proxy, now = LayerProxy(self.layer), bool(training)
        rounded = [round_weight(now) for round_weight in self._weights_of]
        self.quantize_config.set_quantize_weights(proxy, rounded)
        for activation in self._activations_of:
            activation.training = now
        self.quantize_config.set_quantize_activations(proxy, list(self._activations_of))
        if self._takes_training:
            kwargs["training"] = training
        with proxy.set_meanwhile():
            outputs = run_on(
                self, self.variables, proxy.replaced, lambda: self.layer(*args, **kwargs)
            )
        if self._output_of is None:
            return outputs
        if isinstance(outputs, (list, tuple, dict)):
            raise SeveralOutputs(
                f"Multiple output tensors not handled currently: layer {self.layer.name!r} gives "
                f"{len(outputs)}. Return [] from get_output_quantizers."
            )
        return self.masking(outputs, function=lambda x: self._output_of(x, now))

    def settings(self) -> dict[str, Any]:
        """What the constructor takes beside the layer."""
        return {"quantize_config": self.quantize_config}


@keras.saving.register_keras_serializable("sentei_tfmot")
class QuantizeWrapperV2(QuantizeWrapper):
    """The same: the original tells old files by it.

    Args:
        layer: The layer.
        quantize_config: A `QuantizeConfig`.
        name_prefix: How the wrapper's name begins.
        **kwargs: As Keras layers take them.
    """


@keras.saving.register_keras_serializable("sentei_tfmot")
class ByConfig(OwnCode):
    """Runs a layer of a quantized model by a `QuantizeConfig`.

    Args:
        quantize_config: The config.
    """

    def __init__(self, quantize_config: Any) -> None:
        self.quantize_config = quantize_config

    def around(self, layer: Any) -> Any:
        """See `OwnCode`."""
        wrapper = QuantizeWrapperV2(layer, self.quantize_config)
        wrapper.build(*_input_shapes(layer))
        return wrapper

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return {"quantize_config": keras.saving.serialize_keras_object(self.quantize_config)}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> ByConfig:
        """What `get_config` described.

        Args:
            config: What it gave.
        """
        return cls(keras.saving.deserialize_keras_object(config["quantize_config"]))


class _Masking(keras.layers.Layer):
    """Applies a function to a tensor, which keeps its mask."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(autocast=False, **kwargs)
        self.supports_masking = True
        self.built = True

    def call(self, x: Any, function: Callable[[Any], Any]) -> Any:
        """What the function gives.

        Args:
            x: The tensor.
            function: The function.
        """
        return function(x)


def require_layer(name: str, layer: Any) -> None:
    """Checks that it is a layer, and no model.

    Args:
        name: What the argument is called.
        layer: What the user passed.

    Raises:
        SenteiError: It is not.
    """
    if layer is None:
        raise SenteiError(f"`{name}` cannot be None.")
    if not isinstance(layer, keras.layers.Layer) or isinstance(layer, keras.Model):
        raise SenteiError(
            f"`{name}` can only be a `keras.layers.Layer` instance. You passed an instance of "
            f"type: {type(layer).__name__}."
        )


def _symbols(shape: Any) -> Any:
    """Symbols of one shape, or of a list of them."""
    if all(size is None or isinstance(size, int) for size in shape):
        return keras.KerasTensor(tuple(shape))
    return [_symbols(one) for one in shape]


def _input_shapes(layer: Any) -> tuple[Any, ...]:
    """The shape that a layer of a graph is called on, if it is one."""
    try:
        return () if isinstance(layer.input, (list, tuple, dict)) else (layer.input.shape,)
    except (AttributeError, ValueError):
        return ()


def _built(quantizer: Any, shape: Any, name: str, owner: Any) -> Callable[[Any, bool], Any]:
    weights = quantizer.build(shape, name, owner)
    return lambda x, training: quantizer(x, training, weights=weights)


def _weight(variable: Any, rounded: Callable[[Any, bool], Any]) -> Callable[[bool], Any]:
    return lambda training: rounded(variable.value, training)
