"""`QuantizeConfig`: how one layer is quantized, in users' own words."""

from __future__ import annotations

import abc
from typing import Any

import keras

from sentei.tfmot.quantization.quantizers import FixedQuantizer


class QuantizeConfig(abc.ABC):
    """How a layer is quantized. Subclass it to say it for a layer of yours.

    The `layer` that the methods get stands for the layer: setting its weights and activations
    counts for the next call, and leaves the layer as it is.
    """

    @abc.abstractmethod
    def get_weights_and_quantizers(self, layer: Any) -> list[tuple[Any, Any]]:
        """The weights to be rounded, each with its `Quantizer`: `[(layer.kernel, quantizer)]`.

        Args:
            layer: The layer.
        """
        raise NotImplementedError("Must be implemented in subclasses.")

    @abc.abstractmethod
    def get_activations_and_quantizers(self, layer: Any) -> list[tuple[Any, Any]]:
        """The activations to be rounded: `[(layer.activation, quantizer)]`.

        Args:
            layer: The layer.
        """
        raise NotImplementedError("Must be implemented in subclasses.")

    @abc.abstractmethod
    def set_quantize_weights(self, layer: Any, quantize_weights: list[Any]) -> None:
        """Sets the rounded weights: `layer.kernel = quantize_weights[0]`.

        Args:
            layer: The layer.
            quantize_weights: In the order of `get_weights_and_quantizers`.
        """
        raise NotImplementedError("Must be implemented in subclasses.")

    @abc.abstractmethod
    def set_quantize_activations(self, layer: Any, quantize_activations: list[Any]) -> None:
        """Sets the rounding activations: `layer.activation = quantize_activations[0]`.

        Args:
            layer: The layer.
            quantize_activations: In the order of `get_activations_and_quantizers`.
        """
        raise NotImplementedError("Must be implemented in subclasses.")

    @abc.abstractmethod
    def get_output_quantizers(self, layer: Any) -> list[Any]:
        """The quantizer of the layer's output in a list; an empty one leaves it.

        Args:
            layer: The layer.
        """
        raise NotImplementedError("Must be implemented in subclasses.")

    @abc.abstractmethod
    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments."""
        raise NotImplementedError("QuantizeConfig should implement get_config().")

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> QuantizeConfig:
        """The config that `get_config` described.

        Args:
            config: What it gave.
        """
        return cls(**config)


class NothingQuantized(QuantizeConfig):
    """A config that rounds nothing: what others need not say again."""

    def get_weights_and_quantizers(self, layer: Any) -> list[tuple[Any, Any]]:
        """None."""
        return []

    def get_activations_and_quantizers(self, layer: Any) -> list[tuple[Any, Any]]:
        """None."""
        return []

    def set_quantize_weights(self, layer: Any, quantize_weights: list[Any]) -> None:
        """Does nothing."""

    def set_quantize_activations(self, layer: Any, quantize_activations: list[Any]) -> None:
        """Does nothing."""

    def get_output_quantizers(self, layer: Any) -> list[Any]:
        """None."""
        return []

    def get_config(self) -> dict[str, Any]:
        """Nothing."""
        return {}


class _Around(QuantizeConfig):
    """A config that changes another one."""

    quantize_config: Any

    def get_weights_and_quantizers(self, layer: Any) -> list[tuple[Any, Any]]:
        """The other config's."""
        return self.quantize_config.get_weights_and_quantizers(layer)

    def get_activations_and_quantizers(self, layer: Any) -> list[tuple[Any, Any]]:
        """The other config's."""
        return self.quantize_config.get_activations_and_quantizers(layer)

    def set_quantize_weights(self, layer: Any, quantize_weights: list[Any]) -> None:
        """As the other config."""
        self.quantize_config.set_quantize_weights(layer, quantize_weights)

    def set_quantize_activations(self, layer: Any, quantize_activations: list[Any]) -> None:
        """As the other config."""
        self.quantize_config.set_quantize_activations(layer, quantize_activations)

    def get_output_quantizers(self, layer: Any) -> list[Any]:
        """The other config's."""
        return self.quantize_config.get_output_quantizers(layer)


@keras.saving.register_keras_serializable("sentei_tfmot")
class OutputOnlyConfig(_Around):
    """Another config without its weights.

    Args:
        quantize_config: The other config.
    """

    def __init__(self, quantize_config: Any) -> None:
        self.quantize_config = quantize_config

    def get_weights_and_quantizers(self, layer: Any) -> list[tuple[Any, Any]]:
        """None."""
        return []

    def set_quantize_weights(self, layer: Any, quantize_weights: list[Any]) -> None:
        """Does nothing."""

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return {"quantize_config": keras.saving.serialize_keras_object(self.quantize_config)}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> OutputOnlyConfig:
        """The config that `get_config` described.

        Args:
            config: What it gave.
        """
        return cls(loaded(config["quantize_config"]))


@keras.saving.register_keras_serializable("sentei_tfmot")
class FixedQuantizeConfig(_Around):
    """Another config with a fixed range for activations and output.

    Args:
        config: The other config.
        num_bits: Bits of an integer.
        init_min: The lowest number to be represented.
        init_max: The highest.
        narrow_range: Whether the lowest integer is left out.
    """

    def __init__(
        self, config: Any, num_bits: int, init_min: float, init_max: float, narrow_range: bool
    ) -> None:
        self.config = self.quantize_config = config
        self.fixed_quantizer = FixedQuantizer(num_bits, init_min, init_max, narrow_range)

    def get_activations_and_quantizers(self, layer: Any) -> list[tuple[Any, Any]]:
        """The other config's activations."""
        pairs = super().get_activations_and_quantizers(layer)
        return [(activation, self.fixed_quantizer) for activation, _ in pairs]

    def get_output_quantizers(self, layer: Any) -> list[Any]:
        """The fixed quantizer, where the other config has any."""
        return [self.fixed_quantizer for _ in super().get_output_quantizers(layer)]

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments."""
        serialized = keras.saving.serialize_keras_object(self.config)
        return {"config": serialized, **self.fixed_quantizer.get_config()}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> FixedQuantizeConfig:
        """The config that `get_config` described.

        Args:
            config: What it gave.
        """
        return cls(**{**config, "config": loaded(config["config"])})


def loaded(config: Any) -> Any:
    """A QuantizeConfig, from itself or from its serialized form.

    Args:
        config: Either; None is none.
    """
    return keras.saving.deserialize_keras_object(config) if isinstance(config, dict) else config
