"""The configs of Keras' own layers, by the names under which programs call them."""

from __future__ import annotations

import abc
from typing import Any

import keras
from keras import layers as kl

from sentei.core.errors import SenteiError
from sentei.quantization import rules
from sentei.tfmot.quantization.config import NothingQuantized, QuantizeConfig
from sentei.tfmot.quantization.quantizers import LastValueQuantizer, MovingAverageQuantizer


class QuantizeRegistry(abc.ABC):
    """Gives each kind of layer its `QuantizeConfig`. Subclass it to write your own."""

    @abc.abstractmethod
    def get_quantize_config(self, layer: Any) -> Any:
        """The config of a layer.

        Args:
            layer: A Keras layer.
        """
        raise NotImplementedError("Must be implemented in subclasses.")


@keras.saving.register_keras_serializable("sentei_tfmot")
class Default8BitQuantizeConfig(QuantizeConfig):
    """Named weights and activations of a layer, and its output, in 8 bits.

    Args:
        weight_attrs: Names of the weights: `["kernel"]`.
        activation_attrs: Names of the activations: `["activation"]`.
        quantize_output: Whether the output is rounded.
    """

    def __init__(
        self, weight_attrs: list[str], activation_attrs: list[str], quantize_output: bool
    ) -> None:
        self.weight_attrs, self.activation_attrs = list(weight_attrs), list(activation_attrs)
        self.quantize_output = quantize_output
        self.weight_quantizer: Any = LastValueQuantizer(8, False, True, True)
        self.activation_quantizer: Any = MovingAverageQuantizer(8, False, False, False)

    def get_weights_and_quantizers(self, layer: Any) -> list[tuple[Any, Any]]:
        """See `QuantizeConfig`."""
        return [(getattr(layer, name), self.weight_quantizer) for name in self.weight_attrs]

    def get_activations_and_quantizers(self, layer: Any) -> list[tuple[Any, Any]]:
        """See `QuantizeConfig`."""
        return [(getattr(layer, name), self.activation_quantizer) for name in self.activation_attrs]

    def set_quantize_weights(self, layer: Any, quantize_weights: list[Any]) -> None:
        """See `QuantizeConfig`.

        Raises:
            SenteiError: There are not as many as the layer has, or of other shapes (a ValueError).
        """
        self._check_count("set_quantize_weights", layer, quantize_weights, self.weight_attrs)
        for name, weight in zip(self.weight_attrs, quantize_weights, strict=True):
            own = tuple(getattr(layer, name).shape)
            if own != tuple(weight.shape):
                raise SenteiError(
                    f"Existing layer weight shape {own} is incompatible with provided weight "
                    f"shape {tuple(weight.shape)}: {name} of layer {layer.name!r}."
                )
            setattr(layer, name, weight)

    def set_quantize_activations(self, layer: Any, quantize_activations: list[Any]) -> None:
        """See `QuantizeConfig`.

        Raises:
            SenteiError: There are not as many as the layer has (a ValueError).
        """
        names = self.activation_attrs
        self._check_count("set_quantize_activations", layer, quantize_activations, names)
        for name, activation in zip(names, quantize_activations, strict=True):
            setattr(layer, name, activation)

    def get_output_quantizers(self, layer: Any) -> list[Any]:
        """See `QuantizeConfig`."""
        return [self.activation_quantizer] if self.quantize_output else []

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments."""
        names = ("weight_attrs", "activation_attrs", "quantize_output")
        return {name: getattr(self, name) for name in names}

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and vars(other) == vars(self)

    def __hash__(self) -> int:
        return hash((type(self), str(self.get_config())))

    @staticmethod
    def _check_count(function: str, layer: Any, given: list[Any], names: list[str]) -> None:
        if len(given) != len(names):
            raise SenteiError(
                f"`{function}` called on layer {layer.name} with {len(given)} parameters, but "
                f"layer expects {len(names)} values: {', '.join(names)}."
            )


@keras.saving.register_keras_serializable("sentei_tfmot")
class Default8BitWeightsQuantizer(LastValueQuantizer):
    """8 bits, symmetric, one scale."""

    def __init__(self) -> None:
        super().__init__(num_bits=8, per_axis=False, symmetric=True, narrow_range=True)

    def get_config(self) -> dict[str, Any]:
        """Nothing."""
        return {}


@keras.saving.register_keras_serializable("sentei_tfmot")
class Default8BitConvWeightsQuantizer(LastValueQuantizer):
    """8 bits, symmetric, a scale per output channel."""

    def __init__(self) -> None:
        super().__init__(num_bits=8, per_axis=True, symmetric=True, narrow_range=True)

    def get_config(self) -> dict[str, Any]:
        """Nothing."""
        return {}


@keras.saving.register_keras_serializable("sentei_tfmot")
class Default8BitConvTransposeWeightsQuantizer(Default8BitWeightsQuantizer):
    """8 bits, symmetric, one scale."""


@keras.saving.register_keras_serializable("sentei_tfmot")
class Default8BitConvQuantizeConfig(Default8BitQuantizeConfig):
    """The same with a scale per output channel, for convolutions; depthwise ones too.

    Args:
        weight_attrs: Names of the weights: `["kernel"]`.
        activation_attrs: Names of the activations: `["activation"]`.
        quantize_output: Whether the output is rounded.
    """

    def __init__(
        self, weight_attrs: list[str], activation_attrs: list[str], quantize_output: bool
    ) -> None:
        super().__init__(weight_attrs, activation_attrs, quantize_output)
        self.weight_quantizer = Default8BitConvWeightsQuantizer()


@keras.saving.register_keras_serializable("sentei_tfmot")
class Default8BitConvTransposeQuantizeConfig(Default8BitQuantizeConfig):
    """The same for transposed convolutions.

    Args:
        weight_attrs: Names of the weights: `["kernel"]`.
        activation_attrs: Names of the activations: `["activation"]`.
        quantize_output: Whether the output is rounded.
    """


@keras.saving.register_keras_serializable("sentei_tfmot")
class Default8BitOutputQuantizeConfig(NothingQuantized):
    """Only the output of a layer is rounded.

    Args:
        quantize_output: Whether it is.
    """

    def __init__(self, quantize_output: bool = True) -> None:
        self.quantize_output = quantize_output

    def get_output_quantizers(self, layer: Any) -> list[Any]:
        """See `QuantizeConfig`."""
        return [MovingAverageQuantizer(8, False, False, False)] if self.quantize_output else []

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return {"quantize_output": self.quantize_output}


@keras.saving.register_keras_serializable("sentei_tfmot")
class Default8BitActivationQuantizeConfig(Default8BitOutputQuantizeConfig):
    """The output of an Activation layer is rounded.

    Args:
        quantize_output: Whether it is.
    """


@keras.saving.register_keras_serializable("sentei_tfmot")
class NoOpQuantizeConfig(NothingQuantized):
    """Nothing of a layer is rounded."""


@keras.saving.register_keras_serializable("sentei_tfmot")
class DefaultNBitQuantizeConfig(Default8BitQuantizeConfig):
    """Named weights and activations of a layer, and its output, in any number of bits.

    Args:
        weight_attrs: Names of the weights: `["kernel"]`.
        activation_attrs: Names of the activations: `["activation"]`.
        quantize_output: Whether the output is rounded.
        num_bits_weight: Of weights.
        num_bits_activation: Of activations and outputs.
    """

    per_axis = False

    def __init__(
        self,
        weight_attrs: list[str],
        activation_attrs: list[str],
        quantize_output: bool,
        num_bits_weight: int = 8,
        num_bits_activation: int = 8,
    ) -> None:
        super().__init__(weight_attrs, activation_attrs, quantize_output)
        self.num_bits_weight, self.num_bits_activation = num_bits_weight, num_bits_activation
        self.weight_quantizer = LastValueQuantizer(num_bits_weight, self.per_axis, True, True)
        self.activation_quantizer = MovingAverageQuantizer(num_bits_activation, False, False, False)

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments."""
        names = ("num_bits_weight", "num_bits_activation")
        return {**super().get_config(), **{name: getattr(self, name) for name in names}}


@keras.saving.register_keras_serializable("sentei_tfmot")
class DefaultNBitConvQuantizeConfig(DefaultNBitQuantizeConfig):
    """The same with a scale per output channel, for convolutions.

    Args:
        weight_attrs: Names of the weights: `["kernel"]`.
        activation_attrs: Names of the activations: `["activation"]`.
        quantize_output: Whether the output is rounded.
        num_bits_weight: Of weights.
        num_bits_activation: Of activations and outputs.
    """

    per_axis = True


class Default8BitQuantizeRegistry(QuantizeRegistry):
    """The configs of Keras' own layers.

    Args:
        disable_per_axis: Whether kernels have one scale.
    """

    def __init__(self, disable_per_axis: bool = False) -> None:
        self._disable_per_axis = disable_per_axis

    def supports(self, layer: Any) -> bool:
        """Whether a layer is one of Keras' own that integers can compute.

        Args:
            layer: A layer.
        """
        own = getattr(kl, type(layer).__name__, None) is type(layer)
        return own and rules.why_float(layer, 1) is None

    def get_quantize_config(self, layer: Any) -> Any:
        """The config of a layer.

        Args:
            layer: A layer that is supported.

        Raises:
            SenteiError: It is not (a ValueError).
        """
        if not self.supports(layer):
            raise SenteiError(
                "`get_quantize_config()` called on an unsupported layer "
                f"{type(layer).__name__}. Check if layer is supported by calling `supports()`, or "
                "write a QuantizeConfig for it."
            )
        role = rules.role(layer)[0]
        weights = list(rules.kernel_axes(layer))
        if role == "contraction":
            conv = not isinstance(layer, (kl.Dense, kl.EinsumDense)) and not self._disable_per_axis
            return self._config(conv, weights, ["activation"], False)
        if isinstance(layer, kl.Activation):
            return Default8BitActivationQuantizeConfig(role not in ("transparent", "function"))
        moves = role in ("same_input", "transparent", "lookup")
        return self._config(False, weights, [], not moves)

    def _config(
        self, per_axis: bool, weights: list[str], activations: list[str], output: bool
    ) -> Any:
        kind = Default8BitConvQuantizeConfig if per_axis else Default8BitQuantizeConfig
        return kind(weights, activations, output)


class DefaultNBitQuantizeRegistry(Default8BitQuantizeRegistry):
    """The same in any number of bits.

    Args:
        disable_per_axis: Whether kernels have one scale.
        num_bits_weight: Of weights.
        num_bits_activation: Of activations.
    """

    def __init__(
        self, disable_per_axis: bool = False, num_bits_weight: int = 8, num_bits_activation: int = 8
    ) -> None:
        super().__init__(disable_per_axis)
        self._bits = num_bits_weight, num_bits_activation

    def _config(
        self, per_axis: bool, weights: list[str], activations: list[str], output: bool
    ) -> Any:
        kind = DefaultNBitConvQuantizeConfig if per_axis else DefaultNBitQuantizeConfig
        return kind(weights, activations, output, *self._bits)
