"""What a user wants: bits, kinds of grids, how ranges are found and what training does to them."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import keras

from sentei.core.errors import SenteiError
from sentei.quantization.grid import Kind
from sentei.quantization.observers import OBSERVERS
from sentei.quantization.quantizer import RANGES

# "largest": the largest number of a channel fits exactly, whatever the weight becomes; "nearest":
# the least mean square error, and stays; "learned": starts as that, then follows the gradient.
WEIGHT_STEPS = ("largest", "nearest", "learned")


@keras.saving.register_keras_serializable("sentei")
@dataclass(frozen=True)
class Custom:
    """Which grids weights and activations get.

    The defaults are LiteRT's 8-bit specification.

    Attributes:
        weight_bits: Bits of the weights; None leaves them float.
        activation_bits: Bits of the activations; None leaves them float.
        symmetric: Whether activations have the zero point 0. Weights always do.
        per_channel: Whether kernels have a scale per output channel; None: all but clustered ones
            (`sentei.cluster`) of 8 bits, for under one scale a kernel of n values is n integers.
        narrow_range: Whether weights leave out the lowest integer.
        rounding: `"half_even"` or `"half_away"`.
        block: How many weights of a Dense kernel along its input axis share a scale, or None.
        observer: How calibration finds an activation's range: a key of `OBSERVERS`.
        ranges: What training does to a calibrated range: `"fixed"`, `"moving"`, `"learned"`.
        momentum: How much of the old range a moving one keeps at each step.
        frozen_after: After how many steps a moving range stays as it is; None: never.
        rate: The price of a kilobyte of coded weights, in units of the loss: weights, biases too,
            get one learned step each and training pays for their entropy. None: bits are free.
        weight_steps: How a weight's step sizes are found: one of `WEIGHT_STEPS`.
        batch_norm_frozen_after: After how many training steps batch normalization uses and keeps
            its moving statistics, as at inference; None: never. The model's own scheme counts.
    """

    weight_bits: int | None = 8
    activation_bits: int | None = 8
    symmetric: bool = False
    per_channel: bool | None = None
    narrow_range: bool = True
    rounding: str = "half_even"
    block: int | None = None
    observer: str = "mse"
    ranges: str = "fixed"
    momentum: float = 0.99
    frozen_after: int | None = None
    rate: float | None = None
    weight_steps: str = "largest"
    batch_norm_frozen_after: int | None = None

    def __post_init__(self) -> None:
        if self.observer not in OBSERVERS:
            raise SenteiError(
                f"`observer` must be one of {sorted(OBSERVERS)}. Received: {self.observer!r}."
            )
        if self.ranges not in RANGES:
            raise SenteiError(f"`ranges` must be one of {RANGES}. Received: {self.ranges!r}.")
        if self.rate is not None and (self.rate < 0 or self.weight_bits is None):
            raise SenteiError(
                "`rate`, the price of a kilobyte, must be at least 0, of weights that have bits. "
                f"Received: rate={self.rate}, weight_bits={self.weight_bits}."
            )
        if self.weight_steps not in WEIGHT_STEPS:
            raise SenteiError(
                f"`weight_steps` must be one of {WEIGHT_STEPS}. Received: {self.weight_steps!r}."
            )
        if self.rate is not None and self.activation_bits is not None:
            raise SenteiError(
                "`rate` is for float activations as yet: pass activation_bits=None with it. "
                f"Received: rate={self.rate}, activation_bits={self.activation_bits}."
            )
        for bits in (self.weight_bits, self.activation_bits):
            if bits is not None:
                Kind(bits=bits, rounding=self.rounding)

    def activation(self) -> Kind | None:
        """The kind of an activation's grid; None if activations stay float."""
        if self.activation_bits is None:
            return None
        return Kind(self.activation_bits, symmetric=self.symmetric, rounding=self.rounding)

    def weight(self, axis: int | None, matrix: bool = False) -> Kind | None:
        """The kind of a weight's grid; None if weights stay float.

        Args:
            axis: The axis of its output channels; None if it cannot have a scale for each.
            matrix: Whether it is a matrix `(in, out)`, which can be cut into blocks.
        """
        if self.weight_bits is None:
            return None
        axis = None if self.per_channel is False or self.rate is not None else axis
        return Kind(
            self.weight_bits,
            symmetric=True,
            narrow=self.narrow_range,
            axis=axis,
            block=self.block if matrix and axis is not None else None,
            rounding=self.rounding,
        )

    def get_config(self) -> dict[str, Any]:
        """The fields."""
        return asdict(self)

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Custom:
        """A scheme from its fields.

        Args:
            config: What `get_config` gave.
        """
        return cls(**config)


def Int8(**changes: Any) -> Custom:
    """LiteRT's 8-bit specification: int8 weights per channel, int8 activations.

    Args:
        **changes: Fields of `Custom` that shall be different.
    """
    return Custom(**changes)


def Int16x8(**changes: Any) -> Custom:
    """int8 weights with symmetric int16 activations.

    Args:
        **changes: Fields of `Custom` that shall be different.
    """
    return Custom(**{"activation_bits": 16, "symmetric": True, "observer": "minmax", **changes})


def Int4(**changes: Any) -> Custom:
    """int4 weights per channel (or per `block`), with int8 activations.

    Args:
        **changes: Fields of `Custom` that shall be different.
    """
    return Custom(**{"weight_bits": 4, **changes})


SCHEMES = {"int8": Int8, "int16x8": Int16x8, "int4": Int4}


def scheme_of(given: Any) -> Custom:
    """A scheme from what the user said.

    Args:
        given: A name or a scheme.

    Raises:
        SenteiError: It is neither.
    """
    if isinstance(given, Custom):
        return given
    if isinstance(given, str) and given in SCHEMES:
        return SCHEMES[given]()
    raise SenteiError(
        f"`scheme` must be one of {sorted(SCHEMES)} or a sentei.quantization.Custom(...). "
        f"Received: scheme={given!r}."
    )
