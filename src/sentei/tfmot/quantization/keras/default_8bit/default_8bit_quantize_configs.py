"""Configs by the names under which programs import them."""

from sentei.tfmot.quantization.registry import Default8BitOutputQuantizeConfig, NoOpQuantizeConfig

__all__ = [
    "Default8BitOutputQuantizeConfig",
    "NoOpQuantizeConfig",
]
