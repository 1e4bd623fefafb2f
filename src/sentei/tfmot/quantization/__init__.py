"""Quantization-aware training, by the old toolkit's names."""

from sentei.tfmot.quantization import keras

__all__ = ["keras"]
