"""`tfmot.quantization.keras.default_8bit`."""

from sentei.tfmot.quantization.keras.default_8bit import (
    default_8bit_quantize_configs,
    default_8bit_quantize_registry,
    default_8bit_quantizers,
)
from sentei.tfmot.quantization.registry import Default8BitQuantizeRegistry
from sentei.tfmot.quantization.schemes import (
    Default8BitQuantizeLayoutTransform,
    Default8BitQuantizeScheme,
)

__all__ = [
    "Default8BitQuantizeLayoutTransform",
    "Default8BitQuantizeRegistry",
    "Default8BitQuantizeScheme",
    "default_8bit_quantize_configs",
    "default_8bit_quantize_registry",
    "default_8bit_quantizers",
]
