"""`tfmot.quantization.keras.experimental.default_n_bit`."""

from sentei.tfmot.quantization.registry import DefaultNBitQuantizeRegistry
from sentei.tfmot.quantization.schemes import (
    DefaultNBitQuantizeLayoutTransform,
    DefaultNBitQuantizeScheme,
)

__all__ = [
    "DefaultNBitQuantizeLayoutTransform",
    "DefaultNBitQuantizeRegistry",
    "DefaultNBitQuantizeScheme",
]
