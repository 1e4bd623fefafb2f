"""`tfmot.quantization.keras.experimental`."""

from sentei.tfmot.quantization.keras.experimental import default_n_bit

__all__ = ["default_n_bit"]
