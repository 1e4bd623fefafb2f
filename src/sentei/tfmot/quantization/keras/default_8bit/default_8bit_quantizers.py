"""Quantizers by the names under which programs import them."""

from sentei.tfmot.quantization.registry import (
    Default8BitConvTransposeWeightsQuantizer,
    Default8BitConvWeightsQuantizer,
    Default8BitWeightsQuantizer,
)

__all__ = [
    "Default8BitConvTransposeWeightsQuantizer",
    "Default8BitConvWeightsQuantizer",
    "Default8BitWeightsQuantizer",
]
