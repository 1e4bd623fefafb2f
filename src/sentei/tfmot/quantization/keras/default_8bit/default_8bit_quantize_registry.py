"""The registry and its configs by the names under which programs import them."""

from sentei.tfmot.quantization.registry import (
    Default8BitActivationQuantizeConfig,
    Default8BitConvQuantizeConfig,
    Default8BitConvTransposeQuantizeConfig,
    Default8BitQuantizeConfig,
    Default8BitQuantizeRegistry,
)

__all__ = [
    "Default8BitActivationQuantizeConfig",
    "Default8BitConvQuantizeConfig",
    "Default8BitConvTransposeQuantizeConfig",
    "Default8BitQuantizeConfig",
    "Default8BitQuantizeRegistry",
]
