"""Schemes: how layers without a `QuantizeConfig` of their own are quantized."""

from __future__ import annotations

import abc
from typing import Any

from sentei.quantization import Custom
from sentei.tfmot.quantization.registry import (
    Default8BitQuantizeRegistry,
    DefaultNBitQuantizeRegistry,
    QuantizeRegistry,
)


class QuantizeLayoutTransform(abc.ABC):
    """Changes a model before it is quantized. Subclass it to write your own."""

    @abc.abstractmethod
    def apply(self, model: Any, layer_quantize_map: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        """The changed model.

        Args:
            model: A Keras model without annotations.
            layer_quantize_map: From the names of layers to be quantized to
                `{"quantize_config": config}`; None for what is usual.

        Returns:
            The model and the map of its layers.
        """
        raise NotImplementedError("Must be implemented in subclasses.")


class Default8BitQuantizeLayoutTransform(QuantizeLayoutTransform):
    """Nothing: sentei sees for itself which layers are fused and which tensors share a scale."""

    def apply(self, model: Any, layer_quantize_map: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        """What it is given.

        Args:
            model: The model.
            layer_quantize_map: The map of its layers.
        """
        return model, layer_quantize_map


class DefaultNBitQuantizeLayoutTransform(Default8BitQuantizeLayoutTransform):
    """The same.

    Args:
        num_bits_weight: Not used.
        num_bits_activation: Not used.
    """

    def __init__(self, num_bits_weight: int = 8, num_bits_activation: int = 8) -> None:
        del num_bits_weight, num_bits_activation


class QuantizeScheme(abc.ABC):
    """How layers without a config are quantized. Subclass it to write your own."""

    @abc.abstractmethod
    def get_layout_transformer(self) -> Any:
        """A `QuantizeLayoutTransform`: what happens to the model before."""
        raise NotImplementedError("Must be implemented in subclasses.")

    @abc.abstractmethod
    def get_quantize_registry(self) -> Any:
        """A `QuantizeRegistry`: the configs of layers that have none."""
        raise NotImplementedError("Must be implemented in subclasses.")


def says_itself(scheme: Any, method: str) -> bool:
    """Whether a scheme has a method of the user's own, also one that extends a default scheme.

    Args:
        scheme: A `QuantizeScheme`.
        method: The method's name.
    """
    return getattr(type(scheme), method).__module__ != __name__


class Default8BitQuantizeScheme(QuantizeScheme):
    """LiteRT's 8 bits: int8 weights, on a scale per channel, and int8 activations.

    Args:
        disable_per_axis: Whether kernels have one scale.
    """

    def __init__(self, disable_per_axis: bool = False) -> None:
        self._disable_per_axis = disable_per_axis

    def get_layout_transformer(self) -> Any:
        """Nothing happens before."""
        return Default8BitQuantizeLayoutTransform()

    def get_quantize_registry(self) -> QuantizeRegistry:
        """The configs of layers that have none."""
        return Default8BitQuantizeRegistry(self._disable_per_axis)

    def native(self) -> Custom:
        """The scheme of `sentei.quantize` for it."""
        return Custom(per_channel=False if self._disable_per_axis else None)


class DefaultNBitQuantizeScheme(Default8BitQuantizeScheme):
    """Any number of bits.

    Args:
        disable_per_axis: Whether kernels have one scale.
        num_bits_weight: Of weights, 2 to 32.
        num_bits_activation: Of activations, 2 to 32.

    Raises:
        SenteiError: When they are no such numbers (a ValueError).
    """

    def __init__(
        self, disable_per_axis: bool = False, num_bits_weight: int = 8, num_bits_activation: int = 8
    ) -> None:
        super().__init__(disable_per_axis)
        self._num_bits_weight, self._num_bits_activation = num_bits_weight, num_bits_activation
        self.native()

    def get_layout_transformer(self) -> Any:
        """Nothing happens before."""
        return DefaultNBitQuantizeLayoutTransform()

    def get_quantize_registry(self) -> QuantizeRegistry:
        """The configs of layers that have none."""
        return DefaultNBitQuantizeRegistry(
            self._disable_per_axis, self._num_bits_weight, self._num_bits_activation
        )

    def native(self) -> Custom:
        """The scheme of `sentei.quantize` for it."""
        return Custom(
            self._num_bits_weight,
            self._num_bits_activation,
            per_channel=False if self._disable_per_axis else None,
        )
